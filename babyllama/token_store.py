"""Tokens on disk, memory-mapped, under a name that is their content's: a cache that cannot go stale.

A folder `<cache>/<key>/` holds one split's joined documents (`train.tokens`, uint16 where the vocabulary fits, else
uint32) with an index (`train.npz`: where each document starts, its bytes, words and domain), and `store.json`, which
is written last and lists every file's size and checksum. The folder is built under a temporary name and renamed, so a
half-written one is never seen; one that does not agree with its list is set aside and built anew.

Documents are appended as they come: the text of a corpus is never in memory as a whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from babyllama.documents import Document
from babyllama.file_stamps import LARGE_BYTES, are_as_remembered, remember, wait_until_settled
from babyllama.jsonio import fsync_file, fsync_folder, read_json, write_json
from babyllama.word_pieces import DocumentEncoder

STORE_VERSION = 1
CHECKED = "checked.json"


@dataclass(frozen=True)
class TokenSplit:
    """One split: all documents' tokens, each `<s> ... </s>`, one after another.

    Attributes:
        tokens: (N,) uint16 or uint32, memory-mapped.
        starts: (D + 1,) int64: document d is tokens[starts[d]:starts[d + 1]].
        bytes: (D,) int64: UTF-8 bytes of each document's text.
        words: (D,) int64: whitespace-separated words.
        domain_ids: (D,) index into `domains`.
        domains: Names.
    """

    tokens: np.ndarray
    starts: np.ndarray
    bytes: np.ndarray
    words: np.ndarray
    domain_ids: np.ndarray
    domains: list[str]


def content_key(*parts: Any) -> str:
    """A folder name made of everything the content depends on."""
    return hashlib.sha256(repr((STORE_VERSION, *parts)).encode()).hexdigest()[:32]


def write_split(folder: Path, name: str, documents: Iterable[Document], tokenizer: Any) -> None:
    """Tokenize documents and append them to a split's files.

    Args:
        folder: Where the files go.
        name: `train` or `valid`.
        documents: In the order they are stored.
        tokenizer: Gives ids, BOS and EOS.
    """
    encoder = DocumentEncoder(tokenizer)
    sizes, words, lengths, domains = [], [], [], []
    with (folder / f"{name}.tokens").open("wb") as handle:
        for document in documents:
            (stored,) = encoder.encode([document.text])
            handle.write(stored)
            lengths.append(len(stored) // encoder.itemsize)
            sizes.append(len(document.text.encode()))
            words.append(len(document.text.split()))
            domains.append(document.domain)
    write_index(folder, name, encoder.itemsize, lengths=lengths, sizes=sizes, words=words, domains=domains)


def write_index(
    folder: Path,
    name: str,
    itemsize: int,
    *,
    lengths: Sequence[int] | np.ndarray,
    sizes: Sequence[int] | np.ndarray,
    words: Sequence[int] | np.ndarray,
    domains: Sequence[str],
) -> None:
    """Write a split's index from what is known of each of its D documents; domains are numbered as they appear."""
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(domain, len(numbers)) for domain in domains]
    np.savez(
        folder / f"{name}.npz",
        starts=np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64),
        bytes=np.asarray(sizes, dtype=np.int64),
        words=np.asarray(words, dtype=np.int64),
        domain_ids=np.array(ids, dtype=np.int32),
        domains=np.array(list(numbers), dtype=np.str_),
        itemsize=itemsize,
    )


def open_split(folder: Path, name: str) -> TokenSplit:
    """Map a split's tokens into memory (nothing is read until it is used)."""
    index = np.load(folder / f"{name}.npz", allow_pickle=False)
    dtype = np.uint16 if int(index["itemsize"]) == 2 else np.uint32
    path = folder / f"{name}.tokens"
    tokens = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype=dtype)
    return TokenSplit(
        tokens, index["starts"], index["bytes"], index["words"], index["domain_ids"], [str(d) for d in index["domains"]]
    )


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
