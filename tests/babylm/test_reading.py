"""Reading: surprisals against the reference, the regression against an independent one and against stored reports."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.babylm.tasks import reading
from babyllama.common.errors import DataError
from tests.babylm import reference

COLUMNS = ("item", "word", "Subtlex_log10", "length", "context_length", *reading.EYE_TRACKING, reading.SELF_PACED)
SENTENCES = ("None came to the house.", "The dog saw a cat today.", "It ran to school with Tom.")


def write_reading(path: Path, repeat: int = 1, seed: int = 0) -> Path:
    """A file in the form of reading_data.csv: made-up sentences, random times, a missing frequency."""
    rng = np.random.default_rng(seed)
    rows = []
    for sentence in SENTENCES * repeat:
        words = sentence.split()
        for place in range(1, len(words)):
            before = " ".join(words[: place - 1])
            row = {name: round(float(rng.uniform(1, 500)), 3) for name in COLUMNS[5:]}
            rows.append({
                "": len(rows), "item": " ".join(words[:place]), "word": words[place],
                "Subtlex_log10": "" if len(rows) == 5 else round(float(rng.uniform(1, 6)), 3),
                "length": len(words[place]), "context_length": place, **row,
                "prev_word": words[place - 1] if before else "", "prev_item": before,
                "prev_length": len(words[place - 1]) if before else "",
            })  # fmt: skip
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_surprisals_agree_with_the_reference(pair: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = pair
    data = reading.read_reading(write_reading(tmp_path / reading.FILE))
    pred, before = reading.surprisals(model, tokenizer, data)
    for number, (context, word) in enumerate(data.words):
        assert pred[number] == pytest.approx(reference.word_surprisal(model, tokenizer, context, word), abs=1e-3)
        if data.before[number] is None:
            assert math.isnan(before[number])
        else:
            expected = reference.word_surprisal(model, tokenizer, *data.before[number])
            assert before[number] == pytest.approx(expected, abs=1e-3)


def test_the_word_none_is_missing_before_but_not_as_context(tmp_path: Path) -> None:
    data = reading.read_reading(write_reading(tmp_path / reading.FILE))
    assert data.words[0] == ("None", "came")
    assert data.before[0] is None
    assert data.before[1] is None
    assert data.before[2] == ("None came", "to")


def test_figures_agree_with_an_independent_regression(tmp_path: Path) -> None:
    data = reading.read_reading(write_reading(tmp_path / reading.FILE, repeat=10))
    rng = np.random.default_rng(1)
    pred = rng.normal(10, 3, len(data.words))
    before = np.where([pair is None for pair in data.before], np.nan, rng.normal(10, 3, len(data.words)))
    found = reading.figures(data, pred, before)
    base = [data.columns[name] for name in ("Subtlex_log10", "length", "context_length")]
    eye = [reference.gain(data.columns[name], base, pred) for name in reading.EYE_TRACKING]
    own = [*base, data.columns["prev_length"], before]
    assert found["rt"] == pytest.approx(sum(eye) / 4, abs=1e-9)
    assert found["spr"] == pytest.approx(reference.gain(data.columns[reading.SELF_PACED], own, pred), abs=1e-9)


def test_predictions_are_read_back_with_missing_values(tmp_path: Path) -> None:
    found = reading.predictions(np.array([1.0, 2.0]), np.array([math.nan, 3.0]))
    assert found == {"reading": {"predictions": [
        {"id": 0, "pred": 1.0, "prev_pred": pytest.approx(math.nan, nan_ok=True)},
        {"id": 1, "pred": 2.0, "prev_pred": 3.0},
    ]}}  # fmt: skip
    pred, before = reading.stored_surprisals(json.loads(json.dumps(found)))
    assert pred.tolist() == [1.0, 2.0]
    assert math.isnan(before[0])


def test_a_missing_column_and_a_bad_number_are_named(tmp_path: Path) -> None:
    path = write_reading(tmp_path / reading.FILE)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("RTgopast", "RTgone"), encoding="utf-8")
    with pytest.raises(DataError, match="no column RTgopast"):
        reading.read_reading(path)
    row = text.split("\n")[1].split(",")
    path.write_text(text.replace(row[6], "fast", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"row 0: .* is 'fast', not a number"):
        reading.read_reading(path)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("model", "eye", "self_paced"), [("opt-1024-warmup", 0.39748765, 0.02686896), ("mamba-1024", 0.30412, 0.09606)]
)
def test_stored_predictions_give_the_published_figures(
    babylm_data: Path, model: str, eye: float, self_paced: float
) -> None:
    data = reading.read_reading(babylm_data / "evaluation_data/full_eval/reading" / reading.FILE)
    assert len(data.words) == 1726
    assert sum(pair is None for pair in data.before) == 206
    stored = babylm_data / "results" / model / "main/zero_shot/causal/reading/prediction.jsonl"
    rows = [json.loads(line) for line in stored.read_text(encoding="utf-8").splitlines()]
    assert [row["Sentence"] for row in rows] == [context for context, _ in data.words]
    found = reading.figures(data, *(np.array([row[key] for row in rows]) for key in ("Logprob", "Prev_Logprob")))
    assert 100 * found["rt"] == pytest.approx(eye, abs=1e-5)
    assert 100 * found["spr"] == pytest.approx(self_paced, abs=1e-5)


@pytest.mark.integration
def test_all_stored_reports_are_met(babylm_data: Path) -> None:
    data = reading.read_reading(babylm_data / "evaluation_data/full_eval/reading" / reading.FILE)
    reports = sorted((babylm_data / "results").glob("*/main/zero_shot/*/reading/report.txt"))
    assert len(reports) >= 20
    for path in reports:
        rows = [json.loads(x) for x in (path.parent / "prediction.jsonl").read_text(encoding="utf-8").splitlines()]
        found = reading.figures(data, *(np.array([row[key] for row in rows]) for key in ("Logprob", "Prev_Logprob")))
        assert reading.report(found).split() == path.read_text(encoding="utf-8").split()[:9], path
