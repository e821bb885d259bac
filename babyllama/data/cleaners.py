"""Cleaning by domain: pure functions from text to text that keep lines as lines.

The domain is a file's stem (`childes.train` -> childes). What is removed is what its source added to the language:
transcription codes, time stamps, credits, markup. Words, numbers, abbreviations, URLs, quotes and speaker labels stay
(more than half of the BLiMP supplement's dialogue items begin with a label; `data.speaker_labels: remove` drops them).
Change a rule and raise CLEANER_VERSION: it is part of the cache's key.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from babyllama.config.schema import DataConfig
from babyllama.data.documents import DIALOGUES
from babyllama.plugins import CLEANERS

CLEANER_VERSION = 3
SPELLING_VERSION = 1  # part of the cache's key where data.spelling is set
Cleaner = Callable[[str], str]

TRANSCRIPTS = {"childes", "aochildes"}
LABELLED = DIALOGUES | TRANSCRIPTS | {"open_subtitles", "default"}

_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")
_TRAILING = re.compile(r"[ \t\u00a0]+$", re.M)
_BLANK_RUN = re.compile(r"\n{4,}")
_TAG = re.compile(
    r"</?(?:br|dl|dd|dt|eom|small|sub|sup|ref|i|b|u|font|span|div|p|li|ul|ol|nowiki)(?:\s[^<>\n]*)?/?>", re.I
)
_TITLE = re.compile(r"^[ \t]*(?:=[ \t]*){2,}(.*?)(?:[ \t]*=){2,}[ \t]*$", re.M)
_EMPTY_BRACKETS = re.compile(r" ?\((?:[ ,;]|or|and)*\)")
_GAP_BEFORE_STOP = re.compile(r"(?<=\w) +(?=[,.;](?:\s|$))", re.M)
_CHAT_CODE = re.compile(r"\[[^\]\n]*\]|&[=+~-]?[a-z]+\b|\(\.{1,3}\)|[<>]|\x15[^\x15\n]*\x15|‡|„")
_UNCLEAR = re.compile(r"(?<!\S)(?:xxx|yyy|www)(?!\S) ?")
_JOINED = re.compile(r"(?<=[A-Za-z])[+_](?=[A-Za-z])")
_TIME_STAMP = re.compile(
    r"^\s*(?:\d+\s*$(?=\n\s*\d\d?:\d\d:)|(?:\d\d?:)?\d\d?:\d\d[.,:]\d{2,3}\s*-->.*$|\[?(?:\d\d?:)?\d\d?:\d\d(?:[.,]\d+)?\]?\s*$)\n?",
    re.M,
)
# A credit is a line of its own that begins with what was done and goes on with names, never a sentence about it.
_DONE = (
    r"(?:subtitles?|captions?|captioning|transcript(?:ion)?s?|transcribed|translated|translations?|synced|sync|"
    r"corrections?|corrected|encoded|ripped|resync(?:ed)?)"
)
_NAME = r"(?:[^\W\d_a-z][\w'’.-]*|\w*[\d_@]\w*|\w+\.(?:org|com|net)\S*|the|team|community|&|and|of|de|van|von|\+)"
_CREDIT = re.compile(
    rf"^\W*(?i:{_DONE}(?:\s*(?:and|&|,|/)\s*{_DONE})*)\s*(?:(?i:by)\s*:?|:)[ \t]*{_NAME}(?:[ \t,;]+{_NAME})*\W*$\n?|"
    r"^.*(?i:opensubtitles\.(?:org|com)|addic7ed\.com|www\.\S*subs?\S*).*$\n?",
    re.M,
)
# A sound's brackets hold nothing but names of sounds and what goes with them: "(music is what we hear)" is a sentence.
_SOUND_NAME = r"(?:music|applause|laughter|laughs|laughing|inaudible|unclear|crosstalk|silence|noises?|cheering|cheers)"
_WITH_SOUND = r"(?:and|in|from|the|background|audience|loud|soft|playing|plays|stops|starts|ends|continues|word|\d+)"
_SOUND = re.compile(
    rf"[\[(][ \t]*(?:{_WITH_SOUND}[ \t,;]+)*{_SOUND_NAME}"
    rf"(?:[ \t,;/&-]+(?:{_SOUND_NAME}|{_WITH_SOUND}))*[ \t.!]*[\])] ?",
    re.I,
)
_LEADING_DASH = re.compile(r"^- ?(?=\S)", re.M)
_ITALICS = re.compile(r"(?<![\w_])_([^_\n]+(?:\n[^_\n]+){0,3})_(?![\w_])")
_ILLUSTRATION = re.compile(r"^\s*\[(?:illustration|footnote|transcriber)[^\]]*\]\s*$\n?", re.M | re.I)
_GUTENBERG_LINE = re.compile(r"^.*\*\*\* ?(?:START|END) OF (?:THE|THIS) PROJECT GUTENBERG.*$\n?", re.M)
_LABEL = re.compile(r"^(?:\*[A-Z0-9]{2,4}|[A-Z]{1,12}\d{0,3}|[A-Z][a-z]{2,11}):(?:[ \t]+|$)", re.M)
_LABEL_TAB = re.compile(r"^((?:\*[A-Z0-9]{2,4}|[A-Z]{1,12}\d{0,3}|[A-Z][a-z]{2,11}):)\t", re.M)
_GAP_BEFORE_MARK = re.compile(r"(?<=\S) +(?=[.?!,;:](?:\s|$))", re.M)
_FIRST_LETTER = re.compile(
    r"(^(?:(?:\*[A-Z0-9]{2,4}|[A-Z]{1,12}\d{0,3}):[ \t]+)?[\"'(“‘]?|(?<!\.\w)[.?!] +[\"'(“‘]?)([^\W\d_])", re.M
)
_LONE_I = re.compile(r"(?<![\w'’-])i(?=(?:['’](?:m|ll|ve|d|s)\b)|[\s.,?!;:]|$)", re.M)
_PENN = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "``": '"', "''": '"'}
_PENN_TOKEN = re.compile("|".join(map(re.escape, _PENN)))


def clean_common(text: str) -> str:
    """Return what every domain needs: no control characters, no spaces at line ends, at most two blank lines.

    U+200B to U+200D and U+2060 stay: Khmer and Thai mark words by the first, Persian and Indic scripts spell with the
    others.
    """
    return _BLANK_RUN.sub("\n\n\n", _TRAILING.sub("", _CONTROL.sub("", text)))


def remove_speaker_labels(text: str) -> str:
    """Drop `*MOT:`, `A:`, `USER:` at line starts."""
    return _LABEL.sub("", text)


def spell_labels(text: str) -> str:
    r"""Put a blank for the tab behind a speaker label.

    >>> spell_labels("A:\tyes .\nUSER:\tno\n a:\tb")
    'A: yes .\nUSER: no\n a:\tb'
    """
    return _LABEL_TAB.sub(r"\1 ", text)


def spell_sentences(text: str) -> str:
    r"""Spell CHILDES-like utterances as written English: capitals, attached punctuation, `I`.

    A sentence begins with a capital (behind a speaker label, too), a mark stands at the word before it, and the pronoun
    `i` is `I`. Names stay as they are: transcripts write them with capitals.

    >>> spell_sentences("*MOT:\tis that a bird ?\nwell , i think it's a lamb .\ni'm here .")
    "*MOT:\tIs that a bird?\nWell, I think it's a lamb.\nI'm here."
    """
    text = _LONE_I.sub("I", _GAP_BEFORE_MARK.sub("", text))
    return _FIRST_LETTER.sub(lambda found: found[1] + found[2].upper(), text)


def spell_turns(text: str, domain: str, data: DataConfig, *, known: bool) -> str:
    """Spell cleaned text as `data.speaker_labels` and `data.spelling` say.

    Args:
        text: Cleaned text.
        domain: Domain of the text.
        data: The config's `data` section.
        known: Whether the domain has rules of its own; one without may have labels.
    """
    labelled = domain in LABELLED or not known
    if data.speaker_labels == "remove" and labelled:
        text = remove_speaker_labels(text)
    if data.spelling == "sentence":
        text = spell_labels(text) if labelled else text
        text = spell_sentences(text) if domain in TRANSCRIPTS else text
    return text


def spelling_key(data: DataConfig) -> list[Any]:
    """What of the spelling the cache's key depends on; nothing where it is off, as in keys made before it was there."""
    return [] if data.spelling == "as_is" else [data.spelling, SPELLING_VERSION]


