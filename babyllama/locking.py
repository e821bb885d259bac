"""One training per run folder: a file lock that the system releases when the process dies, however it dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from babyllama.console import is_main_process
from babyllama.errors import ConfigError, DiskError

LOCK = ".lock"
OWNER = ".lock_owner"


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run folder (made if it is not there).

    Raises:
        ConfigError: Another process holds it; names its pid, host and start.
        DiskError: The folder cannot be written.
    """
    from filelock import FileLock, Timeout

    if not is_main_process():
        yield
        return
    existed = run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(run_dir / LOCK), timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"{run_dir}: another training is running in this folder ({_owner(run_dir)}). "
            "Wait for it, or choose another --model_name."
        ) from None
    except OSError as error:
        raise DiskError(
            f"{run_dir}: cannot be written: {error.strerror or error}. Choose another --output-dir."
        ) from error
    try:
        (run_dir / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()} since {_now()}\n")
        yield
    finally:
        (run_dir / OWNER).unlink(missing_ok=True)
        lock.release()
        (run_dir / LOCK).unlink(missing_ok=True)
        if not existed and not any(run_dir.iterdir()):
            run_dir.rmdir()


def _owner(run_dir: Path) -> str:
    try:
        return (run_dir / OWNER).read_text().strip() or "owner unknown"
    except OSError:
        return "owner unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
