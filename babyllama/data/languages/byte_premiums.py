"""Byte premiums: how many bytes of UTF-8 a language needs for what takes one byte in English.

A budget in words means little across languages, and bytes favour scripts of one byte a letter: Burmese needs 5.1 bytes
where English needs one. Bytes divided by the premium are comparable amounts of *content* (Arnett, Chang and Bergen
2024, "A Bit of a Problem: Measurement Disparities in Dataset Sizes Across Languages", arXiv 2403.00686). The table
beside this file holds their 1,155 languages, each measured on parallel text (NLLB, FLORES or the Bible).

    >>> premium_of("tha_thai").premium, premium_of("th").language
    (2.741647, 'tha_thai')
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("byte_premiums.tsv")

# ISO 639-1 -> the ISO 639-3 code that the table uses (of macrolanguages the member that it has).
_LONG = dict(
    pair.split(":")
    for pair in (
        "af:afr am:amh ar:arb as:asm az:azj ba:bak be:bel bg:bul bn:ben br:bre bs:bos ca:cat cs:ces cy:cym "
        "da:dan de:deu dz:dzo el:ell en:eng eo:epo es:spa et:est eu:eus fa:pes fi:fin fo:fao fr:fra ga:gle "
        "gd:gla gl:glg gu:guj ha:hau he:heb hi:hin hr:hrv ht:hat hu:hun hy:hye id:ind ig:ibo is:isl it:ita "
        "ja:jpn jv:jav ka:kat kk:kaz km:khm kn:kan ko:kor ku:kmr ky:kir la:lat lb:ltz lg:lug ln:lin lo:lao "
        "lt:lit lv:lvs mg:plt mk:mkd ml:mal mn:khk mr:mar ms:zsm mt:mlt my:mya ne:npi nl:nld nn:nno no:nob "
        "oc:oci om:gaz or:ory pa:pan pl:pol ps:pbt pt:por qu:quy ro:ron ru:rus rw:kin sa:san si:sin sk:slk "
        "sl:slv sn:sna so:som sq:als sr:srp st:sot sv:swe sw:swh ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk "
        "tl:tgl tr:tur tt:tat ug:uig uk:ukr ur:urd uz:uzn vi:vie xh:xho yo:yor zh:zho zu:zul"
    ).split()
)


@dataclass(frozen=True, slots=True)
class BytePremium:
    """The premium of one language.

    Attributes:
        language: ISO 639-3 and ISO 15924, as in `tha_thai`.
        premium: Bytes for what takes one byte in English.
        source: The parallel text that it was computed from: nllb, flores or bible.
    """

    language: str
    premium: float
    source: str


@cache
def table() -> dict[str, BytePremium]:
    """Return all premiums by language."""
    rows = (line.split("\t") for line in TABLE.read_text(encoding="utf-8").split("\n") if line and line[0] != "#")
    next(rows)  # the names of the columns
    return {name: BytePremium(name, float(premium), source) for name, premium, source in rows}


def premium_of(language: str, script: str | None = None) -> BytePremium | None:
    """Look up a language's premium.

    Args:
        language: `tha_thai`, or ISO 639-3 (`tha`), or ISO 639-1 (`th`).
        script: ISO 15924 code where the language alone does not say it; None: the only one there is, else none.

    Returns:
        None where the table does not have it.

    >>> premium_of("sr"), premium_of("sr", "Cyrl").language
    (None, 'srp_cyrl')
    """
    key = language.lower().replace("-", "_")
    if key in table():
        return table()[key]
    key = _LONG.get(key, key)
    if script is not None:
        return table().get(f"{key}_{script.lower()}")
    found = [premium for name, premium in table().items() if name.split("_")[0] == key]
    return found[0] if len(found) == 1 else None
