"""Reading text from where a user has it: a folder, a file, a glob, tables, transcripts, gzip and zstd, the hub.

We read files ourselves because the `datasets` loaders keep byte-order marks and NULs, and say neither file nor line
when something is wrong. Text is streamed line by line; lines end at LF or CRLF only (`str.splitlines` would also break
at U+0085 and U+001C, which real corpora contain).
"""

from __future__ import annotations

import difflib
import glob as globbing
import json
from collections.abc import Iterator
from pathlib import Path

from babyllama.common.errors import DataError
from babyllama.common.records import COMPRESSED, kind_of, mended, open_binary, read_rows
from babyllama.data.cleaners import domain_of
from babyllama.data.documents import Document, Piece, document_rule, split_lines
from babyllama.data.formats import chat
from babyllama.data.formats.folders import (
    CHAT,
    RECORDS,
    TABLES,
    endings,
    is_run_folder,
    sort_folder,
    told,
)
from babyllama.data.words import LONGEST_CLUSTER, clusters, count_words

BOM = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 18
_CONTINUING = bytes(range(0x80, 0xC0))  # bytes of UTF-8 that begin no character
LONGEST_LINE = 100_000  # bytes of plain text; bounds the memory of a file that has no line ends


def find_files(path: str, split: str, key: str = "data.train_path") -> list[Path]:
    """Return the files that a path stands for.

    Args:
        path: A folder, a file or a glob.
        split: `train` takes a folder's *.train (or all its files where it has neither *.train nor *.dev); `eval`
            takes its *.dev.
        key: The config key, for messages.

    Returns:
        Sorted paths, at least one.

    Raises:
        DataError: Nothing is there, or nothing that can be read.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _in_folder(place, split, key)
    if place.is_file():
        return [place]
    matches = sorted(Path(found) for found in globbing.glob(str(place), recursive=True) if Path(found).is_file())
    if matches:
        return matches
    raise DataError(f"{key}: {path}: {_why_missing(place)}")


def total_bytes(path: str, split: str) -> int | None:
    """Bytes of text in a path's files; None where that is not their size (compressed, Parquet, no files at all)."""
    if path == "synthetic" or path.startswith("hf:"):
        return None
    files = find_files(path, split)
    if any(file.suffix.lower() in {*COMPRESSED, ".parquet"} for file in files):
        return None
    return sum(file.stat().st_size for file in files)


def file_sizes(path: str) -> dict[str, int]:
    """Bytes of the training files by name; those of one name together.

    Raises:
        DataError: The text is in no files.
    """
    if path == "synthetic" or path.startswith("hf:"):
        raise DataError(f"data.holdout_by: file: {path} is in no files; set data.holdout_by: document")
    sizes: dict[str, int] = {}
    for file in find_files(path, "train"):
        sizes[file.name] = sizes.get(file.name, 0) + file.stat().st_size
    return sizes


def _why_missing(place: Path) -> str:
    if place.is_symlink():
        return "a link that leads nowhere"
    if any(c in str(place) for c in "*?["):
        return "no file matches this pattern"
    near = []
    if place.parent.is_dir():
        near = difflib.get_close_matches(place.name, [p.name for p in place.parent.iterdir()], n=1)
    return "no such file or folder" + (f"; did you mean {place.parent / near[0]}?" if near else "")


def _in_folder(folder: Path, split: str, key: str) -> list[Path]:
    if is_run_folder(folder):
        raise DataError(f"{key}: {folder}: a run folder, not a corpus: give the folder or file of the text")
    found = sort_folder(folder)
    for path in (*found.train, *found.validation):
        if not path.exists():
            raise DataError(f"{key}: {path}: {_why_missing(path)}. Mend or remove it.")
    if split == "train":
        wanted = found.train
    else:
        named = any(kind_of(path) == ".train" for path in found.train)
        wanted = found.validation or (found.test if named else sorted([*found.train, *found.test]))
    if not wanted:
        expected = "*.train" if split == "train" else "*.dev"
        raise DataError(
            f"{key}: {folder}: no file of text for {split}; {endings(found)}. "
            f"Expected {expected}, or *.txt, *.jsonl, *.parquet, *.csv, *.tsv, *.cha (also .gz, .zst)."
        )
    return wanted


