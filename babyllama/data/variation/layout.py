"""The order in which an epoch reads the stored tokens: pieces of documents, joined to one stream.

A piece is a run of stored tokens, usually a whole document. Where a document is cut into segments (segments.py), a
piece may have a `<s>` in front or a `</s>` behind it that is not stored there; the stream then points at the
document's own `<s>` and `</s>`, so that each position of the stream has a place on disk.

    on disk     <s> a b . c d . </s>            cut behind the first '.'
    stream      <s> a b . </s> | <s> c d . </s>
    places       0  1 2 3   7     0  4 5 6   7
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pieces:
    """Runs of stored tokens in the order in which the stream joins them.

    Attributes:
        starts: (P,) place of each piece's first token on disk.
        ends: (P,) place behind its last one.
        opened: (P,) bool: a `<s>` is put in front.
        closed: (P,) bool: a `</s>` is put behind.
        documents: (P,) document that each is of.
    """

    starts: np.ndarray
    ends: np.ndarray
    opened: np.ndarray
    closed: np.ndarray
    documents: np.ndarray

    def in_order(self, order: np.ndarray) -> Pieces:
        """The same pieces in another order."""
        return Pieces(*(getattr(self, name)[order] for name in ("starts", "ends", "opened", "closed", "documents")))


def whole_documents(starts: np.ndarray, order: np.ndarray) -> Pieces:
    """Each document as one piece.

    Args:
        starts: (D + 1,) where documents start on disk.
        order: (D,) documents in the order of the stream.
    """
    never = np.zeros(len(order), dtype=bool)
    return Pieces(starts[:-1][order], starts[1:][order], never, never, order)


class Layout:
    """An epoch's stream.

    Args:
        pieces: Pieces in the order of the stream.
        starts: (D + 1,) where documents start on disk.

    Attributes:
        total: Tokens of the stream.
        documents: (P,) documents of the pieces.
    """

    def __init__(self, pieces: Pieces, starts: np.ndarray) -> None:
        lengths = pieces.ends - pieces.starts + pieces.opened + pieces.closed
        self.documents = pieces.documents
        self._ends = np.cumsum(lengths)  # stream position behind each piece
        self._shift = pieces.starts - (self._ends - lengths) - pieces.opened  # disk place minus stream position
        self._pieces, self._starts = pieces, starts
        self._cut = bool(pieces.opened.any() or pieces.closed.any())
        self.total = int(self._ends[-1]) if len(self._ends) else 0

    def places(self, stream: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Where positions of the stream lie on disk.

        Args:
            stream: Positions, of any shape.

        Returns:
            Places on disk and documents' numbers, both of `stream`'s shape; and where a segment's first own token
            stands (bool), None where no document is cut.
        """
        found = np.searchsorted(self._ends, stream, side="right")
        places, documents = stream + self._shift[found], self.documents[found]
        if not self._cut:
            return places, documents, None
        starts, ends = self._pieces.starts[found], self._pieces.ends[found]
        first = (places == starts) & self._pieces.opened[found]
        places = np.where(places < starts, self._starts[documents], places)
        return np.where(places >= ends, self._starts[documents + 1] - 1, places), documents, first
