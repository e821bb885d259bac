"""What is counted of one batch of documents; runs in the workers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from babyllama.corpus.duplicates import SHORTEST
from babyllama.corpus.encoding import encoding_trouble
from babyllama.corpus.fingerprints import digest, new_signature, signature, word_hashes
from babyllama.corpus.overlap import OverlapIndex
from babyllama.data.documents import Document
from babyllama.data.languages.identify import identify
from babyllama.data.words import count_words


@dataclass
class DocumentFacts:
    """What is known of one document.

    Attributes:
        domain: Domain of the document.
        words: Words of the document.
        bytes: UTF-8 bytes of the document.
        lines: Lines of the document.
        language: Language that `identify` found.
        digest: Equal for equal texts.
        signature: MinHash signature; None where it is too short to be compared.
        trouble: Counts of `encoding_trouble`.
        overlap: Runs of evaluation items that it has (`OverlapIndex.look_up`).
    """

    domain: str
    words: int
    bytes: int
    lines: int
    language: str
    digest: bytes
    signature: np.ndarray | None
    trouble: dict[str, int]
    overlap: dict[int, np.ndarray]


@dataclass
class BatchFacts:
    """Facts of a batch: its documents', and how often each character occurs in each domain."""

    documents: list[DocumentFacts] = field(default_factory=list)
    characters: dict[str, Counter[str]] = field(default_factory=dict)


class FactFinder:
    """Callable that looks at a batch of documents.

    Args:
        index: Evaluation items to look for.
        near: Whether signatures are made.
    """

    def __init__(self, index: OverlapIndex, near: bool) -> None:
        self.index, self.near = index, near

    def __call__(self, batch: list[Document]) -> BatchFacts:
        """Facts of each document, in order."""
        empty = new_signature() if self.near else None
        found = BatchFacts()
        texts: dict[str, list[str]] = {}
        for document in batch:
            text = document.text
            # Words are hashed once, for near copies and for leaks.
            hashes = word_hashes(text) if self.near or self.index.grams else np.zeros(0, dtype=np.uint64)
            compared = self.near and len(hashes) >= SHORTEST
            found.documents.append(
                DocumentFacts(
                    domain=document.domain,
                    words=count_words(text),
                    bytes=len(text.encode("utf-8", "replace")),
                    lines=text.count("\n") + 1,
                    language=identify(text)[0],
                    digest=digest(text),
                    signature=signature(hashes, empty) if compared else None,
                    trouble=encoding_trouble(text),
                    overlap=self.index.look_up(hashes),
                )
            )
            texts.setdefault(document.domain, []).append(text)
        # Scripts are told by characters, over all documents of a domain.
        found.characters = {domain: count_characters("".join(parts)) for domain, parts in texts.items()}
        return found


def count_characters(text: str) -> Counter[str]:
    """Count how often each character occurs; over code points in NumPy, 20 times faster than a Counter.

    >>> count_characters("abba 文").most_common(2)
    [('a', 2), ('b', 2)]
    """
    counts = np.bincount(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4"))
    return Counter({chr(point): int(counts[point]) for point in np.flatnonzero(counts).tolist()})
