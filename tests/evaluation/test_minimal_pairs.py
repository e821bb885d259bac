"""Pairs: sums, ties, paradigms, and files that are not as they should be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from babyllama.common.errors import DataError
from babyllama.evaluation.minimal_pairs import Pair, evaluate_pairs, load_pairs, score_sentences, summarize_pairs

GOOD = {"UID": "u", "pairID": "0", "sentence_good": "The dog ran.", "sentence_bad": "The dog run.", "field": "f"}


def _write(path: Path, *records: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_a_score_is_the_sum_of_token_log_probabilities_after_bos(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    sentence = "She looked at the dog."
    ids = tiny_tokenizer(sentence, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logs = torch.log_softmax(tiny_llama(ids).logits.double(), -1)[0, :-1]
    expected = logs.gather(1, ids[0, 1:].unsqueeze(1)).sum()
    assert score_sentences(tiny_llama, tiny_tokenizer, [sentence])[0] == pytest.approx(float(expected), rel=1e-6)


def test_a_tie_is_wrong_and_counted(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    figures, items = evaluate_pairs(tiny_llama, tiny_tokenizer, [Pair("u", "0", "the dog", "the dog")])
    assert (figures["accuracy"], figures["ties"], items[0]["correct"]) == (0.0, 1, False)


def test_overall_is_the_mean_over_paradigms_terms_are_weighted_by_pairs() -> None:
    pairs = [Pair("a", str(i), "g", "b", "F", "T") for i in range(3)] + [Pair("b", "0", "g", "b", "F", "T")]
    items = [{"good": g, "bad": 0.0, "correct": g > 0} for g in (1.0, 1.0, -1.0, 1.0)]
    found = summarize_pairs(pairs, items)
    assert found["accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["terms"]["T"]["accuracy"] == found["fields"]["F"]["accuracy"] == 0.75
    assert found["accuracy_ci"][0] < found["accuracy"] < found["accuracy_ci"][1]


def test_batching_changes_no_choice(tiny_gpt2: Any, tiny_tokenizer: Any) -> None:
    pairs = [Pair("u", str(i), "the dog " * (i + 1), "a cat " * (7 - i)) for i in range(6)]
    one, _ = evaluate_pairs(tiny_gpt2, tiny_tokenizer, pairs, batch_tokens=1)
    all_, _ = evaluate_pairs(tiny_gpt2, tiny_tokenizer, pairs, batch_tokens=10_000)
    assert one["accuracy"] == all_["accuracy"]


def test_a_sentence_without_tokens_is_counted(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    figures, items = evaluate_pairs(tiny_llama, tiny_tokenizer, [Pair("u", "0", "", "the dog")])
    assert figures["empty_sentences"] == 1
    assert items[0]["good"] == 0.0


def test_a_file_without_uid_is_its_own_paradigm(tmp_path: Path) -> None:
    _write(tmp_path / "turn_taking.jsonl", {"sentence_good": "A: hi\nB: ho", "sentence_bad": "x"})
    pair = load_pairs(tmp_path)[0]
    assert (pair.uid, pair.pair_id, pair.good) == ("turn_taking", "0", "A: hi\nB: ho")


def test_a_list_of_ids_filters(tmp_path: Path) -> None:
    _write(tmp_path / "u.jsonl", GOOD, {**GOOD, "pairID": "1"})
    ids = tmp_path / "ids.json"
    ids.write_text('{"u": ["1"]}', encoding="utf-8")
    assert [pair.pair_id for pair in load_pairs(tmp_path / "u.jsonl", ids)] == ["1"]
    ids.write_text('{"u": ["7"]}', encoding="utf-8")
    with pytest.raises(DataError, match="names 1 pairs, 0 of them"):
        load_pairs(tmp_path / "u.jsonl", ids)
    ids.write_text("[1]", encoding="utf-8")
    with pytest.raises(DataError, match="not a list of pairs"):
        load_pairs(tmp_path / "u.jsonl", ids)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"sentence_good": "x"}, "line 2: no text under `sentence_bad`"),
        ({"sentence_good": 3, "sentence_bad": "x"}, "line 2: no text under `sentence_good`"),
        ("{", "line 2: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    _write(tmp_path / "a.jsonl", GOOD, line)
    with pytest.raises(DataError, match=rf"a\.jsonl: {message}"):
        load_pairs(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file of pairs there"):
        load_pairs(tmp_path)
    _write(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no pair in it"):
        load_pairs(tmp_path)


def test_a_sentence_longer_than_the_model_is_refused(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="longer than the model's 4"):
        score_sentences(tiny_llama, tiny_tokenizer, ["the old house near the river"], max_length=4)


def test_screening_keeps_every_choice(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    """A random model's margins are narrow, so that most pairs are scored again; clear ones keep their rounded score."""
    words = "dog cat house tree girl boys apples school river bird".split()
    texts = [(f"The {a} ran to the {b}.", f"The {b} {a} {b} to the ran {a}.") for a in words for b in words if a != b]
    pairs = [Pair("order", str(number), good, bad) for number, (good, bad) in enumerate(texts)]
    _, exact = evaluate_pairs(tiny_llama, tiny_tokenizer, pairs)
    _, screened = evaluate_pairs(tiny_llama, tiny_tokenizer, pairs, screen=True)
    assert [item["correct"] for item in screened] == [item["correct"] for item in exact]
    margins = [abs(item["good"] - item["bad"]) for item in exact]
    narrow = min(range(len(pairs)), key=margins.__getitem__)
    assert screened[narrow] == exact[narrow]


