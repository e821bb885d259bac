"""Spins of OpenMP's threads beside a busy program: when they are shortened, that they are, and that no bit changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from babyllama.training.timing import short_spins
from babyllama.training.timing.short_spins import ShortSpins, queued_seconds

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="how libgomp's threads wait is changed on Linux only")


class Machine:
    """A clock, and threads that have stood in a queue for some of its seconds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.folder, self.stood = 0.0, folder, [0.0, 0.0]
        monkeypatch.setattr(short_spins, "TASKS", folder)
        monkeypatch.setattr(short_spins.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        self.go_on(0.0)

    def go_on(self, seconds: float, *shares: float) -> None:
        """Let time go by, of which each thread stood a share in a queue."""
        self.now += seconds
        for number, share in enumerate(shares or (0.0, 0.0)):
            self.stood[number] += seconds * share
            task = self.folder / str(100 + number)
            task.mkdir(exist_ok=True)
            text = f"{int(1e9 * (1 + self.now))} {int(1e9 * self.stood[number])} 7\n"
            (task / "schedstat").write_text(text, encoding="ascii")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Two threads on two cores."""
    return Machine(tmp_path, monkeypatch)


def test_spins_are_short_while_another_program_is_busy(machine: Machine) -> None:
    spins = ShortSpins(2)
    seen = []
    for share in (0.01, 0.3, 0.3, 0.01, 0.3):
        machine.go_on(0.6, share, share)
        spins.look()
        seen.append(spins.short)
    spins.end()
    assert seen == [False, True, True, False, True]
    assert not spins.short


def test_a_moment_in_the_queue_decides_nothing(machine: Machine) -> None:
    spins = ShortSpins(2)
    machine.go_on(0.3, 0.5, 0.5)  # less than a window
    spins.look()
    assert not spins.short
    machine.go_on(5.0, 0.0, 0.0)  # 0.3 of 5.3 s
    spins.look()
    assert not spins.short


@pytest.mark.parametrize("threads", [1, 3])
def test_one_thread_or_another_number_than_cores_is_left_alone(machine: Machine, threads: int) -> None:
    spins = ShortSpins(threads)
    machine.go_on(2.0, 0.9, 0.9)
    spins.look()
    assert not spins.short


def test_a_kernel_that_does_not_count_is_left_alone(machine: Machine) -> None:
    for task in machine.folder.iterdir():
        (task / "schedstat").write_text("0 0 0\n", encoding="ascii")
    assert queued_seconds() is None
    assert not ShortSpins(2).possible


def test_a_thread_that_ends_meanwhile_is_left_out(machine: Machine) -> None:
    machine.go_on(1.0, 0.5, 0.5)
    (machine.folder / "102").mkdir()  # listed, and gone when it is read
    assert queued_seconds() == pytest.approx(1.0)


PRODUCTS = """
import hashlib, os, sys, time
import torch
from babyllama.training.timing.short_spins import ShortSpins
torch.set_num_threads(2)
spins = ShortSpins(2)
def sums():
    rows = torch.randn(300, 700, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weight = torch.randn(700, 500, generator=torch.Generator().manual_seed(2), requires_grad=True)
    torch.nn.functional.gelu(rows @ weight).logsumexp(1).sum().backward()
    return hashlib.sha256(rows.grad.numpy().tobytes() + weight.grad.numpy().tobytes()).hexdigest()
threads = lambda: len(os.listdir("/proc/self/task"))
found = [(sums(), threads())]
spins.begin()
found.append((sums(), threads()))
spins.end()
time.sleep(0.2)
found.append((sums(), threads()))
print(*(f"{digest}:{number}" for digest, number in found))
"""


@LINUX
def test_no_bit_changes_and_the_helper_goes_with_its_threads() -> None:
    variables = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", PRODUCTS]
    done = subprocess.run(command, env=variables, capture_output=True, encoding="utf-8", check=True, timeout=120)
    digests, numbers = zip(*(item.split(":") for item in done.stdout.split()), strict=True)
    before, during, after = map(int, numbers)
    assert len(set(digests)) == 1
    assert during == before + 2, "the helper and the one thread that it shares its loop with"
    assert after == before
