"""Minimal pairs in the form that a user has: JSONL, CSV or TSV (also .gz, .zst), a folder of them, folders below it.

A row is an item: one good text and one or several bad ones. Which names hold what is found by itself for the common
sets, and said by `--pair-columns` for the others:

    good=sen,bad=wrong_sen                       the good and the bad text (MultiBLiMP's names)
    good=sen,bad=wrong1+wrong2                   several bad texts: the good one must be likelier than each
    text=sentence,label=grammatical,id=item      a row a text: items share `id`, the label says which text is good
    ...,paradigm=phenomenon,field=...,term=...   how items are grouped (BLiMP: UID, field, linguistics_term)

In JSONL a bad text may also be a list of texts. A paradigm is the column that is named or `UID`, else the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from babyllama.common.errors import ConfigError, DataError
from babyllama.common.records import ROWS, kind_of, mended, read_rows, require_column

KNOWN = (("sentence_good", "sentence_bad"), ("sen", "wrong_sen"), ("good", "bad"), ("correct", "incorrect"))
DEFAULTS = {"paradigm": ("UID",), "id": ("pairID", "pair_id"), "field": ("field",), "term": ("linguistics_term",)}
ROLES = ("good", "bad", "text", "label", *DEFAULTS)
GOOD_LABELS = {"1", "true", "yes", "good", "grammatical", "acceptable", "correct"}
BAD_LABELS = {"0", "false", "no", "bad", "ungrammatical", "unacceptable", "incorrect", "*"}


def parse_columns(text: str | None) -> dict[str, str]:
    """What `--pair-columns` says: role -> name of a column.

    >>> parse_columns("good=sen,bad=wrong1+wrong2")
    {'good': 'sen', 'bad': 'wrong1+wrong2'}

    Raises:
        ConfigError: It is no list of role=name, a role is unknown, or one is missing.
    """
    columns: dict[str, str] = {}
    for part in (text or "").split(","):
        role, _, name = (piece.strip() for piece in part.partition("="))
        if not part.strip():
            continue
        if role not in ROLES or not name:
            raise ConfigError(f"--pair-columns {part.strip()}: expected ROLE=COLUMN with a role of {', '.join(ROLES)}")
        columns[role] = name
    wide, long = {"good", "bad"} & columns.keys(), {"text", "label", "id"} & columns.keys()
    if columns and not (len(wide) == 2 or {"text", "label", "id"} <= columns.keys()) and (wide or long - {"id"}):
        raise ConfigError("--pair-columns: good and bad belong together, or text, label and id")
    return columns


def named_path(given: str) -> tuple[str, Path]:
    """The name and the path of `NAME=PATH`, or of a path, whose last part is its name."""
    path = Path(given).expanduser()
    name, sign, rest = given.partition("=")
    if sign and not path.exists():
        return name, Path(rest).expanduser()
    return path.resolve().name, path


def pair_sets(given: list[str]) -> dict[str, Path]:
    """The sets of `--minimal-pairs` by name.

    Raises:
        ConfigError: Two have one name.
    """
    found: dict[str, Path] = {}
    for name, path in map(named_path, given):
        if name in found:
            told = f"{found[name]} and {path} are both called {name}"
            raise ConfigError(f"--minimal-pairs: {told}; give one a name: --minimal-pairs NAME={path}")
        found[name] = path
    return found


def pair_files(path: Path) -> list[Path]:
    """The files of a set, sorted: a folder's own, or where it has none those of the folders below it.

    Raises:
        DataError: There is none; says what is there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"--minimal-pairs: {path}: no such file or folder")
    own = sorted(file for file in path.iterdir() if file.is_file() and _readable(file, path))
    files = own or sorted(file for file in path.rglob("*") if file.is_file() and _readable(file, path))
    if not files:
        names = sorted({file.suffix or file.name for file in path.rglob("*") if file.is_file()})
        holds = f"it holds {', '.join(names[:6])}" if names else "it is empty"
        raise DataError(f"--minimal-pairs: {path}: no file of pairs there ({', '.join(ROWS)}, also .gz, .zst); {holds}")
    return files


