"""Results in order, errors as they are, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from babyllama.common.errors import DataError
from babyllama.common.process_pool import WorkerLost, ordered_map, worker_count

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


@pytest.mark.parametrize("processes", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_results_come_in_order_and_the_function_need_not_be_pickled(processes: int, count: int) -> None:
    offset = 100

    def late_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number + offset

    assert list(ordered_map(late_first, range(count), processes)) == [n + 100 for n in range(count)]


def test_few_items_are_drawn_ahead() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    results = ordered_map(str, items(), 2)
    assert next(results) == "0"
    assert len(drawn) <= 5
    results.close()
    assert len(drawn) <= 5


@linux
def test_an_error_comes_through_as_it_is() -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise DataError("file x: line 3: bad")
        return number

    with pytest.raises(DataError, match="line 3: bad"):
        list(ordered_map(fail, range(9), 2))


@linux
def test_a_killed_worker_is_one_line() -> None:
    def die(number: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(WorkerLost, match="run the same command again"):
        list(ordered_map(die, range(9), 2))


@linux
def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "import os, time\nfrom babyllama.common.process_pool import ordered_map\n"
        "def work(n):\n    os.write(1, b'%d\\n' % os.getpid())\n    time.sleep(30)\n"  # one write a line
        "list(ordered_map(work, range(4), 2))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_processes_are_the_cores_or_what_is_asked_for() -> None:
    assert worker_count(3) == (3 if sys.platform == "linux" else 1)
    assert 1 <= worker_count(None) <= (os.cpu_count() or 1)
