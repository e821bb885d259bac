"""Which documents are held out, and how many are used: both by streaming, so that no corpus is held in memory."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from babyllama.documents import Document
from babyllama.errors import DataError

HOLDOUT_SEED = 20_308  # the split must not move when the training's seed does


def hold_out(documents: Iterable[Document], share: float) -> Iterator[tuple[Document, bool]]:
    """Mark about `share` of the documents as held out: one of each run of 1/share, at a seeded place in the run.

    Streams (no list of documents is held), spreads over all files, and always holds out at least one. A text of one
    document is parted at a line near its end.
    """
    period = max(2, round(1 / share))
    generator = random.Random(HOLDOUT_SEED)
    pending: list[Document] = []
    runs = 0
    for document in documents:
        pending.append(document)
        if len(pending) == period:
            yield from _mark(pending, generator.randrange(period))
            pending, runs = [], runs + 1
    if runs or len(pending) > 1:
        place = generator.randrange(period) if runs else generator.randrange(len(pending))
        yield from _mark(pending, place)
    elif pending:
        yield from _parted(pending[0], share)


def _mark(documents: list[Document], place: int) -> Iterator[tuple[Document, bool]]:
    return ((document, number == place) for number, document in enumerate(documents))


def _parted(document: Document, share: float) -> Iterator[tuple[Document, bool]]:
    cut = document.text.rfind("\n", 0, int(len(document.text) * (1 - share)))
    cut = cut if cut > 0 else document.text.rfind(" ", 0, int(len(document.text) * (1 - share)))
    if cut <= 0:
        raise DataError(f"{document.source}: one document of one word: nothing can be held out. Give data.eval_path.")
    yield Document(document.text[:cut], document.domain, document.source), False
    yield Document(document.text[cut + 1 :], document.domain, document.source), True


def at_most_words(documents: Iterable[Document], max_words: int | None) -> Iterator[Document]:
    """Whole documents, in order, until the bound is reached; None: all.

    >>> texts = (Document("two words", "d") for _ in range(9))
    >>> len(list(at_most_words(texts, 3)))
    2
    """
    words = 0
    for document in documents:
        yield document
        words += len(document.text.split())
        if max_words is not None and words >= max_words:
            return
