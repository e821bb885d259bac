"""Scripts of a text: letters counted by Unicode's property Script, named by ISO 15924."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

import regex

SCRIPTS = {
    **{"Latn": "Latin", "Cyrl": "Cyrillic", "Grek": "Greek", "Armn": "Armenian", "Geor": "Georgian", "Copt": "Coptic"},
    **{"Hebr": "Hebrew", "Arab": "Arabic", "Syrc": "Syriac", "Thaa": "Thaana", "Nkoo": "Nko", "Adlm": "Adlam"},
    **{"Deva": "Devanagari", "Beng": "Bengali", "Guru": "Gurmukhi", "Gujr": "Gujarati", "Orya": "Oriya"},
    **{"Taml": "Tamil", "Telu": "Telugu", "Knda": "Kannada", "Mlym": "Malayalam", "Sinh": "Sinhala"},
    **{"Thai": "Thai", "Laoo": "Lao", "Tibt": "Tibetan", "Mymr": "Myanmar", "Khmr": "Khmer", "Lana": "Tai_Tham"},
    **{"Java": "Javanese", "Bali": "Balinese", "Sund": "Sundanese", "Tglg": "Tagalog", "Olck": "Ol_Chiki"},
    **{"Hani": "Han", "Hira": "Hiragana", "Kana": "Katakana", "Bopo": "Bopomofo", "Hang": "Hangul", "Yiii": "Yi"},
    **{"Ethi": "Ethiopic", "Tfng": "Tifinagh", "Cher": "Cherokee", "Cans": "Canadian_Aboriginal", "Vaii": "Vai"},
    **{"Mong": "Mongolian"},
}
"""ISO 15924 code -> Unicode's name."""
OTHER = "Zyyy"  # ISO 15924's code for what cannot be told; here: letters of scripts that are not in SCRIPTS
RIGHT_TO_LEFT = frozenset({"Hebr", "Arab", "Syrc", "Thaa", "Nkoo", "Adlm"})
_PATTERNS = {code: regex.compile(rf"\p{{Script={name}}}") for code, name in SCRIPTS.items()}
_LETTER = regex.compile(r"[\p{L}\p{M}]")
_INHERITED = regex.compile(r"[\p{Script=Inherited}\p{Script=Common}]")


@lru_cache(maxsize=65_536)
def script_of(character: str) -> str | None:
    """Return the script of a letter or mark as ISO 15924 code; None for digits, punctuation and marks of every script.

    >>> script_of("ж"), script_of("漢"), script_of("7")
    ('Cyrl', 'Hani', None)
    """
    if not _LETTER.match(character) or _INHERITED.match(character):
        return None
    return next((code for code, pattern in _PATTERNS.items() if pattern.match(character)), OTHER)


def count_scripts(characters: Mapping[str, int] | Iterable[str]) -> dict[str, int]:
    """Count letters by script, the most frequent first.

    Args:
        characters: A text, or how often each character occurs.

    >>> count_scripts("Да, yes!")
    {'Latn': 3, 'Cyrl': 2}
    """
    counts: Counter[str] = Counter()
    for character, number in Counter(characters).items():
        script = script_of(character)
        if script is not None:
            counts[script] += number
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def is_right_to_left(text: str) -> bool:
    """Tell whether more than half of a text's letters are of scripts that are written from right to left."""
    counts = count_scripts(text)
    return 2 * sum(counts.get(script, 0) for script in RIGHT_TO_LEFT) > sum(counts.values())
