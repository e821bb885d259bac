"""Published reference figures of a third-party checkpoint, met exactly (skipped where the data is absent)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babyllama.data.sources import read_documents
from babyllama.evaluation.log_probs import sum_log_probs
from babyllama.evaluation.minimal_pairs import evaluate_pairs, load_pairs, score_sentences
from babyllama.models.loading import load_model, load_tokenizer_of
from evaluate import ModelEvaluator

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stories(test_data: Path) -> tuple[Any, Any]:
    folder = test_data / "checkpoints/stories260K-hf"
    return load_model(folder), load_tokenizer_of(folder)


def test_supplement_counts_and_mean(test_data: Path, stories: tuple[Any, Any]) -> None:
    figures, _ = evaluate_pairs(*stories, load_pairs(test_data / "evals/blimp_supplement"))
    assert 100 * figures["accuracy"] == pytest.approx(52.9837, abs=1e-4)


@pytest.mark.slow
def test_blimp_overall_and_filtered(test_data: Path, stories: tuple[Any, Any]) -> None:
    pairs = load_pairs(test_data / "evals/blimp")
    figures, items = evaluate_pairs(*stories, pairs)
    assert 100 * figures["accuracy"] == pytest.approx(53.1642, abs=1e-4)
    assert figures["ties"] == 7
    wanted = json.loads((test_data / "evals/blimp_filtered_ids.json").read_text(encoding="utf-8"))
    right = {(item["uid"], item["pair_id"]): item["correct"] for item in items}
    shares = [sum(right[uid, str(i)] for i in ids) / len(ids) for uid, ids in wanted.items()]
    assert 100 * sum(shares) / len(shares) == pytest.approx(53.2430, abs=1e-4)


def test_log_probabilities_of_724_pairs(test_data: Path, stories: tuple[Any, Any]) -> None:
    records = [
        json.loads(x)
        for x in (test_data / "reference/stories260K_logprobs.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    keys = set(records[0])
    good = next(k for k in ("sentence_good", "good") if k in keys)
    assert len(records) == 724
    scores = score_sentences(*stories, [r[good] for r in records] + [r[good.replace("good", "bad")] for r in records])
    expected = [r[next(k for k in keys if "logprob" in k and "good" in k)] for r in records]
    assert scores[: len(records)] == pytest.approx(expected, abs=1e-3)


def test_loss_on_tinystories_by_its_stated_convention(test_data: Path, stories: tuple[Any, Any]) -> None:
    """Each story alone, `<s>` in front, cut to 512 tokens, summed over all tokens after `<s>`."""
    model, tokenizer = stories
    documents = list(read_documents(test_data / "corpora/tinystories/tinystories.dev")[1])
    rows = [tokenizer(document.text.strip())["input_ids"][:512] for document in documents]
    sums = sum_log_probs(model, [row[:-1] for row in rows], [row[1:] for row in rows])
    reference = json.loads((test_data / "reference/stories260K_loss.json").read_text(encoding="utf-8"))
    wanted = reference["files"]["corpora/tinystories/tinystories.dev"]
    assert sum(len(row) - 1 for row in rows) == wanted["tokens"]
    assert -sum(sums) == pytest.approx(wanted["total_nll"], rel=1e-6)


def test_a_foreign_checkpoint_is_scored_on_raw_text(test_data: Path) -> None:
    text = test_data / "corpora/tinystories/tinystories.dev"
    evaluator = ModelEvaluator(test_data / "checkpoints/stories260K-hf", "cpu", eval_data=[str(text)])
    assert evaluator.window == 512
    assert evaluator.calculate_perplexity()["num_documents"] == 70


def test_a_gpt2_without_head_pad_token_and_most_letters_is_scored(test_data: Path) -> None:
    evaluator = ModelEvaluator(
        test_data / "checkpoints/tiny_gpt2", "cpu", eval_data=[str(test_data / "corpora/tinystories/tinystories.dev")]
    )
    assert evaluator.calculate_perplexity()["perplexity"] > 1
