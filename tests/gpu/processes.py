"""A row's process: started fresh, or forked from one that has imported everything and done nothing with it.

On a GPU each row is a fresh interpreter, because nobody knows what a library touched before a fork. On a CPU forking
saves the five seconds of imports that a small row would mostly consist of.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from tests.gpu.rows import Spec

ROOT = Path(__file__).resolve().parent.parent.parent


class Child(Protocol):
    """What both kinds can do."""

    def wait(self, seconds: float) -> int | None:
        """Wait for its end and give its exit code; subprocess.TimeoutExpired where it takes longer."""

    def kill(self) -> None:
        """End it with the processes that it started itself."""


def prepare_environment(spec: Spec) -> None:
    """What all rows inherit. The caches lie in OUT, so that they can be kept from one machine to the next."""
    cache = Path(os.environ.get("BABYLLAMA_CACHE", spec.out / "cache")).resolve()
    ours = {
        "BABYLLAMA_CACHE": str(cache),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    ours |= {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    if spec.quick and not spec.cuda:
        ours["OMP_NUM_THREADS"] = "1"  # two rows at once
    os.environ.update(ours)


class Fresh:
    """A new interpreter.

    Args:
        paths: Spec, result, log.
    """

    def __init__(self, paths: list[str]) -> None:
        command = [sys.executable, "-m", "tests.gpu.child", *paths[:2]]
        with open(paths[2], "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def wait(self, seconds: float) -> int:
        """Wait for its end."""
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it with the trainings that it started itself: it leads a session of its own."""
        kill_session(self._process.pid) if hasattr(os, "killpg") else self._process.kill()
        self._process.wait()


class Forked:
    """A fork of a server that holds the imports.

    Args:
        paths: Spec, result, log.
    """

    def __init__(self, paths: list[str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.gpu.imports"])
        self._process = context.Process(target=forked_row, args=paths)
        self._process.start()

    def wait(self, seconds: float) -> int | None:
        """Wait for its end."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("row", seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """End it with the trainings that it started itself."""
        kill_session(self._process.pid)
        self._process.join()


def forked_row(spec_path: str, result_path: str, log_path: str) -> None:
    """What a forked row does: a session of its own, output into its log, the row."""
    os.setsid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from tests.gpu.child import do_row

    do_row(Path(spec_path), Path(result_path))
    sys.stdout.flush()
    sys.stderr.flush()


def kill_session(pid: int | None) -> None:
    """SIGKILL to a session of ours; one that has ended already is none."""
    try:
        os.killpg(pid or 0, signal.SIGKILL) if pid else None
    except ProcessLookupError:
        return
