"""Two SIGTERMs end anything, also a main thread that waits inside a call which no signal interrupts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from babyllama.training.stop_signals import StopSignals

STUCK = """
import ctypes
from babyllama.training.stop_signals import StopSignals

system = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
with StopSignals():
    print("ready", flush=True)
    system.pthread_mutex_lock(mutex)
    system.pthread_mutex_lock(mutex)  # waits for itself, for ever
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a mutex of glibc")
def test_a_second_sigterm_ends_a_main_thread_that_waits_for_ever() -> None:
    child = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, encoding="utf-8")
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.3)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert child.poll() is None, "the first asks for a checkpoint"
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        child.kill()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has neither signal")
@pytest.mark.parametrize(
    ("name", "way"), [("SIGTERM", "once more"), ("SIGHUP", "SIGTERM twice"), ("SIGUSR1", "SIGTERM twice")]
)
def test_the_line_says_what_ends_at_once(name: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A second SIGUSR1 or SIGHUP is not listened to, and the line said that it ends."""
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        with StopSignals() as signals:
            for _ in range(1 if way == "once more" else 2):
                signal.raise_signal(getattr(signal, name))
        assert signals.received == getattr(signal, name)
    finally:
        signal.signal(getattr(signal, name), before)
    assert capsys.readouterr().err == f"{name}: finishing the step, then a checkpoint; {way} ends at once\n"
