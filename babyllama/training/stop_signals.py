"""Signals that stop a training: Ctrl-C, SIGTERM, a closed terminal, and SIGUSR1 for the time limits of clusters.

The first asks for a checkpoint at the end of the step, and the process ends with 128 + the signal's number (130, 143;
SIGHUP: 129; SIGUSR1: 138 on Linux). A second Ctrl-C or SIGTERM ends the process at once, also where the main thread
waits inside a call that never returns. Where SIGHUP is ignored (`nohup`), it stays ignored. A cluster sends SIGUSR1
ahead of the limit, maybe several times, and SIGTERM when it is reached: neither may cut off the checkpoint that the
first one asked for.

With several processes a signal can reach one of them only, or some a step later: `agreed` is what all decided at the
end of a step. Where another process is dead, that decision never comes; a SIGTERM (torchrun sends one to those who are
left) then ends the process after PATIENCE seconds, with one line and without a checkpoint, which could not be whole.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from babyllama.common.console import warn

PATIENCE = 25.0  # torchrun and Slurm kill 30 s after SIGTERM
STUCK = 1.0  # the main thread has so long to end by itself after a second signal
URGENT = (signal.SIGINT, signal.SIGTERM)
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK")  # Windows has no SIGHUP and SIGUSR1, but Ctrl-Break


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
                if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
            self._listen_from_now()
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
        twice, urgent = self._urgent, number in URGENT
        self._urgent |= urgent
        if twice and urgent:
            os._exit(128 + number)
        if self.received:
            return
        self.received = number
        name = signal.Signals(number).name
        again = "once more" if urgent else "SIGTERM twice"
        warn(f"{name}: finishing the step, then a checkpoint; {again} ends at once")

    def watch(self, on_silence: Callable[[int], None]) -> None:
        """End by `on_silence(number)` where a SIGTERM is not followed by an agreement within PATIENCE.

        Python's own handlers wait for the main thread, which may be inside a collective that never returns; the wakeup
        file descriptor is written to at once, and a thread reads it.
        """
        self.on_silence = on_silence

    def _listen_from_now(self) -> None:
        if self._pipe is not None or not self._before or os.name == "nt":
            return
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        os.register_at_fork(after_in_child=self._forget)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(self._pipe[0],), daemon=True).start()

    def _forget(self) -> None:
        """In a forked child (a loader's worker): Ctrl-C reaches it, too, and must not count twice here."""
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            self._pipe = None

    def _listen(self, descriptor: int) -> None:
        seen = 0
        while data := os.read(descriptor, 64):
            seen += sum(number in URGENT for number in data)
            if seen > 1:  # the handler says so too, unless the main thread is stuck
                time.sleep(STUCK)
                os._exit(128 + next(number for number in reversed(data) if number in URGENT))
            if signal.SIGTERM in data:
                timer = threading.Timer(PATIENCE, self._give_up)
                timer.daemon = True
                timer.start()
        os.close(descriptor)

    def _give_up(self) -> None:
        if not self.agreed and self.on_silence is not None:
            self.on_silence(signal.SIGTERM)
