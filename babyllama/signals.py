"""Ctrl-C and SIGTERM: the first asks for a checkpoint at the end of the step, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from babyllama.console import warn


class StopSignals:
    """While the block runs, signals are noted instead of raising.

    Attributes:
        received: Number of the first signal, 0 before.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not let us listen
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number
        name = signal.Signals(number).name
        warn(f"{name}: finishing the step, then a checkpoint; once more ends at once")
