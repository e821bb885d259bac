"""Disk space: looked at before a training starts, and recognised when it ends in the middle."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from babyllama.common.errors import ConfigError, DiskError
from babyllama.common.units import human_bytes

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_MESSAGES = (
    "no space left",
    "not enough space on the disk",  # Windows
    "disk quota",
    "file too large",
    "pytorchstreamwriter failed",
    "enforce fail at inline_container",
)
HEAD = 65_536  # bytes by which a file is known as one of ours
RESERVE = 50_000_000  # logs, report, tokenizer


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


def check_writable(path: Path, way_out: str = "Choose another --output-dir.") -> None:
    """Make the folder and try to write in it.

    Args:
        path: The folder.
        way_out: What the user can do, as a sentence.

    Raises:
        DiskError: It cannot be made or written.
    """
    probe = path / f".write_probe_{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror or error}. {way_out}") from error


def check_output_folder(path: Path, flag: str = "--output") -> None:
    """Make the folder of a command's results and try to write in it, before anything is computed.

    Args:
        path: The folder.
        flag: The flag that named it.

    Raises:
        ConfigError: It is a file.
        DiskError: It cannot be made or written.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{flag}: {path}: a file; a folder is needed")
    check_writable(path, f"Choose another {flag}.")


def check_output_file(
    path: Path, is_ours: Callable[[bytes], bool], inputs: Iterable[Path] = (), flag: str = "--output"
) -> None:
    """See, before anything is computed, that a command's file can be written and replaces nothing but its like.

    Args:
        path: The file.
        is_ours: Whether a file that begins so was written by this command.
        inputs: Files that the command reads.
        flag: The flag that named it.

    Raises:
        ConfigError: It is a folder, one of the inputs, or a file that this command did not write.
        DiskError: Its folder cannot be made or written.
    """
    if path.is_dir():
        raise ConfigError(f"{flag}: {path}: a folder; a file is written")
    if path.exists():
        if any(other.exists() and path.samefile(other) for other in inputs):
            raise ConfigError(f"{flag}: {path}: is itself read by this command: choose another name")
        with path.open("rb") as handle:
            head = handle.read(HEAD)
        if not is_ours(head):
            raise ConfigError(f"{flag}: {path}: there already, and not of this command's writing: choose another name")
    check_writable(path.parent, f"Choose another {flag}.")


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
