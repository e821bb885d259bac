"""Which documents are held out, and how many are used: both by streaming, so that no corpus is held in memory."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator

import numpy as np

from babyllama.common.errors import DataError
from babyllama.data.documents import Document
from babyllama.data.words import cluster_cut, count_words, is_unspaced

HOLDOUT_SEED = 20_308  # the split must not move when the training's seed does
ROUNDING = 1e-9  # 1 / 0.05 is 20 and a bit less
NEAR_ENOUGH = 0.8  # of the place wanted: a line end before it would hold out more than a fifth of the text
HELD_OUT_BYTES = 20_000_000  # reached at 400 MB: more would be kept in memory and scored, and tell no more


def hold_out(documents: Iterable[Document], share: float) -> Iterator[tuple[Document, bool]]:
    """Mark about `share` of the documents as held out: one of each run of 1/share, at a seeded place in the run.

    Streams (no list of documents is held), spreads over all files, and always holds out at least one. A text of one
    document is parted at a line near its end.
    """
    runs = _drawn_places(share)
    period, place = next(runs)
    pending: list[Document] = []
    is_first = True
    for document in documents:
        pending.append(document)
        if len(pending) == period:
            yield from _mark(pending, place)
            pending, is_first = [], False
            period, place = next(runs)
    if not is_first:
        yield from _mark(pending, place)
    elif len(pending) > 1:
        yield from _mark(pending, _place_of_few(len(pending)))
    elif pending:
        kept, held = part_document(pending[0], share)
        yield kept, False
        yield held, True


def held_out_places(count: int, share: float) -> np.ndarray:
    """(count,) bool: which of `count` documents `hold_out` marks, without the documents; none or at least two."""
    held = np.zeros(count, dtype=bool)
    start = 0
    for period, place in _drawn_places(share):
        if start + period > count:
            break
        held[start + place] = True
        start += period
    last = start + place if start or not count else _place_of_few(count)
    held[last : min(last + 1, count)] = True  # a last run that is not full may end before its place
    return held


def _drawn_places(share: float) -> Iterator[tuple[int, int]]:
    """Yield for each run of documents its length and the place in it that is held out, without end."""
    generator = random.Random(HOLDOUT_SEED)
    for number in itertools.count():
        period = run_length(number, share)
        yield period, generator.randrange(period)


def _place_of_few(count: int) -> int:
    """Return the place that is held out where the documents do not fill the first run."""
    return random.Random(HOLDOUT_SEED).randrange(count)


def run_length(number: int, share: float) -> int:
    """Return how many documents the run `number` has, one of which is held out: 1/share on average.

    >>> [run_length(number, 0.4) for number in range(4)], [run_length(number, 0.05) for number in range(2)]
    ([2, 3, 2, 3], [20, 20])
    """
    return max(1, int((number + 1) / share + ROUNDING) - int(number / share + ROUNDING))


def bounded_share(share: float, total_bytes: int) -> float:
    """Return the share to hold out of files of so many bytes: `share`, less where that were more than HELD_OUT_BYTES.

    >>> bounded_share(0.05, 100_000_000), bounded_share(0.05, 2_000_000_000)
    (0.05, 0.01)
    """
    return share if share * total_bytes <= HELD_OUT_BYTES else HELD_OUT_BYTES / total_bytes


def _mark(documents: list[Document], place: int) -> Iterator[tuple[Document, bool]]:
    return ((document, number == place) for number, document in enumerate(documents))


def part_document(document: Document, share: float) -> tuple[Document, Document]:
    """Return one document as two, parted at a line (else a space) so that about `share` of it is held out.

    In a script without spaces between two letters, where neither is near that place.

    Raises:
        DataError: There is no such place.
    """
    text = document.text
    place = int(len(text) * (1 - share))
    cut = text.rfind("\n", 0, place)
    cut = cut if cut > 0 else text.rfind(" ", 0, place)
    behind = cut + 1
    if is_unspaced(text) and cut < place * NEAR_ENOUGH:
        cut = behind = cluster_cut(text, place)
    if cut <= 0:
        raise DataError(f"{document.source}: one document of one word: nothing can be held out. Give data.eval_path.")
    first, second = text[:cut], text[behind:]
    return Document(first, document.domain, document.source), Document(second, document.domain, document.source)


def at_most_words(documents: Iterable[Document], max_words: int | None) -> Iterator[Document]:
    """Yield whole documents, in order, until the bound is reached; None: all.

    >>> texts = (Document("two words", "d") for _ in range(9))
    >>> len(list(at_most_words(texts, 3)))
    2
    """
    words = 0
    for document in documents:
        yield document
        words += count_words(document.text)
        if max_words is not None and words >= max_words:
            return
