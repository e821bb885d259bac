"""Disk space: looked at before a training starts, and recognised when it ends in the middle."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from babyllama.common.errors import DiskError
from babyllama.common.units import human_bytes

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_MESSAGES = (
    "no space left",
    "disk quota",
    "file too large",
    "pytorchstreamwriter failed",
    "enforce fail at inline_container",
)
RESERVE = 50_000_000  # logs, report, tokenizer


def checkpoint_bytes(num_parameters: int) -> int:
    """Return bytes of one checkpoint: float32 weights and two moments; Muon keeps one moment less for its matrices."""
    return num_parameters * 12


def check_space(path: Path, needed: int, what: str, way_out: str = "choose another --output-dir") -> None:
    """Refuse to start what cannot end.

    Raises:
        DiskError: With both numbers.
    """
    free = shutil.disk_usage(path).free
    if free < needed + RESERVE:
        raise DiskError(
            f"{path}: {human_bytes(needed)} needed for {what}, {human_bytes(free)} free. "
            f"Free some space, or {way_out}."
        )


def check_writable(path: Path) -> None:
    """Make the folder and try to write in it.

    Raises:
        DiskError: It cannot be made or written.
    """
    probe = path / f".write_probe_{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written: {error.strerror or error}. Choose another --output-dir."
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether an exception, or one that caused it, says that the disk (or a quota, or a size limit) is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        if any(text in str(seen).lower() for text in FULL_MESSAGES):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
