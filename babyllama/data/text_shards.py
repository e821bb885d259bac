"""A corpus's documents, read and cleaned once, in numbered files: so that no corpus is in memory, and none is cleaned
twice.

Reading (one process, 110 MB/s) cuts the stream of documents into shards of about two million characters; workers clean
them and write each shard's text beside an index (bytes, words, domain and source of every document). The index is
written last, under another name first, and holds the text's checksum: a shard that has a fitting index is finished, and
one that a kill left half-written is made anew. Where the stream is the same again (the folder's name is made of the
files' content), finished shards are not cleaned again; once all are there, the source is not even read.

Then every document gets its mark: for training, held out, or unused.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from babyllama.common.files import crc32_of, read_json, replace, write_json
from babyllama.common.process_pool import ordered_map
from babyllama.data.documents import END_OF_TEXT, Document
from babyllama.data.words import count_words

SHARD_CHARACTERS = 2_000_000  # enough for a worker's second, small beside a corpus
UNUSED, TRAIN, HELD, TEST = 0, 1, 2, 3  # marks of documents
Raw = tuple[str, str, str, bool]  # text, domain, source, whether it is to be cleaned
Batch = tuple[int, list[Raw]]


@dataclass(frozen=True)
class ShardIndex:
    """What is known of one shard's D documents.

    Attributes:
        number: Index of the shard in the corpus.
        bytes: (D,) int64, UTF-8 bytes of each text.
        words: (D,) int64, whitespace-separated words.
        domain_ids: (D,) index into `domains`.
        source_ids: (D,) index into `sources`.
        domains: Names of the domains.
        sources: Names of the files.
        raw_bytes: What was read for it.
        inner_marks: Marks between documents that stand inside lines.
    """

    number: int
    bytes: np.ndarray
    words: np.ndarray
    domain_ids: np.ndarray
    source_ids: np.ndarray
    domains: list[str]
    sources: list[str]
    raw_bytes: int
    inner_marks: int


def in_batches(raw: Iterable[tuple[Document, bool]]) -> Iterator[Batch]:
    """Numbered batches of one shard each, as plain tuples (cheap to send to a worker)."""
    number, batch, size = 0, [], 0
    for document, clean in raw:
        batch.append((document.text, document.domain, document.source, clean))
        size += len(document.text)
        if size >= SHARD_CHARACTERS:
            yield number, batch
            number, batch, size = number + 1, [], 0
    if batch:
        yield number, batch


FACTS = ("domains", "sources", "raw_bytes", "inner_marks")


class TextShards:
    """The shards of one stream of documents in a folder.

    Args:
        folder: Where they are; named after all that the stream and the cleaning depend on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.indexes: list[ShardIndex] = []
        self.marks: list[np.ndarray] = []
        self.rules: dict[str, str] = {}

    def complete(self) -> bool:
        """Take what an earlier process finished; False where anything is missing or damaged."""
        try:
            done = read_json(self.folder / "done.json")
            indexes = [read_index(self.folder, number) for number in range(done["shards"])]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if any(index is None for index in indexes):
            return False
        self.indexes, self.rules = [index for index in indexes if index is not None], done["rules"]
        return True

    def fill(
        self,
        raw: Iterable[tuple[Document, bool]],
        clean: Callable[[str, str], str],
        *,
        processes: int,
        trusted: bool,
        max_words: int | None,
        seen: Callable[[int], None],
    ) -> None:
        """Read, clean and write all shards.

        Args:
            raw: Documents in their order, each with whether to clean it.
            clean: `clean(text, domain)`; a text that it leaves empty is no document.
            processes: Number of processes that clean.
            trusted: The stream is certainly the same as that of shards found here.
            max_words: Stop when the shards hold so many.
            seen: Told the bytes read for each shard.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not trusted:
            for left in self.folder.iterdir():
                left.unlink()
        words = 0
        make = ShardWriter(self.folder, clean)
        for index in ordered_map(make, in_batches(raw), processes):
            self.indexes.append(index)
            seen(index.raw_bytes)
            words += int(index.words.sum())
            if max_words is not None and words >= max_words:
                break

    def finish(self, rules: dict[str, str]) -> None:
        """Record that all shards are there."""
        self.rules = dict(rules)
        write_json(self.folder / "done.json", {"shards": len(self.indexes), "rules": self.rules})

    def write(self, documents: Iterable[Document], rules: dict[str, str]) -> None:
        """Write documents that are clean already, in this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        batches = in_batches((document, False) for document in documents)
        self.indexes = [write_shard(self.folder, number, batch, identity) for number, batch in batches]
        self.finish(rules)

    def everything(self) -> Iterator[Document]:
        """Yield all documents in order."""
        for index in self.indexes:
            yield from self.documents(index.number, np.ones(len(index.bytes), dtype=bool))

    def documents(self, number: int, wanted: np.ndarray) -> list[Document]:
        """Return the wanted documents (D,) bool of a shard."""
        index = self.indexes[number]
        ends = np.cumsum(index.bytes)
        found = []
        with (self.folder / f"{number:06d}.text").open("rb") as handle:
            for place in np.flatnonzero(wanted):
                length = int(index.bytes[place])
                handle.seek(int(ends[place]) - length)
                text = handle.read(length).decode()
                domain = index.domains[index.domain_ids[place]]
                found.append(Document(text, domain, index.sources[index.source_ids[place]]))
        return found

    def marked(self, mark: int) -> Iterator[tuple[int, np.ndarray]]:
        """Shards that hold documents of this mark: number and (D,) bool."""
        for number, marks in enumerate(self.marks):
            if (wanted := marks == mark).any():
                yield number, wanted

    def total(self, what: str, mark: int) -> int:
        """Return sum of `bytes` or `words` over the documents of a mark."""
        return sum(int(getattr(self.indexes[number], what)[wanted].sum()) for number, wanted in self.marked(mark))

    @property
    def inner_marks(self) -> int:
        """Marks between documents that stand inside lines, where they part nothing, counted."""
        return sum(index.inner_marks for index in self.indexes)

    @property
    def words(self) -> np.ndarray:
        """(D,) words of all documents."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *(index.words for index in self.indexes)])

    @property
    def sources(self) -> list[str]:
        """The file's name of each document."""
        return [index.sources[number] for index in self.indexes for number in index.source_ids.tolist()]

    def mark(self, marks: np.ndarray) -> None:
        """Give all D documents their marks."""
        ends = np.cumsum([len(index.bytes) for index in self.indexes])
        self.marks = np.split(marks, ends[:-1]) if len(ends) else []


