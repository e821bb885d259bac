"""Fingerprints of text: hashes of words, of runs of n words, and MinHash signatures of documents.

Words are compared in lower case and without punctuation, so that a copy with other quotes is a copy. In scripts
without spaces the units of `data/words.py` stand for words. The hash of a word is 64 bits of BLAKE2b, the same in every
process and on every machine; that of n words is a polynomial of them, computed for all places at once.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import numpy as np

from babyllama.data.words import words, writes_unspaced

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE = 3  # words of a shingle: with 5% of the words changed 75% of the shingles are shared, with 5 words 63%
PERMUTATIONS = 128  # hashes of a signature: the Jaccard index is known to within 0.04 (one standard deviation)
KNOWN_WORDS = 2_000_000  # of the table of hashes, in each process; then it starts anew

# What is no part of a word: white space, ASCII's and the common blocks' punctuation, marks that end sentences.
_WORD = re.compile(
    r"[^\s!-/:-@\[-`{-~\x80-\xbf\u2000-\u206f\u060c\u061b\u061f\u06d4\u0964\u0965\u0589\u1362-\u1368\u104a\u104b"
    r"\u17d4\u17d5\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]+"
)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, made odd
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_hashes: dict[str, int] = {}


def compared_words(text: str) -> list[str]:
    """Return the words of a text as they are compared.

    >>> compared_words("“Well—he’s gone!” (at 10 o'clock)")
    ['well', 'he', 's', 'gone', 'at', '10', 'o', 'clock']
    """
    if writes_unspaced(text):
        return [word.lower() for word in words(text) if _WORD.match(word)]
    return _WORD.findall(text.lower())


def word_hashes(text: str) -> np.ndarray:
    """(W,) uint64: a hash of each compared word."""
    if len(_hashes) > KNOWN_WORDS:
        _hashes.clear()
    found = compared_words(text)
    for word in set(found).difference(_hashes):
        _hashes[word] = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest())
    return np.fromiter(map(_hashes.__getitem__, found), dtype=np.uint64, count=len(found))


def gram_hashes(hashes: np.ndarray, length: int) -> np.ndarray:
    """(W - length + 1,) uint64: a hash of each run of `length` words; none where there are fewer words."""
    places = len(hashes) - length + 1
    if places < 1:
        return np.zeros(0, dtype=np.uint64)
    found = np.zeros(places, dtype=np.uint64)
    for offset in range(length):
        found = found * _FACTOR + hashes[offset : offset + places]
    found = (found ^ (found >> np.uint64(30))) * _MIX
    return found ^ (found >> np.uint64(31))


def new_signature() -> MinHash:
    """Return an empty MinHash that takes ready hashes of 32 bits."""
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)


def signature(hashes: np.ndarray, empty: MinHash) -> np.ndarray:
    """(PERMUTATIONS,) uint32: the MinHash signature of a document's shingles (Broder 1997).

    Args:
        hashes: Result of `word_hashes`.
        empty: Result of `new_signature`; is not changed.
    """
    shingles = np.unique(gram_hashes(hashes, min(SHINGLE, len(hashes))) >> np.uint64(32))
    made = empty.copy()
    made.update_batch(shingles.tolist())
    return made.hashvalues


def digest(text: str) -> bytes:
    """16 bytes that two texts share only where they are the same but for white space around them."""
    return hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=16).digest()