def left_out(path: str, *, own_eval: bool) -> list[str]:
    """Lines about the files of a folder that are not trained on; none for other paths.

    Args:
        path: The training path.
        own_eval: Whether its own validation files are held out.
    """
    folder = Path(path).expanduser()
    return told(sort_folder(folder), folder, with_validation=not own_eval) if folder.is_dir() else []


def has_dev_files(path: str) -> bool:
    """Return whether a training folder brings its own held-out files."""
    folder = Path(path).expanduser()
    return folder.is_dir() and bool(sort_folder(folder).validation)


def read_lines(path: Path, errors: str = "strict", longest: int | None = None) -> Iterator[str]:
    """Yield lines of a text file without their ends; a byte-order mark is dropped.

    Whole blocks are decoded at once (2.3 times faster than line by line); only a block with a fault is gone through
    line by line, to name the place.

    Args:
        path: The file.
        errors: `strict` stops at bytes that are not UTF-8 and at NUL bytes; `replace` puts U+FFFD there.
        longest: Bytes after which a line is broken, at a space where there is one (at most twice as many come in one
            piece); None: never.

    Raises:
        DataError: With file, line and byte offset.
    """
    offset, number, carry = 0, 1, b""
    size = BLOCK_BYTES if longest is None else min(BLOCK_BYTES, longest)
    try:
        with open_binary(path) as handle:
            while block := handle.read(size):
                # The file's begin: UTF-16 is refused, a mark dropped.
                if offset == 0 and not carry:
                    _refuse_utf16(path, block)
                    offset, block = (len(BOM), block[len(BOM) :]) if block.startswith(BOM) else (0, block)
                data = carry + block
                # Whole lines are given on, the rest waits for the next block; one too long is given in parts.
                cut = data.rfind(b"\n") + 1
                if not cut and longest is not None and len(data) > longest:
                    cut = data.rfind(b" ", longest // 2) + 1 or _cluster_end(data)
                    yield from (
                        Piece(part) for part in _lines_of(path, data[:cut], number, offset, errors, whole=False)
                    )
                elif cut:
                    yield from _lines_of(path, data[:cut], number, offset, errors)
                if cut:
                    offset += cut
                    number += data.count(b"\n", 0, cut)
                carry = data[cut:]
            if carry:
                yield from _lines_of(path, carry, number, offset, errors)
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _lines_of(path: Path, data: bytes, number: int, offset: int, errors: str, *, whole: bool = True) -> list[str]:
    """Return lines of a block that ends with a line end, or (not whole) the piece of a longer line."""
    if b"\0" not in data:
        try:
            lines = data.removesuffix(b"\n").decode("utf-8").split("\n")
            return [line.removesuffix("\r") for line in lines] if whole and b"\r" in data else lines
        except UnicodeDecodeError:
            pass
    lines = []
    for raw in data.removesuffix(b"\n").split(b"\n"):
        lines.append(_decode(path, raw.removesuffix(b"\r"), number, offset, errors))
        number += 1
        offset += len(raw) + 1
    return lines


def _cluster_end(raw: bytes) -> int:
    """Return where the last grapheme cluster that may be cut in two begins, so that no letter loses its marks.

    Bytes that are not UTF-8 are cut where they stand, a carriage return stays with what follows.
    """
    tail = raw[-4 * LONGEST_CLUSTER :]
    text = tail.decode("utf-8", "ignore") if tail[0] < 0x80 else tail[1:].lstrip(_CONTINUING).decode("utf-8", "ignore")
    last = clusters(text)[-1:]
    end = len(raw) - _unfinished(raw)
    cut = end - len(last[0].encode()) if last else 0
    return cut if cut > 0 and raw[cut:end] == last[0].encode() else len(raw)


def _unfinished(raw: bytes) -> int:
    """Return bytes at the end that begin a character whose rest is yet to be read."""
    for back in range(1, 5):
        byte = raw[-back]
        if byte >= 0xC0:
            return back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else 0
        if byte < 0x80:
            break
    return 0


def _refuse_utf16(path: Path, raw: bytes) -> None:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: line 1, byte 0: this is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 {path.name}")


def _decode(path: Path, raw: bytes, number: int, offset: int, errors: str) -> str:
    if errors == "replace":
        return raw.decode("utf-8", errors="replace").replace("\x00", "\ufffd")
    way_out = "Convert the file to UTF-8, or set data.encoding_errors: replace."
    nul = raw.find(b"\x00")
    if nul >= 0:
        raise DataError(f"{path}: line {number}, byte {offset + nul}: a NUL byte. {way_out}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"line {number}, byte {offset + error.start}"
        raise DataError(f"{path}: {place}: not UTF-8 (0x{raw[error.start]:02x}). {way_out}") from None


def read_documents(path: Path, errors: str = "strict", key: str = "text") -> tuple[str, Iterator[Document]]:
    """Return the rule in force and the documents of one file.

    JSONL, CSV, TSV and Parquet hold one document a line or row, a CHAT transcript is one.

    Args:
        path: The file.
        errors: See `read_lines`.
        key: Name of the key or column that holds the text, where the file has names.

    Raises:
        DataError: While iterating, with file and line.
    """
    domain, name, kind = domain_of_file(path), path.name, kind_of(path)
    if kind in RECORDS:
        texts = _parquet(path, key) if kind == ".parquet" else _rows(path, errors, key)
        rule = "one a line" if kind == ".jsonl" else "one a row"
        return rule, (Document(text, domain, name) for text in texts if text.strip())
    if kind == CHAT:
        texts = (chat.transcript(read_lines(path, errors)) for _ in range(1))
        return chat.RULE, (Document(text, domain, name) for text in texts if text.strip())
    rule = document_rule(domain, read_lines(path, errors, LONGEST_LINE))
    lines = read_lines(path, errors, LONGEST_LINE)
    return rule, (Document(text, domain, name) for text in split_lines(lines, rule))


def domain_of_file(path: Path) -> str:
    """Return the domain of a file's documents: its name up to the first dot, of every transcript `childes`."""
    return chat.DOMAIN if kind_of(path) == CHAT else domain_of(path)


def is_record_file(path: Path) -> bool:
    """Return whether the file holds documents as records, which are not cleaned by domain."""
    return kind_of(path) in RECORDS


def _rows(path: Path, errors: str, key: str) -> Iterator[str]:
    """Yield the texts of a JSONL file or of a table."""
    if kind_of(path) in TABLES:
        yield from (_text_of(row, f"{path}: line {number}", key) for number, row in read_rows(path, errors))
        return
    for number, line in enumerate(read_lines(path, errors), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number}: not JSON: {error}") from None
        yield _text_of(record, f"{path}: line {number}", key)


def _text_of(record: object, place: str, key: str = "text") -> str:
    if not isinstance(record, dict) or key not in record:
        keys = ", ".join(map(str, list(record)[:6])) if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{place}: no key `{key}` (found: {keys}). Name the one that holds the text: data.text_key")
    if not isinstance(record[key], str):
        raise DataError(f"{place}: `{key}` is {type(record[key]).__name__}, not a string")
    return mended(record[key]).replace("\r\n", "\n").replace("\x00", "\ufffd")


def _parquet(path: Path, key: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_binary(path) as handle:
            file = pq.ParquetFile(pa.PythonFile(handle, mode="r"))
            if key not in file.schema_arrow.names:
                found = ", ".join(file.schema_arrow.names[:6])
                raise DataError(
                    f"{path}: no column `{key}` (found: {found}). Name the one with the text: data.text_key"
                )
            for number, batch in enumerate(file.iter_batches(batch_size=1000, columns=[key])):
                for row, text in enumerate(batch.column(0).to_pylist()):
                    yield _text_of({key: text}, f"{path}: row {number * 1000 + row + 1}", key)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error


def hub_documents(path: str, split: str, max_words: int | None, key: str = "text") -> Iterator[Document]:
    """Yield documents of `hf:org/name[:config]`, streamed, so that a bounded try downloads only what it reads.

    Args:
        path: Path with `hf:` in front; a local folder of data files works too.
        split: `train` or `validation`.
        max_words: Stop after about so many words.
        key: The column that holds the text.

    Raises:
        DataError: The data set is unknown, not reachable or has no such column.
    """
    from datasets import load_dataset

    name, _, config = path.removeprefix("hf:").partition(":")
    try:
        rows = load_dataset(name, config or None, split=split, streaming=True)
        words = 0
        for number, row in enumerate(rows, start=1):
            text = _text_of(row, f"{path}: row {number}", key)
            if text.strip():
                yield Document(text, domain_of(name), path)
            words += count_words(text)
            if max_words is not None and words >= max_words:
                return
    except DataError:
        raise
    except Exception as error:  # the hub's clients raise dozens of kinds
        first = str(error).strip().split("\n")[0]
        raise DataError(f"{path}: split {split}: cannot be loaded from the hub: {first}") from error
