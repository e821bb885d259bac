"""Peak memory of this process and all below it, sampled from /proc (Linux)."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

SECONDS = 0.2


def family(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1]
                )
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def megabytes(pid: int) -> tuple[float, float]:
    """Resident and proportional memory of a process, MB; zeros where it is gone."""
    with suppress(OSError):
        rows = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
        )
        return int(rows["Rss"].split()[0]) / 1000, int(rows["Pss"].split()[0]) / 1000
    return 0.0, 0.0


class MemoryWatch:
    """Samples while a block runs.

    Attributes:
        resident: Highest sum of resident memory, MB: pages that two processes share count twice.
        proportional: Highest sum in which a shared page counts once.
    """

    def __init__(self) -> None:
        self.resident = self.proportional = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(SECONDS):
            rows = [megabytes(pid) for pid in family(os.getpid())]
            self.resident = max(self.resident, sum(row[0] for row in rows))
            self.proportional = max(self.proportional, sum(row[1] for row in rows))

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
