"""Cache folders that are whole or do not count, and where they lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

from babyllama.common.file_hashes import LARGE_BYTES, are_as_remembered, remember, wait_until_settled
from babyllama.common.files import fsync_file, fsync_folder, read_json, write_json

STORE_VERSION = 1


CHECKED = "checked.json"


def content_key(*parts: Any) -> str:
    """Return a folder name made of everything the content depends on."""
    return hashlib.sha256(repr((STORE_VERSION, *parts)).encode()).hexdigest()[:32]


def checksum(path: Path) -> int:
    """CRC-32 of a file: finds truncation and flipped bits at about 1 GB/s."""
    value = 0
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def seal(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Flush every file and write store.json, which is returned, with their sizes and checksums."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        fsync_file(path)
    listed = {str(p.relative_to(folder)): {"size": p.stat().st_size, "crc32": checksum(p)} for p in files}
    sealed = {"version": STORE_VERSION, "files": listed, **meta}
    write_json(folder / "store.json", sealed)
    fsync_folder(folder)
    return sealed


def read_sealed(folder: Path) -> dict[str, Any] | None:
    """store.json of a folder that is whole, None where it is absent or damaged.

    Sizes are looked at always. Content is read and compared with its checksum the first time, and again when a file
    has changed since by its size, inode or times (`file_stamps`): so a start from 1 GB of tokens does not read them.
    """
    try:
        meta = read_json(folder / "store.json")
        files = meta["files"]
        whole = meta["version"] == STORE_VERSION and all(
            (folder / name).stat().st_size == facts["size"] for name, facts in files.items()
        )
        if whole and not are_as_remembered(folder / CHECKED, folder, list(files)):
            whole = all(checksum(folder / name) == facts["crc32"] for name, facts in files.items())
            if whole:
                remember(folder / CHECKED, folder, list(files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta if whole else None


def remember_large(folder: Path, meta: dict[str, Any]) -> None:
    """Record a large folder that was just sealed as checked, so that the first start from it need not read it all."""
    names = list(meta["files"])
    if sum(facts["size"] for facts in meta["files"].values()) >= LARGE_BYTES:
        wait_until_settled([folder / name for name in names])
        remember(folder / CHECKED, folder, names)


def publish(temporary: Path, target: Path) -> None:
    """Rename a finished folder to its name; what stood there (damaged) goes."""
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    fsync_folder(target.parent)


class Building:
    """A temporary folder beside `target` that takes its name when the block ends well."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.temporary = target.with_name(f".{target.name}.building")

    def __enter__(self) -> Path:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        return self.temporary

    def __exit__(self, kind: object, error: object, trace: Any) -> None:
        if kind is None:
            publish(self.temporary, self.target)
        else:
            shutil.rmtree(self.temporary, ignore_errors=True)


def cache_home() -> Path:
    """Return the user's cache folder for prepared tokens and compiled code: $BABYLLAMA_CACHE or ~/.cache/babyllama."""
    given = os.environ.get("BABYLLAMA_CACHE")
    if given:
        return Path(given).expanduser()
    try:
        return Path.home() / ".cache" / "babyllama"
    except RuntimeError:  # no HOME and no entry in passwd: a container with a random user id
        return Path(tempfile.gettempdir()) / f"babyllama-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