def test_soft_accuracy_is_the_mean_of_the_sigmoid_of_the_margin() -> None:
    pairs = [Pair("a", str(n), "g", "b") for n in range(2)] + [Pair("c", "0", "g", "b")]
    margins = [2.0, -1.0, 0.0]
    items = [{"good": m - 5, "bad": -5.0, "correct": m > 0} for m in margins]
    figures = summarize_pairs(pairs, items)
    first = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(1))) / 2
    assert figures["paradigms"]["a"]["soft_accuracy"] == pytest.approx(first)
    assert figures["soft_accuracy"] == pytest.approx((first + 0.5) / 2)


def test_the_two_halves_are_the_whole_and_do_not_meet(tmp_path: Path) -> None:
    lines = [{"sentence_good": "a", "sentence_bad": f"b{n}", "UID": "u", "pairID": str(n)} for n in (7, 2, 9, 4)]
    named = [{"sentence_good": "a", "sentence_bad": f"b{n}", "UID": "v", "pairID": f"x{n}"} for n in range(3)]
    path = _write(tmp_path / "set.jsonl", *lines, *named)
    even, odd = load_pairs(path, half="even"), load_pairs(path, half="odd")
    assert [pair.pair_id for pair in even] == ["2", "4", "x0", "x2"]
    assert [pair.pair_id for pair in odd] == ["7", "9", "x1"]
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps({"u": [2, 7], "v": ["x1"]}), encoding="utf-8")
    assert [pair.pair_id for pair in load_pairs(path, ids, "odd")] == ["7", "x1"]


def test_the_interval_of_the_mean_adds_the_paradigms_variances() -> None:
    """3 of 4 and 5 of 10: variance (0.75 * 0.25 / 4 + 0.5 * 0.5 / 10) / 2^2."""
    right = [("a", True)] * 3 + [("a", False)] + [("b", True)] * 5 + [("b", False)] * 5
    pairs = [Pair(uid, str(number), "x", "y") for number, (uid, _) in enumerate(right)]
    items = [{"correct": correct, "good": float(correct), "bad": 0.5} for _, correct in right]
    found = summarize_pairs(pairs, items)
    half = 1.96 * math.sqrt((0.75 * 0.25 / 4 + 0.25 / 10) / 4)
    assert found["accuracy"] == pytest.approx(0.625)
    assert found["accuracy_ci"] == pytest.approx([0.625 - half, 0.625 + half], abs=1e-4)
