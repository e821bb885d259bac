"""From shards of text to a split's tokens: tokenized in all cores, joined in order, resumed after a kill.

Each shard's ids go to a piece of their own, sealed like the text it was made of (`text_shards`), while the finished
pieces are appended to the split's one file, which training maps into memory. Pieces stay until that file is complete:
a process that comes after a kill finds them, tokenizes what is missing and joins all of them anew (at the disk's
speed). Which process made a piece, and how many there were, leaves no trace in the result.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from babyllama.common.process_pool import ordered_map
from babyllama.data.fast_encoding import DocumentEncoder
from babyllama.data.text_shards import Selection, Task, TextShards, read_facts, write_facts
from babyllama.data.token_store import write_index

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def build_splits(
    folder: Path,
    pieces: Path,
    selections: list[Selection],
    tokenizer: PreTrainedTokenizerFast,
    processes: int,
    seen: Callable[[int], None],
) -> None:
    """Write `<name>.tokens` and `<name>.npz` of each selection into `folder`.

    Args:
        folder: Where the splits go.
        pieces: Where finished pieces are kept and looked for; named after text and tokenizer.
        selections: Selections of documents in the order of the work.
        tokenizer: Tokenizer whose ids are stored.
        processes: Number of processes that tokenize.
        seen: Told the bytes of text of each shard that is done.
    """
    pieces.mkdir(parents=True, exist_ok=True)
    encoder = DocumentEncoder(tokenizer)
    make = ShardTokenizer(pieces, {selection.name: selection.shards for selection in selections}, encoder)
    tasks = [task for selection in selections for task in selection.tasks()]
    lengths: dict[str, list[np.ndarray]] = {selection.name: [] for selection in selections}
    for name in lengths:
        (folder / f"{name}.tokens").touch()
    for (name, number, wanted), made in zip(tasks, ordered_map(make, tasks, processes), strict=True):
        lengths[name].append(made)
        with (
            (folder / f"{name}.tokens").open("ab") as joined,
            (pieces / f"{name}-{number:06d}.ids").open("rb") as piece,
        ):
            shutil.copyfileobj(piece, joined, 1 << 20)
        seen(int(make.shards[name].indexes[number].bytes[wanted].sum()))
    for selection in selections:
        _write_index(folder, selection, lengths[selection.name], encoder.itemsize)


def _write_index(folder: Path, selection: Selection, lengths: list[np.ndarray], itemsize: int) -> None:
    sizes, words = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    domains: list[str] = []
    for number, wanted in selection.shards.marked(selection.mark):
        index = selection.shards.indexes[number]
        sizes.append(index.bytes[wanted])
        words.append(index.words[wanted])
        domains += [index.domains[place] for place in index.domain_ids[wanted]]
    write_index(
        folder,
        selection.name,
        itemsize,
        lengths=np.concatenate([np.zeros(0, dtype=np.int64), *lengths]),
        sizes=np.concatenate(sizes),
        words=np.concatenate(words),
        domains=domains,
    )


class ShardTokenizer:
    """Tokenize one shard, or reuse its file if the checksum fits; the table of words grows from shard to shard."""

    def __init__(self, pieces: Path, shards: dict[str, TextShards], encoder: DocumentEncoder) -> None:
        self.pieces = pieces
        self.shards = shards
        self.encoder = encoder

    def __call__(self, task: Task) -> np.ndarray:
        """Return the wanted documents' lengths in tokens, from a finished piece or one that is made now."""
        name, number, wanted = task
        content, seal = (self.pieces / f"{name}-{number:06d}.{ending}" for ending in ("ids", "npz"))
        finished = read_facts(seal, content)
        if finished is not None:
            return finished[1]["lengths"]
        texts = [document.text for document in self.shards[name].documents(number, wanted)]
        stored = self.encoder.encode(texts)
        joined = b"".join(stored)
        content.write_bytes(joined)
        lengths = np.array([len(ids) // self.encoder.itemsize for ids in stored], dtype=np.int64)
        write_facts(seal, {"size": len(joined), "crc32": zlib.crc32(joined)}, {"lengths": lengths})
        return lengths
