"""`main.py surprisal RUN stimuli.csv --output OUT.csv`: stimuli in, surprisals in bits out, the input's columns kept.

One row a unit and run. Every row has the input's columns, then

    run             name of the run's folder
    row             number of the stimulus, from 1
    level           token, word, region or text (--by)
    number          of the unit in its text, from 1
    unit            its characters, without the white space around them
    start, end      its characters in the text, from 0; `end` is behind the last
    tokens          how many tokens it has
    bits            surprisal
    bits_corrected  the same with the word-boundary correction (scores.py); empty where there is none
    length          grapheme clusters of `unit`
    count, per_million  of `unit` in --frequencies, in lower case and without punctuation around it; words only

A column of the input that has one of these names comes back with `_in` behind it.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.command import distinct_names
from babyllama.common.console import progress, say
from babyllama.common.errors import ConfigError, DataError
from babyllama.common.records import ROWS, kind_of, read_rows, require_column
from babyllama.evaluation.options import DEFAULT_WINDOW

if TYPE_CHECKING:
    from babyllama.evaluation.surprisal.scores import TextSurprisal, Unit

LEVELS = ("token", "word", "region", "text")
COLUMNS = ("run", "row", "level", "number", "unit", "start", "end", "tokens", "bits", "bits_corrected", "length")
FREQUENCY = ("count", "per_million")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="local model folders; several are scored in turn")
    parser.add_argument("stimuli", help="a .csv, .tsv or .jsonl file with one text a row")
    parser.add_argument("--output", required=True, metavar="OUT.csv", help="the file to write")
    parser.add_argument("--column", default="text", help="the column that holds the text (default: %(default)s)")
    parser.add_argument("--context", metavar="COLUMN", help="the column with what stands before the text, unscored")
    parser.add_argument("--by", default="word", metavar="A,B", help=f"of {', '.join(LEVELS)} (default: %(default)s)")
    parser.add_argument(
        "--region-mark", metavar="MARK", help="what parts regions in a text, e.g. '|'; it is not scored"
    )
    parser.add_argument("--frequencies", metavar="PATH", help="text to count words in, or a table with word and count")
    parser.add_argument("--window", type=int, metavar="N", help="tokens seen at once; default: as trained")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="a Python file of your own")


def run(args: argparse.Namespace) -> int:
    """Score the stimuli with every run and write the table."""
    # Flags and stimuli, checked before a model is loaded.
    levels = _levels(args.by, args.region_mark)
    output = Path(args.output).expanduser()
    if output.suffix.lower() not in {".csv", ".tsv"}:
        raise ConfigError(f"--output {args.output}: a .csv or .tsv file is written")
    rows = _read(Path(args.stimuli).expanduser(), args.column, args.context)
    texts, marks = [], []
    for number, (_, marked) in enumerate(rows, start=1):
        text, starts = without_marks(marked, args.region_mark)
        if not text.strip():
            say(f"{args.stimuli}: stimulus {number} has no text: it gives no rows")
            text, starts = "", [0]
        texts.append(text)
        marks.append(starts)
    contexts = [str(row[args.context] or "") for row, _ in rows] if args.context else None
    counts = word_counts(Path(args.frequencies).expanduser()) if args.frequencies else None

    from babyllama.common.disk_space import check_output_file
    from babyllama.common.files import write_text_atomic
    from babyllama.plugins import load_plugins

    check_output_file(output, _is_table, [Path(args.stimuli).expanduser()])
    load_plugins(args.plugin)
    # A table whose first columns are the user's own.
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t" if output.suffix.lower() == ".tsv" else ",", lineterminator="\n")
    kept = [f"{name}_in" if name in (*COLUMNS, *FREQUENCY) else name for name in rows[0][0]]
    writer.writerow([*kept, *COLUMNS, *(FREQUENCY if counts is not None else ())])
    # Every run on every text.
    for name, folder in _names(args.runs).items():
        scored = _score(folder, texts, contexts, args.window, args.device)
        total = sum(found.whole().bits for found in scored)
        words = sum(len(found.words()) for found in scored)
        say(f"{name}: {len(texts):,} texts, {words:,} words, {total / max(words, 1):.3f} bits a word")
        for number, ((row, _), starts, found) in enumerate(zip(rows, marks, scored, strict=True), start=1):
            for line in _lines(found, levels, starts, counts):
                writer.writerow([*row.values(), name, number, *line])
    write_text_atomic(output, table.getvalue())
    say(f"written: {output}")
    return 0


def _is_table(head: bytes) -> bool:
    """Whether a file begins with the header of this command's tables."""
    first = head.split(b"\n", 1)[0].decode("utf-8", "replace")
    return any(sign.join(COLUMNS) in first for sign in ",\t")


def _levels(by: str, mark: str | None) -> list[str]:
    wanted = [level.strip() for level in by.split(",") if level.strip()]
    unknown = [level for level in wanted if level not in LEVELS]
    if unknown or not wanted:
        raise ConfigError(f"--by {by}: {', '.join(unknown) or 'nothing'}: of {', '.join(LEVELS)}")
    if mark is not None and not mark.strip():
        raise ConfigError("--region-mark: a sign such as '|', not white space")
    if mark is None and "region" in wanted:
        raise ConfigError("--by region: --region-mark MARK is needed to say what parts the regions, e.g. '|'")
    return wanted + (["region"] if mark is not None and "region" not in wanted else [])


