r"""Sentences, words and their number in text of any script, by Unicode's properties (the `regex` package).

A **word** is what stands between white space, as `wc -w` counts. Some scripts write no spaces between words: Chinese,
Japanese, Thai, Lao, Khmer, Burmese, Tibetan and a few smaller ones (`UNSPACED`). Where words end there is a matter of
dictionaries that disagree, so the unit is the one that needs none: the *grapheme cluster*, what a reader takes for one
character (Unicode Standard Annex 29). In a text a quarter of whose letters are of such scripts, each cluster of these
scripts counts once, each run of other letters and digits once, and punctuation not at all:

    text     Hello, world!     你好，world！     เด็ก ดี          नमस्ते दुनिया
    words    2                 2 + 1 = 3         3 + 1 = 4        2

A **sentence** ends with one of Unicode's sentence terminators (`Sentence_Break` STerm and ATerm: . ! ? and । ؟ ۔ ։ ።
and about 170 more) that stands before white space. Where a script writes no spaces it ends with 。！？ and their like
and the closing quotes behind them. Thai and Lao have no terminators: there it is a phrase between white space.

Text in scripts with spaces is treated as `str.split` treats it, which a test holds to be equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import regex

# LB=SA is Unicode's line break class "complex context": Thai, Lao, Khmer, Burmese and the Tai scripts.
UNSPACED = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Bopomofo}\p{LB=SA}"
    r"\p{Script=Tibetan}\p{Script=Javanese}\p{Script=Balinese}"
)
TERMINATORS = r"\p{SB=STerm}\p{SB=ATerm}"
# The blocks that hold these scripts, and some neighbours: `re` tells at 200 MB/s that a text has none of them.
_MAYBE_UNSPACED = re.compile(
    "[\u02ea\u02eb\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf\u3005-\u303b\u3041-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u32d0-\u3357\u3400-\u9fff\ua980-\uaadf\uf900-\ufaff\uff66-\uff9f"
    "\U00011700-\U0001174f\U00016fe0-\U00016fff\U0001aff0-\U0001b16f\U0001f200\U00020000-\U0003ffff]"
)
_HAS_UNSPACED = regex.compile(rf"[{UNSPACED}]")
_LETTER = regex.compile(r"\p{L}")
_RUN = re.compile(r"\S+")
_UNIT = regex.compile(rf"(?=[{UNSPACED}])\X|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}'’_\u200c\u200d])+")
_OPENING = regex.compile(r"[\p{Ps}\p{Pi}]+$")
_CLUSTER = regex.compile(r"\X")
LONGEST_CLUSTER = 256  # characters; what is longer is no writing and may be cut

_SENTENCE = regex.compile(rf"(?<![^\s])[^{TERMINATORS}\n]+[{TERMINATORS}](?=\s|$)")
_MARK = rf"(?:[。！？．｡︒︕︖﹒﹖﹗។៕၊။།༎꧈꧉᭞᭟]|(?<=[{UNSPACED}])[.!?])"
_UNSPACED_SENTENCE = regex.compile(rf"\S(?:(?!{_MARK})[^\n])*{_MARK}+[\p{{Pe}}\p{{Pf}}\"'”’」』]*")
_UNMARKED = regex.compile(r"[\p{LB=SA}\p{Script=Tibetan}]")


def is_unspaced(text: str) -> bool:
    """Tell whether a text holds a letter of a script that writes no spaces between words.

    >>> is_unspaced("你好"), is_unspaced("Grüße aus Köln")
    (True, False)
    """
    return not text.isascii() and bool(_MAYBE_UNSPACED.search(text)) and bool(_HAS_UNSPACED.search(text))


def writes_unspaced(text: str) -> bool:
    """Tell whether at least a quarter of a text's letters are of scripts that write no spaces between words."""
    return is_unspaced(text) and 4 * len(_HAS_UNSPACED.findall(text)) >= len(_LETTER.findall(text))


def _unit_starts(text: str, run: re.Match[str]) -> list[int]:
    """Return where the words of one run of an unspaced text begin; at least one place."""
    return [unit.start() for unit in _UNIT.finditer(text, run.start(), run.end())] or [run.start()]