def identity(text: str, domain: str) -> str:
    """Return the text unchanged: the cleaning of documents that are already clean."""
    return text


class ShardWriter:
    """Write one shard of cleaned text, or reuse the one on disk if its checksum still fits."""

    def __init__(self, folder: Path, clean: Callable[[str, str], str]) -> None:
        self.folder = folder
        self.clean = clean

    def __call__(self, batch: Batch) -> ShardIndex:
        """Return the facts of the batch's shard."""
        number, documents = batch
        return read_index(self.folder, number) or write_shard(self.folder, number, documents, self.clean)


def write_shard(folder: Path, number: int, documents: list[Raw], clean: Callable[[str, str], str]) -> ShardIndex:
    """Clean a shard's documents and write text and index, the index last."""
    sizes, words, domain_ids, source_ids = [], [], [], []
    domains: dict[str, int] = {}
    sources: dict[str, int] = {}
    raw_bytes = checksum = inner_marks = 0
    text_file = folder / f"{number:06d}.text"
    # The text, and each document's size, words, domain and source.
    with text_file.open("wb") as handle:
        for text, domain, source, wants_cleaning in documents:
            raw_bytes += len(text.encode())
            cleaned = clean(text, domain) if wants_cleaning else text
            if not cleaned.strip():
                continue
            stored = cleaned.encode()
            handle.write(stored)
            checksum = zlib.crc32(stored, checksum)
            sizes.append(len(stored))
            words.append(count_words(cleaned))
            inner_marks += cleaned.count(END_OF_TEXT)
            domain_ids.append(domains.setdefault(domain, len(domains)))
            source_ids.append(sources.setdefault(source, len(sources)))
    # The index last: a shard without a fitting one is made again.
    numbers = {"bytes": sizes, "words": words, "domain_ids": domain_ids, "source_ids": source_ids}
    arrays = {name: np.array(values, dtype=np.int64) for name, values in numbers.items()}
    facts = {"domains": list(domains), "sources": list(sources), "raw_bytes": raw_bytes, "inner_marks": inner_marks}
    write_facts(folder / f"{number:06d}.npz", {**facts, "crc32": checksum, "size": sum(sizes)}, arrays)
    return ShardIndex(number, **arrays, **facts)  # type: ignore[arg-type]


def read_index(folder: Path, number: int) -> ShardIndex | None:
    """Return the index of a finished shard, None where the shard is absent, half-written or damaged."""
    read = read_facts(folder / f"{number:06d}.npz", folder / f"{number:06d}.text")
    if read is None:
        return None
    facts, arrays = read
    return ShardIndex(number, **arrays, **{name: facts[name] for name in FACTS})


def write_facts(path: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write what seals a shard: arrays and plain facts, whole or not at all.

    Not flushed to the disk one by one: a kill leaves what was written, and after a power cut the checksum tells.
    """
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as handle:
        np.savez(handle, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    replace(temporary, path)


def read_facts(path: Path, content: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Facts and arrays of a shard whose content has the size and checksum they name, else None."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "facts"}
            facts = json.loads(str(stored["facts"]))
        if content.stat().st_size != facts["size"] or crc32_of(content) != facts["crc32"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return facts, arrays


Task = tuple[str, int, np.ndarray]  # split, number of a shard, (D,) bool: its documents that are wanted


@dataclass
class Selection:
    """The documents of one split: those of `shards` that carry `mark`."""

    name: str
    shards: TextShards
    mark: int

    def tasks(self) -> list[Task]:
        """Return one a shard that holds such documents."""
        return [(self.name, number, wanted) for number, wanted in self.shards.marked(self.mark)]
