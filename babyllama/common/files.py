"""Files and folders that are either whole or absent, and JSON that every parser reads.

`json.dumps` writes a bare NaN, which is not JSON: here a number that is not finite becomes null. A file is written
under a temporary name, flushed to the disk and renamed, so that a kill at any moment leaves the old file or the new
one, never half of it.

A folder is built under a temporary name in the same way (`Building`). One that counts only while every file in it is as
it was written is sealed: `seal` flushes the files and writes a manifest of their sizes and digests last, so that a
folder without a manifest, or that does not agree with it, is not whole. Checkpoints and prepared text both are sealed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

ON_WINDOWS = os.name == "nt"
SELF = "sha256_of_the_rest"
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5)  # seconds


class NotWhole(ValueError):
    """A sealed folder is not what was written; the message names the first file that tells."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there replaces `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        fsync_file(temporary)
        replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def replace(source: str | Path, target: str | Path) -> None:
    """Rename a file or a folder; what stood at the target and can be replaced is replaced.

    Windows refuses while another program has it open (a virus scanner, an indexer, an evaluation that reads a
    milestone): there it is tried again for three seconds.

    Raises:
        PermissionError: It is still open, or may not be renamed.
    """
    for pause in PAUSES if ON_WINDOWS else ():
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(pause)
    return os.replace(source, target)


def free_name(path: Path) -> Path:
    """Return the path with the first number behind it that nothing has: `checkpoint-3.damaged` -> `...damaged-1`."""
    number = 1
    while (found := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return found


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


def finite(value: object) -> Any:  # noqa: ANN401 - JSON
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


def to_json(value: object, indent: int | None = 2) -> str:
    """Serialize strictly (no NaN, no Infinity)."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: str | Path, value: object) -> None:
    """Write strict JSON, whole or not at all."""
    write_text_atomic(path, to_json(value) + "\n")


def read_json(path: str | Path) -> Any:  # noqa: ANN401 - JSON
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def crc32_of(path: Path) -> int:
    """Return the CRC-32 of a file's content: finds truncation and flipped bits, about twice as fast as SHA-256."""
    value = 0
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


DIGESTS: dict[str, Callable[[Path], Any]] = {"sha256": sha256_of, "crc32": crc32_of}
"""What a manifest may hold of a file's content."""


def seal(folder: Path, name: str, facts: dict[str, Any], digest: str = "sha256") -> dict[str, Any]:
    """Declare a folder whole: flush its files and its entries, then write its manifest.

    Args:
        folder: Folder whose every file is written.
        name: Name of the manifest in it.
        facts: Plain data to keep in the manifest.
        digest: One of DIGESTS.

    Returns:
        The manifest: the facts, and `files` with each file's size and digest.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / name)
    for path in paths:
        fsync_file(path)
    fsync_folder(folder)
    files = {path.relative_to(folder).as_posix(): _facts_of(path, digest) for path in paths}
    manifest = finite({**facts, "files": files})
    write_json(folder / name, {**manifest, SELF: _digest_of(manifest)})
    fsync_folder(folder.parent)
    return manifest


def _facts_of(path: Path, digest: str) -> dict[str, Any]:
    return {"size": path.stat().st_size, digest: DIGESTS[digest](path)}


def _digest_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(manifest, indent=None).encode()).hexdigest()


def read_manifest(folder: Path, name: str) -> dict[str, Any]:
    """Return what `seal` wrote last.

    Raises:
        NotWhole: The manifest is missing, cannot be read, or is not what was written.
    """
    path = folder / name
    if not path.is_file():
        raise NotWhole(f"{folder}: incomplete: it has no {name} (the process ended while it was written)")
    try:
        manifest = read_json(path)
        if manifest.pop(SELF) != _digest_of(manifest):
            raise ValueError("its content is not what was written")
        return {**manifest, "files": dict(manifest["files"])}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise NotWhole(f"{path}: damaged: {error}") from error


def check_files(folder: Path, manifest: dict[str, Any], *, contents: bool = True) -> None:
    """Compare a folder's files with its manifest.

    Args:
        folder: Sealed folder.
        manifest: Result of `read_manifest`.
        contents: Whether the contents are read and compared, beside names and sizes.

    Raises:
        NotWhole: Names the first file that is missing, truncated or changed.
    """
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise NotWhole(f"{path}: missing, though the manifest lists it")
        size = path.stat().st_size
        if size != facts["size"]:
            raise NotWhole(f"{path}: damaged: {size:,} bytes, the manifest says {facts['size']:,}")
        for digest in facts.keys() & DIGESTS.keys() if contents else ():
            if DIGESTS[digest](path) != facts[digest]:
                raise NotWhole(f"{path}: damaged: its content is not what was written (its {digest} differs)")


class Building:
    """A temporary folder beside `target`, flushed and given its name when the block ends well."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.temporary = target.with_name(f".{target.name}.building")

    def __enter__(self) -> Path:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        return self.temporary

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            publish(self.temporary, self.target)
        else:
            shutil.rmtree(self.temporary, ignore_errors=True)


def publish(temporary: Path, target: Path) -> None:
    """Flush a finished folder and give it its name; what stood there before is renamed away first, then removed."""
    for path in temporary.rglob("*"):
        if path.is_file():
            fsync_file(path)
    fsync_folder(temporary)
    doomed = target.with_name(f".{target.name}.deleting")
    for left in target.parent.glob(f"{escape(doomed.name)}*"):
        shutil.rmtree(left, ignore_errors=True)
    if target.exists():
        replace(target, doomed := free_name(doomed))
    replace(temporary, target)
    fsync_folder(target.parent)
    shutil.rmtree(doomed, ignore_errors=True)