def word_starts(text: str) -> list[int]:
    """Find the characters at which the words of a text begin.

    >>> word_starts("go 你好"), word_starts(" a dog ")
    ([0, 3, 4], [1, 3])
    """
    if not writes_unspaced(text):
        return [run.start() for run in _RUN.finditer(text)]
    return [start for run in _RUN.finditer(text) for start in _unit_starts(text, run)]


def words(text: str) -> list[str]:
    """List the words of a text: `str.split`, but the units of scripts without spaces come one by one.

    >>> words("你好，world！"), words("Hello, world!")
    (['你', '好', 'world'], ['Hello,', 'world!'])
    """
    if not writes_unspaced(text):
        return text.split()
    return [word for run in text.split() for word in _UNIT.findall(run) or [run]]


def count_words(text: str) -> int:
    """Count the words of a text: what `wc -w` says, but for scripts without spaces (see the module's head)."""
    return len(words(text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Cut a text into its words so that every character is in exactly one of them.

    White space belongs to the word behind it (at the text's end to the last word), punctuation to the word before it,
    opening punctuation to the word behind it.

    Returns:
        (start, end) of each word; the first begins at 0 and the last ends with the text. None for a text without words.

    >>> word_spans("A dog. ran "), word_spans("「你好」")
    ([(0, 1), (1, 6), (6, 11)], [(0, 2), (2, 4)])
    """
    starts: list[int] = []
    behind = 0  # the end of the run before
    unspaced = writes_unspaced(text)
    for run in _RUN.finditer(text):
        first, *others = _unit_starts(text, run) if unspaced else [run.start()]
        starts.append(behind)
        starts += [start - _opening(text, max(first + 1, start - 8), start) for start in others]
        behind = run.end()
    return list(zip(starts, [*starts[1:], len(text)], strict=True)) if starts else []


def _opening(text: str, low: int, end: int) -> int:
    """Return how many characters of opening punctuation stand before `end`, not counting those before `low`."""
    found = _OPENING.search(text, low, end)
    return len(found[0]) if found else 0


def sentences(text: str) -> list[str]:
    """List the sentences of a text, each on one line and with its closing mark, stripped of white space around it.

    >>> sentences("Er lief. Warum? Weil"), sentences("他走了。为什么？"), sentences("यह घर है। वह गया।")
    (['Er lief.', 'Warum?'], ['他走了。', '为什么？'], ['यह घर है।', 'वह गया।'])
    """
    if not is_unspaced(text):
        return [found.strip() for found in _SENTENCE.findall(text)]
    return [sentence for line in text.split("\n") for sentence in _of_line(line)]


def _of_line(line: str) -> list[str]:
    if not writes_unspaced(line):
        return [found.strip() for found in _SENTENCE.findall(line)]
    found = _UNSPACED_SENTENCE.findall(line)
    return found or (line.split() if _UNMARKED.search(line) else [])


def clusters(text: str) -> list[str]:
    """List the grapheme clusters of a text (what a reader takes for one character).

    >>> len(clusters("ก็")), len("ก็")
    (1, 2)
    """
    return _CLUSTER.findall(text)


def cluster_cut(text: str, place: int) -> int:
    """Return the last place not behind `place` where a text may be cut without parting a grapheme cluster.

    >>> cluster_cut("ก็ก็", 3), cluster_cut("abc", 2)
    (2, 2)
    """
    if not 0 < place < len(text):
        return max(0, min(place, len(text)))
    begin = max(0, place - LONGEST_CLUSTER)
    for cluster in _CLUSTER.finditer(text, begin):
        if cluster.end() > place:
            return cluster.start() if cluster.start() > begin or not begin else place
    return place


def pieces(text: str, longest: int) -> Iterator[str]:
    """Cut a text into pieces of at most `longest` characters between grapheme clusters; joined they are the text.

    >>> list(pieces("ก็ก็ก็", 3))
    ['ก็', 'ก็', 'ก็']
    """
    start = 0
    while len(text) - start > longest:
        cut = start + cluster_cut(text[start : start + longest + LONGEST_CLUSTER], longest)
        cut = cut if cut > start else start + longest
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]


def beginning(text: str) -> str:
    """Return a text's first six words, in a script without spaces its first twelve grapheme clusters.

    >>> beginning("One two  three four five six seven")
    'One two three four five six'
    """
    if not writes_unspaced(text[:500]):
        return " ".join(text.split()[:6])
    starts = word_starts(text[:500])
    return text[: starts[12] if len(starts) > 12 else len(text)].strip()
