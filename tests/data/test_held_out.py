"""A run keeps what it held out: what is scored as held out was never trained on, whatever became of the corpus."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from babyllama.config.run_layout import HELD_OUT_TEXT, TEXT_HASHES
from babyllama.data.documents import documents_fingerprint
from babyllama.data.held_out.kept import kept_text, text_hashes
from data_utils import DataProcessor
from evaluate import ModelEvaluator
from tests.tiny_runs import settings, story, trained_on, write_corpus
from train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus of 200 stories and a run on it."""
    return trained_on(tmp_path_factory.mktemp("held_out"), range(200))


def copied(trained: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    corpus, run = trained
    shutil.copytree(run, tmp_path / "run")
    return corpus, tmp_path / "run"


def test_a_run_keeps_what_it_held_out(trained: tuple[Path, Path]) -> None:
    corpus, run = trained
    kept = kept_text(run)
    assert kept is not None
    assert kept.documents is not None
    processor = DataProcessor(settings(corpus, run.parent).data)
    assert documents_fingerprint(kept.documents) == documents_fingerprint(processor.held_out_documents())
    assert len(kept.trained) == 200 - len(kept.documents)
    assert len(kept.held_out) == len(kept.documents)
    assert not np.isin(kept.held_out, kept.trained).any()


def test_a_document_is_hashed_as_the_stored_tokens_are(trained: tuple[Path, Path]) -> None:
    evaluator = ModelEvaluator(trained[1], "cpu")
    kept = kept_text(trained[1])
    assert text_hashes(evaluator.tokenizer, [d.text for d in evaluator.documents]).tolist() == kept.held_out.tolist()


@pytest.mark.parametrize("change", ["front", "new file", "gone"])
def test_a_changed_corpus_moves_no_trained_document_into_the_score(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    corpus, run = trained
    moved = tmp_path / "corpus"
    shutil.copytree(corpus, moved)
    text = (run / "training_config.yaml").read_text(encoding="utf-8").replace(str(corpus), str(moved))
    run = Path(shutil.copytree(run, tmp_path / "run"))
    (run / "training_config.yaml").write_text(text, encoding="utf-8")
    before = documents_fingerprint(kept_text(run).documents)
    if change == "front":
        old = (moved / "a.txt").read_text(encoding="utf-8")
        (moved / "a.txt").write_text(
            "".join(f"{story(n)}\n<|endoftext|>\n" for n in range(900, 903)) + old, encoding="utf-8"
        )
    elif change == "new file":
        write_corpus(moved, range(900, 960), "_first.txt")
    else:
        shutil.rmtree(moved)
    evaluator = ModelEvaluator(run, "cpu")
    assert documents_fingerprint(evaluator.documents) == before
    assert "the run's text" in capsys.readouterr().out
    assert "documents_trained_on" not in evaluator.calculate_perplexity()


def test_without_the_record_a_changed_corpus_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, run = copied(trained, tmp_path)
    (run / HELD_OUT_TEXT).unlink()
    (run / TEXT_HASHES).unlink()
    moved = tmp_path / "corpus"
    shutil.copytree(corpus, moved)
    config = (run / "training_config.yaml").read_text(encoding="utf-8").replace(str(corpus), str(moved))
    (run / "training_config.yaml").write_text(config, encoding="utf-8")
    assert len(ModelEvaluator(run, "cpu").documents) == 10  # unchanged text: the split is the same
    write_corpus(moved, range(900, 960), "_first.txt")
    with pytest.raises(Exception, match="--eval-data"):
        ModelEvaluator(run, "cpu").documents  # noqa: B018


def test_with_hashes_alone_only_what_was_held_out_is_scored(trained: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, run = copied(trained, tmp_path)
    (run / HELD_OUT_TEXT).unlink()
    moved = tmp_path / "corpus"
    shutil.copytree(corpus, moved)
    config = (run / "training_config.yaml").read_text(encoding="utf-8").replace(str(corpus), str(moved))
    (run / "training_config.yaml").write_text(config, encoding="utf-8")
    kept = kept_text(run)
    write_corpus(moved, range(900, 930), "_first.txt")
    write_corpus(moved, range(200), "_again.txt")  # the split falls elsewhere, some of it on what was held out
    evaluator = ModelEvaluator(run, "cpu")
    hashes = text_hashes(evaluator.tokenizer, [document.text for document in evaluator.documents])
    assert np.isin(hashes, kept.held_out).all()
    assert not np.isin(hashes, kept.trained).any()


def test_held_out_text_that_was_trained_on_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "corpus", range(60))
    result = train(settings(corpus, tmp_path / "models", data__eval_path=str(corpus / "a.txt")))
    assert result.metrics["held_out_in_training"] == 60
    assert "60 held-out documents stand word for word in the training text" in capsys.readouterr().out


def test_every_document_ten_times_is_counted(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for number in range(10):
        write_corpus(corpus, range(30), f"{number}.txt")
    result = train(settings(corpus, tmp_path / "models"))
    assert result.metrics["held_out_in_training"] == result.metrics["eval_documents"] > 0


def test_eval_data_that_the_run_was_trained_on_is_told(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, run = trained
    figures = ModelEvaluator(run, "cpu", eval_data=[str(corpus)]).calculate_perplexity()
    assert figures["documents_trained_on"] == 190
    assert "190 of the 200 documents stand word for word in the text it was trained on" in capsys.readouterr().out


def test_what_can_be_measured_without_the_corpus_is(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = copied(trained, tmp_path)
    (run / HELD_OUT_TEXT).unlink()
    (run / TEXT_HASHES).unlink()
    config = (run / "training_config.yaml").read_text(encoding="utf-8").replace("/corpus", "/elsewhere")
    (run / "training_config.yaml").write_text(config, encoding="utf-8")
    results = ModelEvaluator(run, "cpu", num_samples=1).run()
    assert results["generation"]["num_samples"] == 1
    assert "bits_per_byte" not in results
    assert "--eval-data" in capsys.readouterr().out