class DomainCleaners:
    """The rules, one method a domain; subclass and override to change one."""

    def default(self, text: str) -> str:
        """Return text of no known source."""
        return clean_common(text)

    def childes(self, text: str) -> str:
        """CHAT transcripts: codes, unclear speech (xxx) and joined words (bunny+rabbit, Pooh_Bear)."""
        text = _JOINED.sub(" ", _UNCLEAR.sub("", _CHAT_CODE.sub("", text)))
        return clean_common(re.sub(r"(?<=\S)  +", " ", text))

    def bnc_spoken(self, text: str) -> str:
        """British National Corpus, spoken part: leftover tags and sound notes."""
        return clean_common(_SOUND.sub("", _TAG.sub("", text)))

    def switchboard(self, text: str) -> str:
        """Telephone dialogues: sound notes; the labels A: and B: stay."""
        return clean_common(_SOUND.sub("", text))

    def gutenberg(self, text: str) -> str:
        """Books: `_italics_`, notes of illustrations, the project's own lines."""
        text = _GUTENBERG_LINE.sub("", _ILLUSTRATION.sub("", text))
        return clean_common(_ITALICS.sub(r"\1", text))

    def cbt(self, text: str) -> str:
        """Children's Book Test: Penn Treebank spellings of brackets and quotes."""
        return clean_common(_PENN_TOKEN.sub(lambda match: _PENN[match.group()], text))

    def open_subtitles(self, text: str) -> str:
        """Film subtitles: time stamps, credits, markup, the dash before a turn."""
        text = _CREDIT.sub("", _TIME_STAMP.sub("", _TAG.sub("", text)))
        return clean_common(_LEADING_DASH.sub("", text))

    def qed(self, text: str) -> str:
        """Subtitles of lectures: time stamps, credits, sounds, entities."""
        text = _CREDIT.sub("", _TIME_STAMP.sub("", html.unescape(text)))
        return clean_common(_SOUND.sub("", _TAG.sub("", text)))

    def wikipedia(self, text: str) -> str:
        """Extracted articles: `= = = Title = = =` becomes its title; tags, entities and gaps of templates go."""
        text = _TITLE.sub(r"\1", _TAG.sub("", html.unescape(text).replace("\x85", " ")))
        return clean_common(_GAP_BEFORE_STOP.sub("", _EMPTY_BRACKETS.sub("", text)))


