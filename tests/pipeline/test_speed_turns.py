"""Processes that take turns (tests/speed/turns.py): nobody begins before all are there, and never two at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.speed.turns import Turns


def test_all_wait_for_the_last_and_run_one_at_a_time(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    def one(number: int) -> None:
        turns = Turns(tmp_path, str(number), processes=3, limit=30)
        time.sleep(0.2 * number)
        told.append(("ready", str(number)))
        turns.arrive()
        for _ in range(2):
            turns.begin()
            told.append(("begin", str(number)))
            time.sleep(0.02)
            told.append(("end", str(number)))
            turns.end()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(3)))
    assert {what for what, _ in told[:3]} == {"ready"}
    windows = told[3:]
    assert len(windows) == 12
    for (begin, a), (end, b) in zip(windows[::2], windows[1::2], strict=True):
        assert (begin, end, a) == ("begin", "end", b)


def test_a_process_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    turns = Turns(tmp_path, "0", processes=2, limit=0.1)
    started = time.monotonic()
    turns.arrive()
    assert 0.1 <= time.monotonic() - started < 10
    turns.begin()
    turns.end()
