"""Trouble with a text's encoding: counted, not mended.

mojibake        characters that only make sense as bytes read in a wrong encoding ("Ã©" for é; ftfy's `badness`)
replacement     U+FFFD, what a decoder put where it understood nothing
control         control characters other than tab, line feed and carriage return
entities        HTML's entities that were left in the text (&amp; &#8217;)
not_nfc         characters that Unicode's normal form C spells otherwise (e and a combining accent for é)
"""

from __future__ import annotations

import re
import unicodedata

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,5});")
TROUBLES = ("mojibake", "replacement", "control", "entities", "not_nfc")


def encoding_trouble(text: str) -> dict[str, int]:
    """Return how many of each kind a text has; kinds that it has none of are left out.

    >>> encoding_trouble("CafÃ© &amp; bar"), encoding_trouble("Café & bar")
    ({'mojibake': 1, 'entities': 1}, {})
    """
    found = {
        "mojibake": 0 if text.isascii() else _badness(text),
        "replacement": text.count("\ufffd"),
        "control": len(_CONTROL.findall(text)),
        "entities": len(_ENTITY.findall(text)) if "&" in text else 0,
        "not_nfc": 0 if unicodedata.is_normalized("NFC", text) else _changed(text),
    }
    return {kind: count for kind, count in found.items() if count}


def _badness(text: str) -> int:
    from ftfy.badness import badness

    return sum(badness(line) for line in text.split("\n") if not line.isascii())


def _changed(text: str) -> int:
    """Characters that the normal form has fewer of, at least one."""
    return max(1, len(text) - len(unicodedata.normalize("NFC", text)))
