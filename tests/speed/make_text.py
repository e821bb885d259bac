"""A large text to measure with: fast to make, and with ever new words, as real text has them.

Words are drawn by rank, P(rank > k) ~ (1 + k/50)^-0.67, so that n words hold about n^0.6 distinct ones without end
(Heaps' law): tables of words and the tokenizer's training meet a vocabulary that grows with the text. A rank is spelled
in syllables; every seventh is a name with a capital, every eleventh a number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SYLLABLES = [a + b + c for a in "bdfghklmnprstvw" for b in "aeiou" for c in ("", "n", "r", "s", "l")]
FLAT, TAIL = 50, 0.67
WORDS_PER_LINE, LINES_PER_BLOCK, BLOCKS = 12, 8, 500


def spell(rank: int) -> str:
    """The word of a rank."""
    if rank % 11 == 10:
        return str(rank)
    letters, left = "", rank
    while True:
        left, syllable = divmod(left, len(SYLLABLES))
        letters += SYLLABLES[(syllable * 137 + 31) % len(SYLLABLES)]
        if not left:
            return letters.capitalize() if rank % 7 == 6 else letters


def write_text(path: Path, megabytes: int, seed: int = 0) -> None:
    """Write blank-line-separated blocks of lines until the file has so many megabytes."""
    random = np.random.Generator(np.random.PCG64(seed))
    table = np.array([spell(rank) for rank in range(500_000)], dtype=object)
    count = WORDS_PER_LINE * LINES_PER_BLOCK * BLOCKS
    written = 0
    with path.open("w", encoding="utf-8") as handle:
        while written < megabytes * 1_000_000:
            ranks = (FLAT * (random.random(count) ** (-1 / TAIL) - 1)).clip(max=2**62).astype(np.int64)
            words = table[np.minimum(ranks, len(table) - 1)]
            for place in np.flatnonzero(ranks >= len(table)):
                words[place] = spell(int(ranks[place]))
            lines = ["The " + " ".join(line) + "." for line in words.reshape(-1, WORDS_PER_LINE)]
            blocks = ["\n".join(lines[i : i + LINES_PER_BLOCK]) for i in range(0, len(lines), LINES_PER_BLOCK)]
            text = "\n\n".join(blocks) + "\n\n"
            handle.write(text)
            written += len(text)
