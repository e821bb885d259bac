"""The language of a text, by py3langid (a naive Bayes classifier over byte n-grams, 140 languages, model inside).

Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool"; Barbaresi's maintained version. Short
texts are guesses: a probability comes with each answer, and below `SURE` the answer is `und` (undetermined).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from babyllama.common.scripts import count_scripts

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SURE = 0.5
SAMPLE = 500  # characters looked at: more changes few answers on running text, and each 100 take 15 us
UNDETERMINED = "und"
LOOKED_AT = 50  # texts of which the main language is that of at least half
# Where two scripts write one language together, ISO 15924 names the mixture.
_JAPANESE = {"Hira", "Kana"}


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float]:
    """Name the language of a text (ISO 639-1 where there is one, else 639-3) and its probability.

    >>> identify("The old house stood near the river and nobody lived in it.")[0], identify("12")[0]
    ('en', 'und')
    """
    language, probability = _identifier().classify(text[:SAMPLE])
    if probability < SURE or language == "zxx":  # zxx: no linguistic content
        return UNDETERMINED, float(probability)
    return language, float(probability)


def main_language(texts: Sequence[str]) -> str:
    """Return the language of at least half of up to fifty texts, evenly spread; undetermined where there is none."""
    chosen = texts[:: max(1, len(texts) // LOOKED_AT)][:LOOKED_AT]
    counts = Counter(identify(text)[0] for text in chosen)
    language, count = counts.most_common(1)[0] if counts else (UNDETERMINED, 0)
    return language if 2 * count >= len(chosen) else UNDETERMINED


def writing(characters: Counter[str]) -> str | None:
    """Return the ISO 15924 code of the writing that a text of these characters is in; None without letters.

    Han characters are Japanese beside kana, else simplified or traditional by which of the
    two old character sets, GB 2312 or Big5, holds more of them alone.

    >>> writing(Counter("漢字かな")), writing(Counter("语言")), writing(Counter("語言"))
    ('Jpan', 'Hans', 'Hant')
    """
    counts = count_scripts(characters)
    if not counts:
        return None
    if set(counts) & _JAPANESE and next(iter(counts)) in {"Hani", *_JAPANESE}:
        return "Jpan"
    if next(iter(counts)) == "Hani":
        return "Hant" if _only(characters, "big5", "gb2312") > _only(characters, "gb2312", "big5") else "Hans"
    return next(iter(counts))


def _only(characters: Counter[str], inside: str, outside: str) -> int:
    """Return how many of the characters one character set has and the other has not."""
    return sum(n for c, n in characters.items() if _encodable(c, inside) and not _encodable(c, outside))


def _encodable(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
