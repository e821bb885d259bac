"""Signals that stop a training: Ctrl-C, SIGTERM, and SIGUSR1 for the time limits of clusters.

The first asks for a checkpoint at the end of the step, and the process ends with 128 + the signal's number (130, 143;
SIGUSR1: 138 on Linux). A second Ctrl-C or SIGTERM ends the process at once. A cluster sends SIGUSR1 ahead of the limit,
maybe several times, and SIGTERM when it is reached: neither may cut off the checkpoint that the first one asked for.

With several processes a signal can reach one of them only, or some a step later: `agreed` is what all decided at the
end of a step. Where another process is dead, that decision never comes; a SIGTERM (torchrun sends one to those who are
left) then ends the process after PATIENCE seconds, with one line and without a checkpoint, which could not be whole.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from babyllama.common.console import warn

PATIENCE = 25.0  # torchrun and Slurm kill 30 s after SIGTERM
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1


class StopSignals:
    """While the block runs, signals are noted instead of raising.

    Attributes:
        received: Number of the first signal that reached this process, 0 before.
        agreed: Number of the signal on which all processes stop, 0 before; set at the end of a step.
        on_silence: Called where the processes do not agree within PATIENCE after a SIGTERM; None: wait on.
    """

    def __init__(self) -> None:
        self.received = 0
        self.agreed = 0
        self.on_silence: Callable[[int], None] | None = None
        self._urgent = False
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not let us listen
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self.on_silence = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[1])  # the watching thread reads the end and goes
            self._pipe = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, cluster = self._urgent, number == getattr(signal, "SIGUSR1", None)
        self._urgent |= not cluster
        if again and not cluster:
            os._exit(128 + number)
        if self.received:
            return
        self.received = number
        name = signal.Signals(number).name
        warn(f"{name}: finishing the step, then a checkpoint; once more ends at once")

    def watch(self, on_silence: Callable[[int], None]) -> None:
        """End by `on_silence(number)` where a SIGTERM is not followed by an agreement within PATIENCE.

        Python's own handlers wait for the main thread, which may be inside a collective that never returns; the wakeup
        file descriptor is written to at once, and a thread reads it.
        """
        if self._pipe is not None or not self._before or os.name == "nt":
            return
        self.on_silence = on_silence
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(self._pipe[0],), daemon=True).start()

    def _listen(self, descriptor: int) -> None:
        while data := os.read(descriptor, 64):
            if signal.SIGTERM in data:
                timer = threading.Timer(PATIENCE, self._give_up)
                timer.daemon = True
                timer.start()
        os.close(descriptor)

    def _give_up(self) -> None:
        if not self.agreed and self.on_silence is not None:
            self.on_silence(signal.SIGTERM)
