"""Tokens on disk, memory-mapped, under a name made of all that they depend on.

The name covers the files' content, the keys that decide on cleaning and splitting, the tokenizer, the source of the
code that reads (`reading_code`) and of a user's own cleaners, and the libraries' versions:
tests/data/test_cache_key.py changes each.

A folder `<cache>/<key>/` holds one split's joined documents (`train.tokens`, uint16 where the vocabulary fits, else
uint32) with an index (`train.npz`: where each document starts, its bytes, words and domain), and `store.json`, which
is written last and lists every file's size and checksum. The folder is built under a temporary name and renamed, so a
half-written one is never seen; one that does not agree with its list is set aside and built anew.

Documents are appended as they come: the text of a corpus is never in memory as a whole.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from babyllama.data.documents import Document
from babyllama.data.fast_encoding import DocumentEncoder
from babyllama.data.words import count_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


BLOCK_TOKENS = 4_000_000  # gathered at a time: 32 MB an array
READING_SOURCES = ("data/**/*.py", "data/languages/*", "../data_utils.py", "app/data_utils.py")
READING_LIBRARIES = ("tokenizers", "transformers", "regex", "pyarrow", "numpy")


@cache
def reading_code() -> str:
    """Return SHA-256 of the source that makes tokens of files, and of the versions of the libraries that it uses."""
    package = Path(__file__).resolve().parents[1]
    files = sorted({path for pattern in READING_SOURCES for path in package.glob(pattern) if path.is_file()})
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in files))
    digest.update(repr([(name, metadata.version(name)) for name in READING_LIBRARIES]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class TokenSplit:
    """One split: all documents' tokens, each `<s> ... </s>`, one after another.

    Attributes:
        tokens: (N,) uint16 or uint32, memory-mapped.
        starts: (D + 1,) int64: document d is tokens[starts[d]:starts[d + 1]].
        bytes: (D,) int64: UTF-8 bytes of each document's text.
        words: (D,) int64: whitespace-separated words.
        domain_ids: (D,) index into `domains`.
        domains: Names of the domains.
    """

    tokens: np.ndarray
    starts: np.ndarray
    bytes: np.ndarray
    words: np.ndarray
    domain_ids: np.ndarray
    domains: list[str]


def write_split(folder: Path, name: str, documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase) -> None:
    """Tokenize documents and append them to a split's files.

    Args:
        folder: Where the files go.
        name: `train` or `valid`.
        documents: Documents in the order in which they are stored.
        tokenizer: Tokenizer with its BOS and EOS.
    """
    encoder = DocumentEncoder(tokenizer)
    sizes, words, lengths, domains = [], [], [], []
    with (folder / f"{name}.tokens").open("wb") as handle:
        for document in documents:
            (stored,) = encoder.encode([document.text])
            handle.write(stored)
            lengths.append(len(stored) // encoder.itemsize)
            sizes.append(len(document.text.encode()))
            words.append(count_words(document.text))
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


def hash_ids(ids: np.ndarray) -> int:
    """Hash one document's token ids."""
    digest = hashlib.blake2b(np.asarray(ids, dtype="<u4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def document_hashes(split: TokenSplit) -> np.ndarray:
    """Hash each document of a split by its token ids, without the marks around it.

    Returns:
        (D,) uint64. One second for 500,000 documents.
    """
    bounds = split.starts.tolist()
    pairs = itertools.pairwise(bounds)
    return np.fromiter(
        (hash_ids(split.tokens[start + 1 : end - 1]) for start, end in pairs), np.uint64, len(bounds) - 1
    )