_METHODS = {
    "childes": "childes",
    "aochildes": "childes",
    "bnc_spoken": "bnc_spoken",
    "switchboard": "switchboard",
    "gutenberg": "gutenberg",
    "children_stories": "gutenberg",
    "cbt": "cbt",
    "open_subtitles": "open_subtitles",
    "qed": "qed",
    "wikipedia": "wikipedia",
    "simple_wiki": "wikipedia",
    "simple_wikipedia": "wikipedia",
    "wikinews": "wikipedia",
}


def create_cleaner_registry(cleaners: DomainCleaners | None = None) -> dict[str, Cleaner]:
    """Return domain -> cleaner, the user's registered ones last; look up with `.get(domain, registry["default"])`."""
    cleaners = cleaners or DomainCleaners()
    registry: dict[str, Cleaner] = {domain: getattr(cleaners, method) for domain, method in _METHODS.items()}
    return {**registry, "default": cleaners.default, **CLEANERS}


def domain_of(path: str | Path) -> str:
    """Return a file's domain: its name up to the first dot, in lower case.

    >>> domain_of("data/BNC_spoken.train.gz")
    'bnc_spoken'
    """
    name = Path(path).name.split(".")[0].lower()
    return name.encode("utf-8", "replace").decode("utf-8")  # a name of an old archive may be no UTF-8
