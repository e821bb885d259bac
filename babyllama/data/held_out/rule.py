"""Which documents of a training text are held out, and which are set aside as a test that no run chooses by.

A held-out set on which checkpoints, recipes and sweeps are chosen is no longer a test: the best of twenty runs on it is
partly luck. `data.test` sets a second share aside that only `evaluate.py RUN --split test` reads.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from babyllama.common.errors import DataError
from babyllama.data.documents import Document
from babyllama.data.splits import HOLDOUT_SEED, held_out_places, hold_out, run_length
from babyllama.data.text_shards import HELD, TEST, TRAIN

TEST_SEED = 20_309


@dataclass(frozen=True)
class SplitRule:
    """What of a training text is held out, and what is set aside as a test.

    By document: `share` of the documents is held out (`splits.hold_out`), and of the others so many are set aside that
    they are `test` of all, one at a seeded place in each run of them. So a test share does not move what is held out.
    By file: whole files, drawn in a seeded order until their bytes reach the share; files of one name (`a/x.txt` and
    `b/x.txt`) go to one side together.

    Attributes:
        share: Share that is held out; 0 where the held-out text is another one.
        test: Share that is set aside.
        by: `document` or `file`.
        files: Bytes of each file by name, where whole files are drawn.
    """

    share: float
    test: float = 0.0
    by: str = "document"
    files: Mapping[str, int] = field(default_factory=dict)

    def parts(self, documents: Iterable[Document]) -> Iterator[tuple[Document, int]]:
        """Yield each document with TRAIN, HELD or TEST, by streaming."""
        if self.by == "file":
            chosen = self.file_marks()
            yield from ((document, chosen[document.source]) for document in documents)
            return
        held = hold_out(documents, self.share) if self.share else ((document, False) for document in documents)
        tests = self._test_places()
        yield from ((document, HELD if out else TEST if next(tests) else TRAIN) for document, out in held)

    def marks(self, sources: Sequence[str]) -> np.ndarray:
        """(D,) uint8: TRAIN, HELD or TEST of each document, without the documents.

        Args:
            sources: The file's name of each document.
        """
        if self.by == "file":
            chosen = self.file_marks()
            return np.array([chosen[source] for source in sources], dtype=np.uint8)
        marks = np.full(len(sources), TRAIN, dtype=np.uint8)
        if self.share:
            marks[held_out_places(len(sources), self.share)] = HELD
        tests = self._test_places()
        rest = np.flatnonzero(marks == TRAIN)
        marks[rest[np.fromiter((next(tests) for _ in rest), bool, len(rest))]] = TEST
        return marks

    def _test_places(self) -> Iterator[bool]:
        """Say of each document that is not held out whether it is set aside; without end."""
        generator = random.Random(TEST_SEED)
        rest, number = self.test / (1 - self.share), 0  # share of what is not held out that makes `test` of all
        while True:
            period = run_length(number, rest) if self.test else 1
            chosen = generator.randrange(period) if self.test else -1
            yield from (place == chosen for place in range(period))
            number += 1

    def file_marks(self) -> dict[str, int]:
        """Return TRAIN, HELD or TEST for each file.

        Raises:
            DataError: There are too few files.
        """
        wanted = [(mark, share) for mark, share in ((HELD, self.share), (TEST, self.test)) if share]
        needed = 1 + len(wanted)
        if len(self.files) < needed:
            raise DataError(
                f"data.holdout_by: file: {len(self.files)} files of different names, {needed} are needed; "
                "set data.holdout_by: document, or give data.eval_path"
            )
        order = sorted(self.files)
        random.Random(HOLDOUT_SEED).shuffle(order)
        marks = dict.fromkeys(order, TRAIN)
        total, free = sum(self.files.values()), list(order)
        for position, (mark, share) in enumerate(wanted):
            size, left_for_others = 0, len(wanted) - position  # one for each later side and one to train on
            while len(free) > left_for_others and (not size or size < share * total):
                name = free.pop(0)
                marks[name], size = mark, size + self.files[name]
        return marks
