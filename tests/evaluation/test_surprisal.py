"""Surprisal: sums, the word boundary, contexts, long texts, regions, the table, and minicons where it is installed."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from babyllama.common.errors import BabyLlamaError
from babyllama.evaluation.minimal_pairs import score_sentences
from babyllama.evaluation.surprisal.scores import BITS, boundary_tokens, score_texts
from main import main

TEXTS = [
    "The little dog ran to the old house near the river.",
    'He said "no", didn\'t he?  Two blanks.\nA new line',
    "Übermut 你好。 naïve",
]
RARE = "".join(chr(code) for code in (0x4E16, 0x754C, 0x0E01, 0x0E49, 0x1F600, 0x0661))


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


def test_words_tokens_and_text_add_up_to_the_sentence_score(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    generator = random.Random(1)
    letters = "the dog ran .,\n'" + RARE
    texts = TEXTS + ["".join(generator.choices(letters, k=20)) for _ in range(30)]
    found = score_texts(tiny_llama, tiny_tokenizer, texts, window=128)
    for text, scores, nats in zip(texts, found, score_sentences(tiny_llama, tiny_tokenizer, texts), strict=True):
        expected = -nats * BITS
        assert sum(unit.bits for unit in scores.words()) == pytest.approx(expected, rel=1e-6)
        assert sum(unit.bits for unit in scores.tokens()) == pytest.approx(expected, rel=1e-6)
        spans = [(unit.start, unit.end) for unit in scores.words()]
        assert "".join(text[start:end] for start, end in spans) == text
        assert sum(unit.tokens for unit in scores.words()) == len(scores.bits)


def test_a_token_is_minus_log2_of_its_probability(tiny_gpt2: Any, tiny_tokenizer: Any) -> None:
    (found,) = score_texts(tiny_gpt2, tiny_tokenizer, [TEXTS[0]], window=128)
    ids = tiny_tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logs = torch.log_softmax(tiny_gpt2(ids).logits.double(), -1)[0]
    expected = -logs[:-1].gather(1, ids[0, 1:, None]).squeeze(1) / math.log(2)
    np.testing.assert_allclose(found.bits, expected, rtol=1e-5)
    blanks = boundary_tokens(tiny_tokenizer)
    assert {tiny_tokenizer.decode([number])[0] for number in blanks} == {" "}
    boundary = -torch.logsumexp(logs[:, blanks], dim=1) / math.log(2)
    np.testing.assert_allclose(found.boundary, boundary, rtol=1e-5)


def test_the_correction_moves_the_boundary_to_the_word_before(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    (found,) = score_texts(tiny_llama, tiny_tokenizer, ["the dog ran"], window=128)
    one, two, three = found.words()
    place = one.tokens, one.tokens + two.tokens
    assert one.corrected == pytest.approx(one.bits + found.boundary[place[0]])
    assert two.corrected == pytest.approx(two.bits + found.boundary[place[1]] - found.boundary[place[0]])
    total = one.corrected + two.corrected + three.corrected
    assert total == pytest.approx(found.whole().bits + found.boundary[-1])  # the rest cancels


def test_a_script_without_spaces_has_no_word_boundary(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    (found,) = score_texts(tiny_llama, tiny_tokenizer, ["小狗跑了。"], window=128)
    assert found.boundary is None
    assert [found.text[unit.start : unit.end] for unit in found.words()] == ["小", "狗", "跑", "了。"]


def test_a_token_over_two_words_makes_one_of_them() -> None:
    from babyllama.evaluation.surprisal.scores import TextSurprisal

    spans = [(0, 2), (2, 3), (3, 4)]  # 小狗 is one token
    found = TextSurprisal("小狗跑了", spans, ["小狗", "跑", "了"], np.array([1.0, 2.0, 4.0]), None)
    assert [(unit.start, unit.end, unit.bits) for unit in found.words()] == [(0, 2, 1.0), (2, 3, 2.0), (3, 4, 4.0)]


def test_a_context_is_seen_and_not_scored(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    context, text = "The little dog", "ran to the old house."
    (joined,) = score_texts(tiny_llama, tiny_tokenizer, [f"{context} {text}"], window=128)
    (alone,) = score_texts(tiny_llama, tiny_tokenizer, [text], [context], window=128)
    behind = joined.words()[3:]
    assert [unit.bits for unit in alone.words()] == pytest.approx([unit.bits for unit in behind], rel=1e-6)
    assert [text[u.start : u.end].strip() for u in alone.words()] == text.split()


def test_a_word_without_a_token_joins_the_one_before_it() -> None:
    from babyllama.evaluation.surprisal.scores import TextSurprisal

    # A tokenizer that drops what it does not know: no token covers the zero-width blank.
    found = TextSurprisal("a \u200b bc", [(0, 1), (3, 6)], ["a", " bc"], np.array([1.0, 2.0]), None)
    assert [(unit.start, unit.end, unit.bits) for unit in found.words()] == [(0, 3, 1.0), (3, 6, 2.0)]


def test_behind_a_context_the_first_word_is_corrected_like_any_other(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    context, text = "The little dog", "ran to the old house."
    (joined,) = score_texts(tiny_llama, tiny_tokenizer, [f"{context} {text}"], window=128)
    (behind,) = score_texts(tiny_llama, tiny_tokenizer, [text], [context], window=128)
    wanted = [unit.corrected for unit in joined.words()[3:]]
    assert [unit.corrected for unit in behind.words()] == pytest.approx(wanted, rel=1e-6)
    (alone,) = score_texts(tiny_llama, tiny_tokenizer, [text], window=128)
    first = alone.words()[0]
    assert first.corrected == pytest.approx(first.bits + alone.boundary[first.tokens]), "BOS is no word that ends"


def test_a_text_longer_than_the_window_sees_half_a_window_before_each_token(
    tiny_llama: Any, tiny_tokenizer: Any
) -> None:
    text = "The little dog ran to the old house near the river. " * 6
    (whole,) = score_texts(tiny_llama, tiny_tokenizer, [text], window=512)
    (rolled,) = score_texts(tiny_llama, tiny_tokenizer, [text], window=16)
    assert len(rolled.bits) == len(whole.bits) > 64
    np.testing.assert_allclose(rolled.bits[:16], whole.bits[:16], rtol=1e-5)
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    with torch.inference_mode():  # the second window: 8 tokens of context, 8 new ones
        logs = torch.log_softmax(tiny_llama(torch.tensor([ids[7:23]])).logits.double(), -1)[0]
    expected = -logs[8:16].gather(1, torch.tensor(ids[16:24])[:, None]).squeeze(1) / math.log(2)
    np.testing.assert_allclose(rolled.bits[16:24], expected, rtol=1e-5)


def test_the_table_keeps_the_columns_and_adds_regions_and_frequencies(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_text(
        "item\tlength\tsentence\n1\tshort\tThe dog | that ran | was old.\n2\tnone\t \n", encoding="utf-8"
    )
    (tmp_path / "f.csv").write_text("word,count\nDog,3\nold,1\n", encoding="utf-8")
    flags = ["--column", "sentence", "--region-mark", "|", "--by", "word,region,text"]
    output = tmp_path / "deep" / "o.csv"
    argv = ["surprisal", str(tiny_run), str(tmp_path / "s.tsv"), "--output", str(output), *flags]
    assert main([*argv, "--frequencies", str(tmp_path / "f.csv")]) == 0
    rows = _rows(output)
    assert {row["item"] for row in rows} == {"1"}  # the empty stimulus gives no rows
    assert {row["length_in"] for row in rows} == {"short"}
    words = [row for row in rows if row["level"] == "word"]
    assert [row["unit"] for row in words] == "The dog that ran was old.".split()
    assert [row["count"] for row in words] == ["0", "3", "0", "0", "0", "1"]
    assert words[1]["per_million"] == "750000.000"
    assert [row["length"] for row in words] == ["3", "3", "4", "3", "3", "4"]
    regions = [row for row in rows if row["level"] == "region"]
    assert [row["unit"] for row in regions] == ["The dog", "that ran", "was old."]
    for name in ("words", "regions"):
        total = sum(float(row["bits"]) for row in (words if name == "words" else regions))
        assert total == pytest.approx(float(rows[-1]["bits"]), abs=1e-6)


def test_two_runs_of_one_name_are_told_apart(tiny_run: Path, tmp_path: Path) -> None:
    import shutil

    for name in ("a", "b"):
        shutil.copytree(tiny_run, tmp_path / name / "run")
    (tmp_path / "s.csv").write_text("text\nthe dog\n", encoding="utf-8")
    runs = [str(tmp_path / name / "run") for name in ("a", "b")]
    assert main(["surprisal", *runs, str(tmp_path / "s.csv"), "--output", str(tmp_path / "o.csv")]) == 0
    assert [row["run"] for row in _rows(tmp_path / "o.csv")] == ["a/run", "a/run", "b/run", "b/run"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--by", "phoneme"], "phoneme: of token, word"),
        (["--by", "region"], "--region-mark MARK is needed"),
        (["--column", "txt"], r"line 2: no column 'txt' \(found: text\)"),
        (["--window", "100000"], "--window 100000"),
        (["--frequencies", "no_such_folder"], "--frequencies: no_such_folder"),
    ],
)
def test_what_cannot_be_used_is_one_line(tiny_run: Path, tmp_path: Path, flags: list[str], told: str) -> None:
    (tmp_path / "s.csv").write_text("text\nthe dog\n", encoding="utf-8")
    argv = ["surprisal", str(tiny_run), str(tmp_path / "s.csv"), "--output", str(tmp_path / "o.csv")]
    with pytest.raises(BabyLlamaError, match=told):
        main([*argv, *flags])


@pytest.mark.integration
def test_minicons_says_the_same(test_data: Path, tiny_gpt2: Any, tiny_tokenizer: Any) -> None:
    scorer = pytest.importorskip("minicons.scorer", reason="minicons is not installed (pip install minicons==0.3.39)")
    from babyllama.models.loading import load_model, load_tokenizer_of

    folder = test_data / "checkpoints" / "stories260K-hf"
    texts = [
        "The little dog ran to the old house, near the river.",
        'He didn\'t see "it" again!',
        "Once upon a time there was a girl who had a red ball.",
    ]
    cases = [(load_model(folder), load_tokenizer_of(folder)), (tiny_gpt2, tiny_tokenizer)]
    for model, tokenizer in cases:
        found = score_texts(model, tokenizer, texts, window=128)
        oracle = scorer.IncrementalLMScorer(model, "cpu", tokenizer=tokenizer)
        for corrected in (False, True):
            theirs = oracle.token_score(texts, surprisal=True, base_two=True, bow_correction=corrected)
            for scores, pairs in zip(found, theirs, strict=True):
                bits = np.array([value for _, value in pairs[-len(scores.bits) :]])
                units = scores.words()
                ends = np.cumsum([unit.tokens for unit in units])
                sums = np.add.reduceat(bits, [0, *ends[:-1]])
                ours = [unit.corrected if corrected else unit.bits for unit in units]
                np.testing.assert_allclose(ours, sums, atol=1e-4)
