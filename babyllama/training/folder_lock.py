"""One training per run folder: a file lock that the system releases when the process dies, however it dies.

With several processes rank 0 holds it, and a refusal there ends them all.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from babyllama.common import distributed
from babyllama.common.distributed import is_main_process
from babyllama.common.errors import ConfigError, DiskError
from babyllama.common.files import ON_WINDOWS

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"
OWNER = ".lock_owner"


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run folder (made if it is not there).

    Raises:
        ConfigError: Another process holds it; names its pid, host and start.
        DiskError: The folder cannot be written.
    """
    existed = run_dir.exists()
    with distributed.raise_on_all_ranks():
        lock = _take(run_dir) if is_main_process() else None
    try:
        yield
    finally:
        if lock is not None:
            (run_dir / OWNER).unlink(missing_ok=True)
            # Unlinked while it is held, so that who has opened it in the meantime sees that it is gone. Windows unlinks
            # no open file, but then nobody can have it open afterwards.
            with suppress(OSError):
                (run_dir / LOCK).unlink()
            lock.release()
            if ON_WINDOWS:
                with suppress(OSError):
                    (run_dir / LOCK).unlink()
            if not existed and not any(run_dir.iterdir()):
                run_dir.rmdir()


def _take(run_dir: Path) -> BaseFileLock:
    from filelock import FileLock, Timeout

    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(run_dir / LOCK), timeout=0)
        lock.acquire()
        (run_dir / OWNER).write_text(
            f"process {os.getpid()} on {socket.gethostname()} since {_now()}\n", encoding="utf-8"
        )
        distributed.clear_report_mark(run_dir)
    except Timeout:
        raise ConfigError(
            f"{run_dir}: another training is running in this folder ({_owner(run_dir)}). "
            "Wait for it, or choose another --model_name."
        ) from None
    except OSError as error:
        raise DiskError(
            f"{run_dir}: cannot be written: {error.strerror or error}. Choose another --output-dir."
        ) from error
    return lock


def _owner(run_dir: Path) -> str:
    try:
        return (run_dir / OWNER).read_text(encoding="utf-8").strip() or "owner unknown"
    except OSError:
        return "owner unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
