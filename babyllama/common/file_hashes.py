"""SHA-256 of files, cached by size, inode, mtime and ctime, so that unchanged files are not read again.

Git's index does the same (Documentation/technical/racy-git.txt): a record holds size, inode and the nanoseconds of the
last change of content (mtime) and of content or attributes (ctime, which no program can set back). While all of them
agree, the content is taken to be what it was. A file changed within the last two seconds before it was looked at is
not recorded, since a second change might fall into the same tick of the file system's clock. Windows' ctime is the time
of creation: there a checksum of the file's first and last 64 kB stands in for it.

What this cannot see is a bit that the disk itself turned: `store.json` keeps checksums for a full check.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from babyllama.common.files import ON_WINDOWS, read_json, sha256_of, write_json

LARGE_BYTES = 64_000_000  # at 1 GB/s the reading of less is not felt
ENDS = 65_536
RACY_SECONDS = 2.0  # FAT's clock ticks in two seconds, ext4's in 4 ms


def stamp_of(path: Path) -> list[int]:
    """Size, inode, mtime and ctime in nanoseconds (on Windows a checksum, too): equal while the file is the same."""
    found = path.stat()
    stamp = [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    return [*stamp, _checksum_of_ends(path, found.st_size)] if ON_WINDOWS else stamp


def _checksum_of_ends(path: Path, size: int) -> int:
    with path.open("rb") as handle:
        first = handle.read(ENDS)
        handle.seek(max(size - ENDS, 0))
        return zlib.crc32(handle.read(ENDS), zlib.crc32(first))


def is_settled(stamp: list[int]) -> bool:
    """Return whether the last change lies far enough back for a further one to show."""
    return time.time() - max(stamp[2], stamp[3]) / 1e9 > RACY_SECONDS


def wait_until_settled(paths: list[Path]) -> None:
    """Sleep until every file's last change lies far enough back (at most two seconds after writing)."""
    newest = max((max(stamp_of(path)[2:4]) / 1e9 for path in paths), default=0.0)
    time.sleep(min(max(newest + RACY_SECONDS + 0.05 - time.time(), 0.0), RACY_SECONDS + 0.1))


def file_hash(path: Path, records: Path) -> str:
    """Return SHA-256 of a file, read only where `records` (a folder; made if need be) does not know it already."""
    record = records / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"
    before = stamp_of(path)
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = read_json(record)
        if known["stamp"] == before:
            return str(known["sha256"])
    if before[0] >= LARGE_BYTES:
        wait_until_settled([path])  # rather than read it all again at the next start
    found = sha256_of(path)
    if is_settled(before) and stamp_of(path) == before:
        with suppress(OSError):  # a cache that cannot be written is said elsewhere
            write_json(record, {"path": os.fspath(path.absolute()), "stamp": before, "sha256": found})
    return found


def remember(record: Path, folder: Path, names: list[str]) -> None:
    """Record that these files of a folder were checked, if none changed a moment ago."""
    with suppress(OSError):
        stamps: dict[str, Any] = {name: stamp_of(folder / name) for name in names}
        if all(is_settled(stamp) for stamp in stamps.values()):
            write_json(record, stamps)


def are_as_remembered(record: Path, folder: Path, names: list[str]) -> bool:
    """Return whether all of these files are those that were checked."""
    try:
        stamps = read_json(record)
        return all(stamps[name] == stamp_of(folder / name) for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False
