"""Beside another busy program: threads that wait for each other give their core up at once.

The threads of a parallel loop wait at its end for the slowest. A waiting thread that spins is the faster one on a quiet
machine, and beside a busy process it keeps a core from the thread that it waits for: a training of two threads on two
cores fell to 30 to 40% of its quiet speed. Where threads sleep after 100 spins it keeps 54 to 60%, what one core gives
(docs/performance.md, tests/speed/busy_speed.py). So spins are long on a quiet machine and short beside a busy program.

How long a thread spins is fixed when GNU's libgomp is loaded. But while there are more of its threads than cores, it
spins 100 times at most (`gomp_throttled_spin_count_var`, libgomp/env.c), and a helper thread that has taken part in a
parallel loop of its own makes them more. Whether another program is busy Linux says: how long threads have stood in a
core's queue (`/proc/self/task/*/schedstat`). The number of threads stays, so no bit of the weights changes.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TASKS = Path("/proc/self/task")
WINDOW_SECONDS = 0.5
QUEUED = (
    0.2  # share of the time that all threads together stood in a queue; beside a busy process 0.5 to 0.9, else 0.02
)


class ShortSpins:
    """Shortens the spins of this process's OpenMP threads for as long as another program is busy.

    Args:
        threads: Threads that compute.
    """

    def __init__(self, threads: int) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        self.possible = 1 < threads == cores and queued_seconds() is not None
        self._end = threading.Event()
        self._helper: threading.Thread | None = None
        self._window()

    @property
    def short(self) -> bool:
        """Whether spins are short now."""
        return self._helper is not None

    def look(self) -> None:
        """Look at the queue, at most twice a second, and shorten or lengthen the spins."""
        wall = time.perf_counter() - self._since
        if not self.possible or wall < WINDOW_SECONDS:
            return
        queued = ((queued_seconds() or 0.0) - self._queued) / wall
        if queued > QUEUED:
            self.begin()
        else:
            self.end()
        self._window()

    def begin(self) -> None:
        """Start the helper and wait until it has taken part in a loop."""
        if self.short:
            return
        taken_part = threading.Event()
        self._end.clear()

        def run() -> None:
            torch.ones(1 << 18).add_(1)  # large enough for torch to use all threads
            taken_part.set()
            self._end.wait()

        self._helper = threading.Thread(target=run, name="short-spins", daemon=True)
        self._helper.start()
        taken_part.wait(5)

    def end(self) -> None:
        """End the helper, and with it the threads of its loop."""
        if self._helper is not None:
            self._end.set()
            self._helper.join(5)
            self._helper = None

    def _window(self) -> None:
        self._since = time.perf_counter()
        self._queued = queued_seconds() or 0.0 if self.possible else 0.0


def queued_seconds() -> float | None:
    """Return how long the threads of this process could have run and stood in a core's queue, in seconds of them all.

    None where the kernel does not count it (no Linux, or one built without CONFIG_SCHED_INFO).
    """
    ran, queued = 0, 0
    try:
        tasks = list(TASKS.iterdir())
    except OSError:
        return None
    for task in tasks:
        try:
            running, waiting, _ = (task / "schedstat").read_text(encoding="ascii").split()
        except (OSError, ValueError):  # a thread that has just ended
            continue
        ran, queued = ran + int(running), queued + int(waiting)
    return queued / 1e9 if ran else None


class WatchSpins(TrainerCallback):
    """Looks after each step of a training whether another program is busy.

    Args:
        threads: Threads that compute.
    """

    def __init__(self, threads: int) -> None:
        self.spins = ShortSpins(threads)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Look at the queue."""
        self.spins.look()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Leave spins as they were."""
        self.spins.end()