def _readable(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and kind_of(file) in ROWS


def read_items(path: Path, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Items of a set: good, bad (a list), paradigm, id, field, term.

    Args:
        path: A file or a folder.
        columns: Column of each role, from `parse_columns`.

    Raises:
        DataError: Names file and line.
    """
    files = pair_files(path)
    stems = [file.name.split(".")[0] for file in files]
    for file, stem in zip(files, stems, strict=True):
        twice = stems.count(stem) > 1
        paradigm = f"{file.parent.name}/{stem}" if twice and file.parent != path else stem
        read = _long_items if "text" in columns else _wide_items
        yield from read(file, columns, paradigm)


def _wide_items(file: Path, columns: dict[str, str], paradigm: str) -> Iterator[dict[str, Any]]:
    for count, (number, row) in enumerate(read_rows(file)):
        place = f"{file}: line {number}"
        good, bad = _names(row, columns, place)
        texts = [text for name in bad.split("+") for text in _texts(row, name, place)]
        if not texts:
            raise DataError(f"{place}: no text under `{bad}`")
        found = {"good": _one(row, good, place), "bad": texts}
        yield found | _facts(row, columns, paradigm, str(count), place)


def _names(row: dict[str, Any], columns: dict[str, str], place: str) -> tuple[str, str]:
    """The columns of the good and the bad text."""
    if "good" in columns:
        return columns["good"], columns["bad"]
    known = next((names for names in KNOWN if names[0] in row and names[1] in row), None)
    if known is None:
        missing = next((name for name in KNOWN[0] if name not in row), KNOWN[0][0])
        told = f"(found: {', '.join(map(str, list(row)[:8]))})"
        raise DataError(f"{place}: no text under `{missing}` {told}; name the columns: --pair-columns good=A,bad=B")
    return known


def _one(row: dict[str, Any], name: str, place: str) -> str:
    if not isinstance(row.get(name), str):
        raise DataError(f"{place}: no text under `{name}`")
    return mended(row[name])


def _texts(row: dict[str, Any], name: str, place: str) -> list[str]:
    """The texts under a name; an empty cell holds none, so that items may have different numbers of candidates."""
    value = row.get(name)
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return [mended(text) for text in value]
    text = _one(row, name, place)
    return [text] if text or name in KNOWN[0] else []


def _facts(row: dict[str, Any], columns: dict[str, str], paradigm: str, number: str, place: str) -> dict[str, str]:
    """How an item is grouped; its number in the file is its id where it has none."""
    found = {}
    for role, default in (("paradigm", paradigm), ("id", number), ("field", ""), ("term", "")):
        names = [columns[role]] if role in columns else [name for name in DEFAULTS[role] if name in row]
        value = require_column(row, names[0], place) if names else ""
        found[role] = value or default
    return found


def _long_items(file: Path, columns: dict[str, str], paradigm: str) -> Iterator[dict[str, Any]]:
    """Items of a file with a row a text."""
    items: dict[tuple[str, str], dict[str, Any]] = {}
    for number, row in read_rows(file):
        place = f"{file}: line {number}"
        facts = _facts(row, columns, paradigm, "", place)
        item = items.setdefault((facts["paradigm"], facts["id"]), {"good": None, "bad": [], **facts})
        label = require_column(row, columns["label"], place).strip().lower()
        if label in GOOD_LABELS and item["good"] is None:
            item["good"] = require_column(row, columns["text"], place)
        elif label in BAD_LABELS:
            item["bad"].append(require_column(row, columns["text"], place))
        else:
            told = "a second good text" if label in GOOD_LABELS else "neither good nor bad"
            raise DataError(f"{place}: item {facts['id']}: label {label!r}: {told}")
    for (_, name), item in items.items():
        if item["good"] is None or not item["bad"]:
            missing = "good" if item["good"] is None else "bad"
            raise DataError(f"{file}: item {name}: no {missing} text")
        yield item
