"""Rows of a file with named columns: CSV, TSV and JSONL, plain or compressed (.gz, .zst), read as a stream.

What a user's file holds is text: every value of a CSV stays a string, a JSONL value is kept as it is. Whatever cannot
be used is a DataError that names the file and the line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from babyllama.common.errors import DataError

if TYPE_CHECKING:
    from pyarrow import NativeFile

COMPRESSED = (".gz", ".zst")
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
ROWS = (*DELIMITERS, ".jsonl")


def bare_name(path: Path) -> Path:
    """Return a path without the ending that says how it is compressed."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def kind_of(path: Path) -> str:
    """Return a file's ending in lower case, that of its compression left out.

    >>> kind_of(Path("pairs.JSONL.gz"))
    '.jsonl'
    """
    return bare_name(path).suffix.lower()


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a file's bytes, those behind its compression."""
    ending = path.suffix.lower()
    if ending == ".gz":
        with gzip.open(path, "rb") as handle:
            yield handle  # type: ignore[misc]
    elif ending == ".zst":
        import pyarrow as pa

        with pa.input_stream(str(path), compression="zstd") as stream, io.BufferedReader(_Readable(stream)) as handle:
            yield handle  # type: ignore[misc]
    else:
        with path.open("rb") as handle:
            yield handle


class _Readable(io.RawIOBase):
    """A pyarrow stream as Python's own kind of stream."""

    def __init__(self, stream: NativeFile) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        block = self.stream.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def read_rows(path: Path, errors: str = "strict") -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows of a CSV, TSV or JSONL file, each with its line's number.

    Args:
        path: A file whose ending is one of ROWS, also compressed; a CSV's delimiter is `,`, or `;` where the line of
            names has more of those.
        errors: `strict` stops at bytes that are not UTF-8, `replace` puts U+FFFD there.

    Yields:
        (number of the line that the row ends on, column -> value), in the file's order. Empty lines are passed over.

    Raises:
        DataError: The file is not UTF-8, not in this form, or a row has more or fewer values than there are names.
    """
    kind = kind_of(path)
    if kind not in ROWS:
        raise DataError(f"{path}: expected rows with named columns: {', '.join(ROWS)} (also .gz, .zst)")
    try:
        with (
            open_binary(path) as handle,
            io.TextIOWrapper(handle, encoding="utf-8-sig", errors=errors, newline="") as text,
        ):
            yield from _json_rows(path, text) if kind == ".jsonl" else _delimited_rows(path, text, DELIMITERS[kind])
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (0x{error.object[error.start]:02x}); convert the file") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _json_rows(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number}: {type(row).__name__}, not an object with names")
        yield number, row


def _delimited_rows(path: Path, text: io.TextIOWrapper, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # How the file is written: its delimiter and its quotes.
    head = text.readline()
    if delimiter == "," and head.count(";") > head.count(","):
        delimiter = ";"
    quoting = csv.QUOTE_MINIMAL if delimiter != "\t" or head.count('"') else csv.QUOTE_NONE
    # A TSV's quotes are letters, unless its names are quoted, too.
    names = next(csv.reader([head], delimiter=delimiter, quoting=quoting), [])
    if len(set(names)) < len(names) or not names:
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{path}: line 1: {'no names of columns' if not names else 'twice: ' + ', '.join(twice)}")
    # Its rows, each with as many values as there are names.
    reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=quoting != csv.QUOTE_NONE)
    try:
        for values in reader:
            if not values:
                continue
            if len(values) != len(names):
                raise DataError(f"{path}: line {reader.line_num + 1}: {len(values)} values for {len(names)} columns")
            if quoting == csv.QUOTE_NONE:
                values = [_unquoted(value) for value in values]
            yield reader.line_num + 1, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num + 1}: {error}") from None


def _unquoted(value: str) -> str:
    """A value of a TSV without quoted names, freed of quotes where only a writer of quoted values can have set them.

    >>> _unquoted('"She said ""no""."'), _unquoted('"No"')
    ('She said "no".', '"No"')
    """
    inner = value[1:-1]
    quoted = len(value) > 3 and value[0] == value[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else value


def require_column(row: dict[str, Any], column: str, place: str) -> str:
    """Return the text in a column of a row; a number is written out, nothing and null are the empty text.

    Raises:
        DataError: There is no such column, or it holds a list or an object.
    """
    if column not in row:
        raise DataError(f"{place}: no column {column!r} (found: {', '.join(map(str, list(row)[:8]))})")
    value = row[column]
    if isinstance(value, dict | list):
        raise DataError(f"{place}: {column!r} is {type(value).__name__}, not text")
    return "" if value is None else mended(str(value))


def mended(text: str) -> str:
    r"""Return a text whose lone surrogates (`"\ud83d"` in JSON) are U+FFFD: no UTF-8 and no tokenizer can hold them."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
