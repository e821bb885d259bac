"""Runs on a mixture: the shares of what was trained on, the ledger by domain, a kill and a resume, a test share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.config.run_layout import EVALUATION_RESULTS, TEST_RESULTS, TEST_TEXT
from babyllama.data.held_out.kept import kept_text, text_hashes
from babyllama.research.milestones import saved_milestones
from evaluate import ModelEvaluator
from evaluate import main as evaluate
from tests.runs import weights
from tests.tiny_runs import settings, write_corpus
from train import train

pytestmark = pytest.mark.integration
KEYS: dict[str, Any] = {
    "data__mix": {"a": 1, "b": 3, "c": 0},
    "data__test": 0.1,
    "training__max_steps": 60,
    "training__save_steps": 20,
    "training__save_total_limit": 3,
    "training__save_words": [500, 2000, 3000],
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three domains of different size and a run on a mixture of two of them."""
    base = tmp_path_factory.mktemp("mixed")
    corpus = write_corpus(base / "corpus", range(200), "a.txt")
    write_corpus(corpus, range(200, 240), "b.txt")
    write_corpus(corpus, range(240, 280), "c.txt")
    return corpus, train(settings(corpus, base / "models", **KEYS)).run_dir


def test_the_record_and_the_milestones_tell_the_domains_apart(mixed: tuple[Path, Path]) -> None:
    metrics = read_json(mixed[1] / "training_metrics.json")
    assert set(metrics["mix"]) == {"a", "b"}
    assert metrics["mix"]["b"]["share"] == pytest.approx(0.75, abs=0.005)
    assert metrics["mix"]["b"]["passes"] > 5 * metrics["mix"]["a"]["passes"]
    assert sum(row["tokens"] for row in metrics["mix"].values()) == pytest.approx(metrics["train_tokens"], rel=0.01)
    milestones = [milestone for _, milestone in saved_milestones(mixed[1])]
    assert [milestone.name for milestone in milestones] == ["chck_500", "chck_2k", "chck_3k"]
    for milestone in milestones:
        assert sum(milestone.domains.values()) == milestone.words
        assert milestone.domains["c"] == 0
        assert milestone.domains["b"] / milestone.words == pytest.approx(0.75, abs=0.05)
    assert metrics["train_words"] > milestones[-1].words


def test_a_killed_mixture_goes_on_to_the_same_bits(mixed: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, whole = mixed
    config = settings(corpus, tmp_path, **KEYS)
    shutil.copytree(whole, tmp_path / "run")
    for step in (40, 60):  # as it stood behind step 20
        shutil.rmtree(tmp_path / "run" / f"checkpoint-{step}", ignore_errors=True)
    for name in ("model.safetensors", "training_metrics.json"):
        (tmp_path / "run" / name).unlink()
    resumed = train(config, resume=True)
    assert weights(resumed.run_dir) == weights(whole)
    assert resumed.metrics["mix"] == read_json(whole / "training_metrics.json")["mix"]


def test_a_test_share_is_read_by_its_flag_alone(mixed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = mixed[1]
    kept = kept_text(run)
    evaluator = ModelEvaluator(run, "cpu", split="test")
    assert evaluator.documents == kept.test
    hashes = text_hashes(evaluator.tokenizer, [document.text for document in evaluator.documents])
    assert 20 <= len(hashes) <= 40
    assert not np.isin(hashes, [*kept.trained, *kept.held_out]).any()
    assert evaluate([str(run), "--split", "test", "--tasks", "perplexity", "--device", "cpu"]) == 0
    results = read_json(run / TEST_RESULTS / EVALUATION_RESULTS)
    assert results["eval_data"] == "the run's test set"
    assert results["num_documents"] == len(kept.test)
    assert "documents_trained_on" not in results
    assert not (run / EVALUATION_RESULTS).exists(), "what chooses among runs reads nothing of the test"
    assert evaluate([str(run), "--tasks", "perplexity", "--device", "cpu"]) == 0
    assert read_json(run / EVALUATION_RESULTS)["num_documents"] == len(kept.documents)


def test_without_the_kept_file_the_same_share_is_found_again(mixed: tuple[Path, Path]) -> None:
    run = mixed[1]
    kept = (run / TEST_TEXT).read_bytes()
    wanted = ModelEvaluator(run, "cpu", split="test").documents
    (run / TEST_TEXT).unlink()
    assert ModelEvaluator(run, "cpu", split="test").documents == wanted
    write_corpus(mixed[0], range(500, 540), "_new.txt")  # the split falls elsewhere
    found = ModelEvaluator(run, "cpu", split="test")
    hashes = text_hashes(found.tokenizer, [document.text for document in found.documents])
    assert not np.isin(hashes, [*kept_text(run).trained, *kept_text(run).held_out]).any()
    (mixed[0] / "_new.txt").unlink()
    (run / TEST_TEXT).write_bytes(kept)


def test_a_run_without_a_test_share_says_so(tmp_path: Path) -> None:
    run = train(settings(write_corpus(tmp_path / "corpus", range(60)), tmp_path / "models")).run_dir
    with pytest.raises(ConfigError, match=r"data\.test: this run has set no test share aside"):
        ModelEvaluator(run, "cpu", split="test").documents  # noqa: B018
    with pytest.raises(ConfigError, match="--split test: the run's own"):
        evaluate([str(run), "--split", "test", "--eval-data", str(tmp_path)])
