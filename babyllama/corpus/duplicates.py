"""Documents that stand in a corpus more than once: the same, or nearly.

Exact copies share a digest. Near copies share at least half of their shingles of three words (Jaccard index, estimated
from MinHash signatures, Broder 1997); candidates come from locality-sensitive hashing with 32 bands of 4 rows, which
finds 99% of pairs at an index of 0.6 and nearly all at 0.75, what changing 5% of the words leaves. The first document
in the corpus's order is the one that is kept; a copy of a copy is one of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BANDS, ROWS = 32, 4
NEAR = 0.5
SHORTEST = 10  # words; shorter documents share their few shingles by chance


@dataclass(frozen=True)
class Copy:
    """A document that repeats an earlier one.

    Attributes:
        document: Number of the document.
        of: Number of the earlier document.
        similarity: Estimated Jaccard index; 1 for an exact copy.
    """

    document: int
    of: int
    similarity: float


def exact_copies(digests: Sequence[bytes]) -> list[Copy]:
    """Return documents whose digest stood before, in order.

    >>> exact_copies([b"a", b"b", b"a"])
    [Copy(document=2, of=0, similarity=1.0)]
    """
    first: dict[bytes, int] = {}
    found = []
    for number, digest in enumerate(digests):
        of = first.setdefault(digest, number)
        if of != number:
            found.append(Copy(number, of, 1.0))
    return found


def near_copies(signatures: Sequence[np.ndarray | None], *, skip: set[int], threshold: float = NEAR) -> list[Copy]:
    """Return documents that nearly repeat an earlier one, each with the most similar of those that are kept.

    Args:
        signatures: Signature of each document; None where it is too short to be compared.
        skip: Documents that are exact copies.
        threshold: Least Jaccard index.
    """
    from datasketch import MinHash, MinHashLSH

    from babyllama.corpus.fingerprints import PERMUTATIONS, new_signature

    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
    permutations = new_signature().permutations
    found = []
    for number, values in enumerate(signatures):
        if values is None or number in skip:
            continue
        made = MinHash(hashvalues=values, permutations=permutations, scheme="affine32", seed=1)
        likely = [(float(np.mean(signatures[other] == values)), -other) for other in index.query(made)]
        similarity, of = max(likely, default=(0.0, 0))
        if similarity >= threshold:
            found.append(Copy(number, -of, similarity))
        else:
            index.insert(number, made, check_duplication=False)
    return found
