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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from babyllama.documents import Document
from babyllama.jsonio import fsync_file, fsync_folder, read_json, write_json

STORE_VERSION = 1
BATCH_CHARACTERS = 2_000_000  # text encoded at a time: enough for all cores, small beside a corpus


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


def token_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encoded_ahead(
    documents: Iterable[Document], encode: Callable[[list[str]], list[list[int]]]
) -> Iterator[tuple[list[Document], list[list[int]]]]:
    """Batches with their ids; a batch is encoded (in the tokenizer's own threads) while the next is read and cleaned
    and the one before is written.
    """
    with ThreadPoolExecutor(1) as worker:
        waiting: tuple[list[Document], Future[list[list[int]]]] | None = None
        for batch in _batches(documents):
            job = worker.submit(encode, [document.text for document in batch])
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = batch, job
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def write_split(folder: Path, name: str, documents: Iterable[Document], tokenizer: Any) -> None:
    """Tokenize documents and append them to a split's files.

    Args:
        folder: Where the files go.
        name: `train` or `valid`.
        documents: In the order they are stored.
        tokenizer: Gives ids, BOS and EOS.
    """
    from babyllama.tokenization import encode_documents

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    bos, eos = (eos if bos is None else bos), (bos if eos is None else eos)
    dtype = token_dtype(len(tokenizer))
    lengths, sizes, words, ids, domains = [], [], [], [], {}
    with (folder / f"{name}.tokens").open("wb") as handle:
        for batch, encoded in _encoded_ahead(documents, lambda texts: encode_documents(tokenizer, texts)):
            for document, tokens in zip(batch, encoded, strict=True):
                handle.write(np.array([bos, *tokens, eos], dtype=dtype).tobytes())
                lengths.append(len(tokens) + 2)
                sizes.append(len(document.text.encode()))
                words.append(len(document.text.split()))
                ids.append(domains.setdefault(document.domain, len(domains)))
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    np.savez(
        folder / f"{name}.npz",
        starts=starts,
        bytes=np.array(sizes, dtype=np.int64),
        words=np.array(words, dtype=np.int64),
        domain_ids=np.array(ids, dtype=np.int32),
        domains=np.array(list(domains), dtype=np.str_),
        itemsize=np.dtype(dtype).itemsize,
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


def seal(folder: Path, meta: dict[str, Any]) -> None:
    """Flush every file and write store.json with their sizes and checksums."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        fsync_file(path)
    listed = {str(p.relative_to(folder)): {"size": p.stat().st_size, "crc32": checksum(p)} for p in files}
    write_json(folder / "store.json", {"version": STORE_VERSION, "files": listed, **meta})
    fsync_folder(folder)


def read_sealed(folder: Path) -> dict[str, Any] | None:
    """store.json of a folder that is whole, None where it is absent or damaged."""
    try:
        meta = read_json(folder / "store.json")
        whole = meta["version"] == STORE_VERSION and all(
            (folder / name).stat().st_size == facts["size"] and checksum(folder / name) == facts["crc32"]
            for name, facts in meta["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta if whole else None


def publish(temporary: Path, target: Path) -> None:
    """Rename a finished folder to its name; what stood there (damaged) goes."""
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    fsync_folder(target.parent)