def _read(path: Path, column: str, context: str | None) -> list[tuple[dict[str, Any], str]]:
    """Return rows of the stimuli with the text of each."""
    if not path.is_file() or kind_of(path) not in ROWS:
        why = f"expected {', '.join(ROWS)}" if path.exists() else "no such file"
        raise DataError(f"{path}: {why}; the stimuli are a table with one text a row")
    rows = []
    for number, row in read_rows(path):
        for name in (column, context):
            if name is not None:
                row[name] = require_column(row, name, f"{path}: line {number}")
        rows.append((row, row[column]))
    if not rows:
        raise DataError(f"{path}: no row in it")
    names = list(rows[0][0])
    if any(list(row) != names for row, _ in rows):  # JSONL whose objects differ
        names = list(dict.fromkeys(name for row, _ in rows for name in row))
        rows = [({name: row.get(name, "") for name in names}, text) for row, text in rows]
    return rows


def without_marks(text: str, mark: str | None) -> tuple[str, list[int]]:
    """Take the marks out of a text; where each region begins. Of blanks on both sides of a mark one stays.

    >>> without_marks("The dog | that barked | ran.", "|")
    ('The dog that barked ran.', [0, 7, 19])
    """
    if mark is None:
        return text, [0]
    joined, starts = "", []
    for part in text.split(mark):
        if joined[-1:].isspace() and part[:1].isspace():
            joined = joined[:-1]
        starts.append(len(joined))
        joined += part
    return joined, starts


def _names(runs: list[str]) -> dict[str, Path]:
    """Return folders by name; two of one name are told apart by the folders around them."""
    paths = [Path(run).expanduser().resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise ConfigError("surprisal: a run is named twice")
    return distinct_names(paths)


def _score(
    folder: Path, texts: list[str], contexts: list[str] | None, window: int | None, device: str
) -> list[TextSurprisal]:
    from babyllama.evaluation.surprisal.scores import score_texts
    from babyllama.models.loading import load_model, load_tokenizer_of, trained_length
    from babyllama.models.runtime import resolve_device

    model = load_model(folder, resolve_device(device))
    positions = getattr(model.config, "max_position_embeddings", None)
    window = window or trained_length(folder) or positions or DEFAULT_WINDOW
    if positions is not None and not 2 <= window <= positions:
        raise ConfigError(f"--window {window}: from 2 to the {positions} positions of {folder.name}")
    bar = partial(progress, description=folder.name)
    return score_texts(model, load_tokenizer_of(folder), texts, contexts, window=window, progress=bar)


def _lines(
    found: TextSurprisal, levels: list[str], starts: list[int], counts: Counter[str] | None
) -> Iterator[list[Any]]:
    """Yield values of the columns behind `row`, for each unit of a text."""
    from babyllama.data.words import clusters

    if not len(found.bits):
        return
    total = sum(counts.values()) if counts else 0
    for level in levels:
        units: list[Unit] = {
            "token": found.tokens,
            "word": found.words,
            "region": partial(found.units, starts),
            "text": lambda: [found.whole()],
        }[level]()
        for number, unit in enumerate(units, start=1):
            shown = found.text[unit.start : unit.end].strip()
            corrected = "" if unit.corrected is None else f"{unit.corrected:.8f}"
            line = [level, number, shown, unit.start, unit.end, unit.tokens, f"{unit.bits:.8f}", corrected]
            line.append(len(clusters(shown)))
            if counts is not None:
                count = counts[bare_word(shown)] if level == "word" else ""
                line += [count, f"{1e6 * count / max(total, 1):.3f}" if level == "word" else ""]
            yield line


def bare_word(word: str) -> str:
    r"""Return a word as frequencies count it: in lower case, without punctuation around it.

    >>> bare_word("«Don't!»"), bare_word("--")
    ("don't", '--')
    """
    import regex

    return regex.sub(r"^[^\p{L}\p{M}\p{N}]+|[^\p{L}\p{M}\p{N}]+$", "", word).lower() or word


def word_counts(path: Path) -> Counter[str]:
    """How often each word occurs: in text (a folder, a file or a glob), or by a table with columns word and count.

    Raises:
        DataError: Nothing is there, or the table's counts are no numbers.
    """
    from babyllama.data.sources import find_files, read_documents
    from babyllama.data.words import words

    counts: Counter[str] = Counter()
    if path.is_file() and kind_of(path) in {".csv", ".tsv"}:
        for number, row in read_rows(path):
            place = f"{path}: line {number}"
            word, count = (require_column(row, name, place) for name in ("word", "count"))
            if not count.strip().isdigit():
                raise DataError(f"{place}: count {count!r}: a whole number is expected")
            counts[bare_word(word)] += int(count)
        return counts
    raw: Counter[str] = Counter()
    for file in find_files(str(path), "train", "--frequencies"):
        for document in read_documents(file, "replace")[1]:
            raw.update(words(document.text))
    for word, count in raw.items():
        counts[bare_word(word)] += count
    return counts
