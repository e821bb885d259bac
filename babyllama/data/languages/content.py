"""How much a text says: bytes over the byte premium of its language, a unit beside words that languages share.

A word of Finnish is two of English, Chinese has none between spaces, and a byte of Thai says a third of an English one.
Bytes over the premium (byte_premiums.py) are the bytes that English would need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from babyllama.data.languages.byte_premiums import premium_of
from babyllama.data.languages.identify import main_language, writing


def content(size: int, sample: Sequence[str]) -> dict[str, Any]:
    """Return a text's bytes, its language and script, and its bytes over the byte premium.

    Args:
        size: UTF-8 bytes of the whole text.
        sample: Texts or parts of texts, by which language and script are told.

    >>> found = content(2742, ["แมวนั่งอยู่ใต้โต๊ะ และสุนัขนอนหลับอยู่ข้างประตู"])
    >>> found["byte_premium_of"], found["bytes_over_premium"]
    ('tha_thai', 1000)
    """
    language, script = main_language(sample), writing(Counter("".join(sample)))
    premium = premium_of(language, script)
    return {
        "bytes": size,
        "language": language,
        "script": script,
        "byte_premium": premium.premium if premium else None,
        "byte_premium_of": premium.language if premium else None,
        "bytes_over_premium": round(size / premium.premium) if premium else None,
    }


def total_over_premium(domains: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Return the sum of bytes over premium; None where one domain's language has no premium."""
    amounts = [figures["bytes_over_premium"] for figures in domains.values()]
    return None if None in amounts else sum(amounts)
