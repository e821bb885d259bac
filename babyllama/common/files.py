"""Files that are either whole or absent, and JSON that every parser reads.

`json.dumps` writes a bare NaN, which is not JSON: here a number that is not finite becomes null. A file is written
under a temporary name, flushed to the disk and renamed, so that a kill at any moment leaves the old file or the new
one, never half of it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there replaces `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_file(temporary)
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def fsync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(path: Path) -> None:
    """Flush a folder's entries (the names after a rename); a no-op where the system has no such call."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write text as UTF-8 with LF line ends, whole or not at all."""
    with atomic_path(path) as temporary:
        # A file name whose bytes are not UTF-8 holds lone surrogates: written as \udcXX, which is JSON's own spelling.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def finite(value: Any) -> Any:
    """Copy plain data with every number that is not finite replaced by None, NumPy scalars made plain."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(value: Any, indent: int | None = 2) -> str:
    """Serialize strictly (no NaN, no Infinity)."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON, whole or not at all."""
    write_text_atomic(path, to_json(value) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
