"""Processes that start together and are timed one at a time: what is long is starting, what is timed is seconds.

A training imports, prepares and compiles for half a minute before its first steps can be timed. Where a machine is paid
by the minute, all variants start at once; each waits until all stand before their timed steps, and then they take
turns, several windows each, so that nothing but waiting runs beside what is timed.
"""

from __future__ import annotations

import time
from pathlib import Path

from filelock import FileLock


class Turns:
    """One process's place among those that take turns.

    Args:
        folder: Folder that the processes share.
        name: This process's name there.
        processes: How many stand before their timed steps before the first may run.
        limit: Seconds after which those that are there begin without the others.
    """

    def __init__(self, folder: Path, name: str, processes: int, limit: float) -> None:
        self.folder, self.name, self.processes, self.limit = folder, name, processes, limit
        self._lock = FileLock(str(folder / "turn.lock"), poll_interval=0.02)

    def arrive(self) -> None:
        """Say that this process is ready, and wait for the others."""
        (self.folder / f"{self.name}.ready").touch()
        deadline = time.monotonic() + self.limit
        while len(list(self.folder.glob("*.ready"))) < self.processes and time.monotonic() < deadline:
            time.sleep(0.05)

    def begin(self) -> None:
        """Wait for the turn."""
        self._lock.acquire()

    def end(self) -> None:
        """Let the next one run, and stand back so long that it does."""
        self._lock.release()
        time.sleep(0.1)
