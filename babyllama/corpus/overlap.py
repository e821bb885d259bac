"""Does text that a model is tested on stand in the text that it is trained on?

An item (a held-out document, a sentence of a minimal pair) is looked for by its runs of eight words, compared without
case and punctuation: its overlap is the share of its runs that occur somewhere in the training text (n-gram overlap, as
in Brown et al. 2020, arXiv 2005.14165, appendix C, who take 13 words of documents). An item of five to seven words is
looked for as a whole; a shorter one is not looked for, since it says what everybody says. An item counts as leaked
where at least half of its runs occur.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from babyllama.common.errors import DataError
from babyllama.common.records import read_rows
from babyllama.corpus.fingerprints import gram_hashes, word_hashes
from babyllama.data.sources import find_files, kind_of, read_documents

RUN_WORDS, SHORTEST, LEAKED = 8, 5, 0.5
SHOWN = 80  # characters of an item that a record shows


@dataclass
class Item:
    """Something that a model is tested on.

    Attributes:
        group: The evaluation set that it belongs to.
        place: Where it stands: file and number.
        shown: Beginning of the item.
        length: Words of its runs; 0 where it is too short to be looked for.
        grams: (G,) places of its runs among the index's of that length.
    """

    group: str
    place: str
    shown: str
    length: int
    grams: np.ndarray


@dataclass
class OverlapIndex:
    """The runs of all items, to be looked up in training text.

    Attributes:
        items: Items of the set, in their order.
        grams: Length -> (G,) uint64, sorted and distinct.
        first: Length -> (G,) int64, number of the first training document that has the run, -1 for none.
    """

    items: list[Item] = field(default_factory=list)
    grams: dict[int, np.ndarray] = field(default_factory=dict)
    first: dict[int, np.ndarray] = field(default_factory=dict)

    def look_up(self, hashes: np.ndarray) -> dict[int, np.ndarray]:
        """Length -> places of the runs that occur among a document's word hashes; called in the workers."""
        found = {}
        for length, known in self.grams.items():
            grams = gram_hashes(hashes, length)
            places = np.minimum(np.searchsorted(known, grams), len(known) - 1)
            hit = np.unique(places[known[places] == grams])
            if len(hit):
                found[length] = hit
        return found

    def record(self, document: int, found: dict[int, np.ndarray]) -> None:
        """Note which runs a training document has."""
        for length, places in found.items():
            first = self.first[length]
            first[places[first[places] < 0]] = document

    def overlap(self, item: Item) -> tuple[float, int]:
        """Return share of an item's runs that occur, and the first document that has one (-1: none)."""
        if not item.length:
            return 0.0, -1
        first = self.first[item.length][item.grams]
        hit = first >= 0
        return float(hit.mean()), int(first[hit].min()) if hit.any() else -1


def build_index(texts: Iterable[tuple[str, str, str]]) -> OverlapIndex:
    """Make the index of items given as (group, place, text)."""
    index = OverlapIndex()
    runs: dict[int, list[np.ndarray]] = {}
    for group, place, text in texts:
        hashes = word_hashes(text)
        length = 0 if len(hashes) < SHORTEST else min(RUN_WORDS, len(hashes))
        grams = np.unique(gram_hashes(hashes, length)) if length else np.zeros(0, dtype=np.uint64)
        runs.setdefault(length, []).append(grams)
        index.items.append(Item(group, place, " ".join(text[: 4 * SHOWN].split())[:SHOWN], length, grams))
    for length, found in runs.items():
        if length:
            index.grams[length] = np.unique(np.concatenate(found))
            index.first[length] = np.full(len(index.grams[length]), -1, dtype=np.int64)
    for item in index.items:
        if item.length:
            item.grams = np.searchsorted(index.grams[item.length], item.grams)
    return index


def evaluation_texts(path: str) -> list[tuple[str, str, str]]:
    """Return the items of an evaluation set: (set, place, text).

    Args:
        path: A folder, a file or a glob. Rows of tables and JSONL give each of their texts (sentences of pairs,
            prompts, contexts); text files give their documents.

    Raises:
        DataError: Nothing is there, or it cannot be read.
    """
    found = []
    for file in _files(path):
        group = Path(path).name if Path(path).is_dir() else file.name
        if kind_of(file) in {".jsonl", ".csv", ".tsv"}:
            for number, row in read_rows(file):
                texts = [value for value in row.values() if isinstance(value, str) and value.strip()]
                found += [(group, f"{file.name}: line {number}", text) for text in texts]
        else:
            documents = read_documents(file, "replace")[1]
            found += [(group, f"{file.name}: document {n}", d.text) for n, d in enumerate(documents, start=1)]
    return found


def _files(path: str) -> list[Path]:
    folder = Path(path).expanduser()
    if folder.is_dir():
        files = sorted(p for p in folder.rglob("*") if p.is_file() and kind_of(p) in {".jsonl", ".csv", ".tsv"})
        if files:
            return files
    try:
        return find_files(path, "eval", "--against")
    except DataError:
        if not folder.exists():
            raise
        return find_files(path, "train", "--against")


def leaks(index: OverlapIndex, names: list[str]) -> dict[str, Any]:
    """Return figures of each set, with the items that leaked.

    Args:
        index: After the training text was looked through.
        names: Place of each training document, as it is shown.
    """
    sets: dict[str, dict[str, Any]] = {}
    for item in index.items:
        figures = sets.setdefault(
            item.group, {"items": 0, "too_short": 0, "leaked": 0, "mean_overlap": 0.0, "found": []}
        )
        figures["items"] += 1
        if not item.length:
            figures["too_short"] += 1
            continue
        share, document = index.overlap(item)
        figures["mean_overlap"] += share
        if share >= LEAKED:
            figures["leaked"] += 1
            figures["found"].append(
                {"item": item.place, "begins": item.shown, "overlap": round(share, 4), "stands_in": names[document]}
            )
    for figures in sets.values():
        figures["mean_overlap"] = round(figures["mean_overlap"] / max(figures["items"] - figures["too_short"], 1), 6)
    return dict(sorted(sets.items()))
