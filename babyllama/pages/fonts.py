"""Fonts of figures for the letters that matplotlib's own font has not: found on the system, none is shipped.

DejaVu Sans, which comes with matplotlib, draws Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew and Arabic. Names of
domains and runs may be in any script. matplotlib 3.11 shapes text (joined Arabic, reordered Devanagari, right to left)
with the font it is given; what no font here can draw is told in a line. Pages are not concerned: the browser draws
their text, that of their figures included, with its own fonts.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from babyllama.common.console import say
from babyllama.common.scripts import OTHER, SCRIPTS, script_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Fonts of the usual systems that do not carry their script's name; tried before all others.
_KNOWN = {
    **dict.fromkeys(("Hani", "Bopo"), ("Noto Sans CJK SC", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "SimHei")),
    **dict.fromkeys(("Hira", "Kana"), ("Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "Yu Gothic", "MS Gothic")),
    "Hang": ("Noto Sans CJK KR", "Noto Sans KR", "Apple SD Gothic Neo", "Malgun Gothic"),
    "Thai": ("Noto Sans Thai", "Thonburi", "Leelawadee UI", "Tahoma"),
    "Deva": ("Noto Sans Devanagari", "Kohinoor Devanagari", "Nirmala UI", "Mangal"),
}
_LAST = ("Arial Unicode MS", "Unifont")  # letters of many scripts, not drawn well


def use_fonts(figure: Figure) -> None:
    """Give each text of a figure the fonts that its letters need, and say which scripts no font here has.

    Args:
        figure: A matplotlib figure with all of its texts set.
    """
    from matplotlib.text import Text

    for axes in figure.axes:  # names of ticks are made when they are asked for
        axes.get_xticklabels(), axes.get_yticklabels()
    for text in figure.findobj(Text):
        families, missing = fonts_for(text.get_text())
        if families:
            text.set_fontfamily([*text.get_fontfamily(), *families])
        for script in missing:
            _tell(script)


def fonts_for(text: str) -> tuple[list[str], list[str]]:
    """Find the fonts that a text needs besides matplotlib's own.

    Args:
        text: A text of any scripts.

    Returns:
        Families in the order of the text, and ISO 15924 codes of the scripts that no font has.

    >>> fonts_for("Latin, кириллица, عربي")
    ([], [])
    """
    if text.isascii():
        return [], []
    lacking: dict[str, set[int]] = {}
    own = _letters(_file_of("DejaVu Sans"))
    for character in text:
        if (script := script_of(character)) is not None and ord(character) not in own:
            lacking.setdefault(script, set()).add(ord(character))
    found = {script: _family(script, frozenset(letters)) for script, letters in lacking.items()}
    return [family for family in found.values() if family], [script for script, family in found.items() if not family]


@cache
def _family(script: str, letters: frozenset[int]) -> str | None:
    """The first font of the system that has these letters: well-known ones, then those named after the script."""
    name = SCRIPTS.get(script, "").replace("_", " ")
    known = _KNOWN.get(script, (f"Noto Sans {name}",))
    files = _files()
    named = sorted(family for family in files if name and name in family)
    others = sorted(set(files) - set(_LAST))
    for family in dict.fromkeys([*known, *named, *others, *_LAST]):
        if family in files and letters <= _letters(files[family]):
            return family
    return None


@cache
def _files() -> dict[str, str]:
    """Font family -> file, of the upright fonts of normal weight where there are any."""
    from matplotlib.font_manager import fontManager

    entries = sorted(fontManager.ttflist, key=lambda e: (e.style == "normal", e.weight in (400, "normal", "regular")))
    return {entry.name: entry.fname for entry in entries}


def _file_of(family: str) -> str:
    return _files()[family]


@cache
def _letters(file: str) -> frozenset[int]:
    """Code points that a font has; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _tell(script: str) -> None:
    name = "letters of a rare script" if script == OTHER else SCRIPTS[script].replace("_", " ")
    say(f"figures: no font here has {name}: it is boxes in *.png (Noto fonts have it); pages are drawn by the browser")


def scripts_without_font(texts: Iterable[str]) -> list[str]:
    """Return ISO 15924 codes of the scripts of some texts that no font of this system has."""
    return sorted({script for text in texts for script in fonts_for(text)[1]})
