"""Reading: how much do a model's surprisals explain of people's reading times?

`reading_data.csv` has 1,726 words in their sentences. The surprisal of a word is minus the log-probability of its
pieces after its context. The official formula tokenizes context and word apart: the first piece is that of the word
alone, without a blank in front, at the last position of the context with the tokenizer's own special tokens; for each
further piece the decoded piece before it is appended to the context *string*, and both are tokenized anew. A tokenizer
that puts a blank in front of a text (`data.prefix_space`) is asked for the token that follows a blank, another is not:
the figure depends on the tokenizer first. The formula is kept as it is; pieces are added as logarithms, so that nothing
underflows.

Figures (Smith and Levy 2013's design as the pipeline has it): the gain in explained variance of an ordinary
least-squares regression when the surprisal is added, (R2 - R2 without) / (1 - R2 without). Eye tracking: mean over four
measures, with word frequency, length, context length and their two-way products. Self-paced reading: also the length
and the surprisal of the word before. Rows with a missing value are dropped for each regression.

The original reads the file with pandas, which takes the word "None" for a missing value: `item` is put back, but not
`prev_item`. The same happens here, since stored predictions are compared row by row.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.babylm.tasks.forest import Query, token_scores
from babyllama.babylm.tasks.ranking import check_lengths, require_fast
from babyllama.common.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FILE = "reading_data.csv"
EYE_TRACKING = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")
SELF_PACED = "self_paced_reading_time"
BASE = ("Subtlex_log10", "length", "context_length")
BEFORE = ("prev_length", "prev_pred")
NUMBERS = (*EYE_TRACKING, SELF_PACED, *BASE, "prev_length")
TEXTS = ("item", "word", "prev_item", "prev_word")
MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"} | {
    *("NA", "NULL", "NaN", "None", "n/a", "nan", "null")
}  # what pandas reads as a missing value


@dataclass(frozen=True)
class ReadingData:
    """The rows of reading_data.csv.

    Attributes:
        words: Pairs of context and word, one for each row.
        before: The same pairs for the word before, None where there is none.
        columns: Numeric columns by name, (rows,) float64, NaN where the value is missing.
    """

    words: list[tuple[str, str]]
    before: list[tuple[str, str] | None]
    columns: dict[str, np.ndarray]


def read_reading(path: Path) -> ReadingData:
    """Read reading_data.csv as the original does.

    Raises:
        DataError: The file or a column of it is missing, or a number cannot be read; names the row.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            absent = [name for name in (*NUMBERS, *TEXTS) if name not in (reader.fieldnames or ())]
            if absent:
                raise DataError(f"{path}: no column {', '.join(absent)}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    words, before = [], []
    columns = {name: np.full(len(rows), np.nan) for name in NUMBERS}
    for number, row in enumerate(rows):
        words.append((_missing(row["item"]) or "None", row["word"] or ""))
        previous = _missing(row["prev_item"])
        before.append(None if previous is None else (previous, row["prev_word"] or ""))
        for name in NUMBERS:
            columns[name][number] = _number(row[name], path, number, name)
    return ReadingData(words, before, columns)


def _missing(text: str | None) -> str | None:
    return None if text is None or text in MISSING else text


def _number(text: str | None, path: Path, row: int, column: str) -> float:
    if _missing(text) is None:
        return math.nan
    try:
        return float(text)  # type: ignore[arg-type]
    except ValueError:
        raise DataError(f"{path}: row {row}: {column} is {text!r}, not a number") from None


def word_queries(tokenizer: PreTrainedTokenizerFast, context: str, word: str) -> list[Query]:
    """Return the pieces of a word as texts of which only the last token is counted.

    Args:
        tokenizer: A fast tokenizer.
        context: Text before the word.
        word: The word, without a blank in front.

    Raises:
        DataError: The tokenizer makes no token of the word.
    """
    pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
    if not pieces:
        raise DataError(f"reading: the tokenizer makes no token of the word {word!r}")
    queries = [_next_token(tokenizer, context, pieces[0])]
    context += tokenizer.decode(pieces[0])
    for piece in pieces[1:]:
        text = tokenizer.decode(piece)
        again = tokenizer(text, add_special_tokens=False)["input_ids"]
        if again:  # a lone blank decodes to nothing in some tokenizers: it has no probability of its own
            queries.append(_next_token(tokenizer, context, again[0]))
        context += text
    return queries


def _next_token(tokenizer: PreTrainedTokenizerFast, context: str, target: int) -> Query:
    ids = tokenizer(context)["input_ids"]
    if not ids:
        raise DataError(f"reading: the tokenizer makes no token of the context {context!r} and has no BOS")
    return Query((*ids, target), (len(ids),))


def surprisals(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    data: ReadingData,
    progress: Callable[..., Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Surprisals of the words and of the words before them.

    Returns:
        (rows,) nats each; NaN where there is no word before.
    """
    require_fast(tokenizer)
    asked = dict.fromkeys([*data.words, *(pair for pair in data.before if pair is not None)])
    pieces = {pair: word_queries(tokenizer, *pair) for pair in asked}
    flat = [query for queries in pieces.values() for query in queries]
    check_lengths(flat, model, "reading")
    values = iter(token_scores(model, flat, progress=progress))
    found = {pair: -sum(float(next(values)[0]) for _ in queries) for pair, queries in pieces.items()}
    before = [math.nan if pair is None else found[pair] for pair in data.before]
    return np.array([found[pair] for pair in data.words]), np.array(before)


def predictions(pred: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    """Content of predictions.json; a missing `prev_pred` is NaN there."""
    rows = zip(pred.tolist(), before.tolist(), strict=True)
    return {"reading": {"predictions": [{"id": n, "pred": p, "prev_pred": b} for n, (p, b) in enumerate(rows)]}}


def stored_surprisals(found: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Surprisals out of predictions.json; null and NaN are missing values."""
    rows = found["reading"]["predictions"]
    values = [[math.nan if row[key] is None else float(row[key]) for row in rows] for key in ("pred", "prev_pred")]
    return np.array(values[0]), np.array(values[1])


def explained_gain(response: np.ndarray, base: Sequence[np.ndarray], added: np.ndarray) -> float:
    """Gain in explained variance of a least-squares regression by one further predictor.

    Args:
        response: (rows,) measure to be explained.
        base: Predictors of both regressions; their two-way products are predictors too. Each (rows,).
        added: (rows,) predictor of the second regression only.

    Returns:
        (R2 with - R2 without) / (1 - R2 without), a fraction; NaN where no row is complete.
    """
    terms = [np.ones_like(response), *base, *(a * b for a, b in combinations(base, 2))]
    without = _r_squared(response, terms)
    return (_r_squared(response, [*terms, added]) - without) / (1 - without)


def _r_squared(response: np.ndarray, terms: Sequence[np.ndarray]) -> float:
    """R2 of ordinary least squares over the rows where nothing is missing."""
    matrix = np.column_stack(terms)
    kept = np.isfinite(response) & np.isfinite(matrix).all(axis=1)
    if not kept.any():
        return math.nan
    y, x = response[kept], matrix[kept]
    x = x / np.abs(x).max(axis=0, initial=0).clip(min=1e-300)  # products of large columns: one scale for all
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    centred = y - y.mean()
    return 1 - float(residual @ residual) / float(centred @ centred)


def figures(data: ReadingData, pred: np.ndarray, before: np.ndarray) -> dict[str, float]:
    """Eye-tracking and self-paced figures, as fractions ("rt" and "spr" of the collated file).

    Raises:
        DataError: The number of surprisals is not that of the rows.
    """
    if not len(data.words) == len(pred) == len(before):
        raise DataError(f"reading: {len(pred):,} predictions for {len(data.words):,} rows")
    base = [data.columns[name] for name in BASE]
    eye = [explained_gain(data.columns[name], base, pred) for name in EYE_TRACKING]
    own = [*base, data.columns["prev_length"], before]
    return {"spr": explained_gain(data.columns[SELF_PACED], own, pred), "rt": sum(eye) / len(eye)}


def report(values: dict[str, float]) -> str:
    """Return text of report.txt, in per cent."""
    eye, self_paced = 100 * values["rt"], 100 * values["spr"]
    return f"EYE TRACKING SCORE: {eye:.2f}\nSELF-PACED READING SCORE: {self_paced:.2f}\n"
