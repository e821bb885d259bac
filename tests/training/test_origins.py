"""What a run says of itself is what was trained: type, sizes, where weights and tokenizer came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import main
import train as pipeline
from babyllama.config.loading import load_config
from babyllama.config.schema import DistillationConfig
from babyllama.pages.model_card import write_model_card
from babyllama.pages.run_page import write_run_report
from babyllama.sharing.export_command import _description
from tests.tiny_runs import settings, trained_on, write_corpus
from train import train

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def goes_on(tiny_gpt2: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under the Llama preset that begins with a foreign GPT-2, whose tokenizer has no token to pad with."""
    base = tmp_path_factory.mktemp("origins")
    tiny_gpt2.save_pretrained(base / "foreign-gpt2")
    tiny_tokenizer.save_pretrained(base / "foreign-gpt2")
    path = base / "foreign-gpt2" / "tokenizer_config.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: v for key, v in state.items() if key != "pad_token"}), encoding="utf-8")
    corpus = write_corpus(base / "corpus", range(60))
    more = {"model.init_from": str(base / "foreign-gpt2"), "model.hidden_size": 96, "training.max_steps": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BABYLLAMA_CACHE", str(base / "cache"))
        return train(settings(corpus, base / "models", **more)).run_dir


def test_the_record_says_what_was_trained(goes_on: Path) -> None:
    config = load_config(goes_on / "training_config.yaml")
    assert (config.model.type, config.model.hidden_size, config.model.n_layer) == ("GPT2", 32, 2)
    assert json.loads((goes_on / "config.json").read_text(encoding="utf-8"))["model_type"] == "gpt2"


def test_card_page_and_export_name_the_checkpoint(goes_on: Path) -> None:
    card = write_model_card(goes_on).read_text(encoding="utf-8")
    page = write_run_report(goes_on).read_text(encoding="utf-8")
    for text in (card, page, _description(goes_on).lower()):
        assert "trained on from the checkpoint foreign-gpt2" in text
        assert "trained from scratch" not in text
    assert "the tokenizer `foreign-gpt2`" in card
    assert "BPE trained on the training text" not in card


def test_a_foreign_folder_s_export_claims_nothing(tiny_run: Path) -> None:
    assert _description(tiny_run) == "Exported with BabyLlama"


def test_another_tool_s_configuration_stops_no_scoring(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from babyllama.models.loading import run_config_of

    folder = Path(shutil.copytree(tiny_run, tmp_path / "m"))
    (folder / "training_config.yaml").write_text("trainer: {gpus: 8}\nlr: 0.1\n", encoding="utf-8")
    assert run_config_of(folder) is None
    assert "not a configuration of ours, left aside" in capsys.readouterr().out
    assert main.main(["evaluate", str(folder), "--tasks", "speed", "--output", str(tmp_path / "out")]) == 0


def test_a_student_names_its_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths as Windows writes them are taken as they are typed."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(main, "run_pipeline", lambda args: seen.update(overrides=args.overrides) or 0)
    assert main.main(["distill", "--teachers", r"C:\runs\new\a, D:\b"]) == 0
    from babyllama.config.loading import load_config as load

    config = load("distillation", seen["overrides"], {"data.train_path": str(tmp_path)})
    assert config.distillation.teachers == [r"C:\runs\new\a", r"D:\b"]


def test_a_model_that_only_a_run_of_ours_made_from_nothing(tmp_path: Path) -> None:
    _, run = trained_on(tmp_path, range(60))
    assert "trained from scratch with BabyLlama" in (run / "README.md").read_text(encoding="utf-8")
    assert _description(run) == "Trained from scratch, with BabyLlama"


def test_many_small_files_are_summed_up(tmp_path: Path) -> None:
    """1,500 files had as many rows on the page: the largest are shown, the others are one sum."""
    from babyllama.pages.tables import MOST_DOMAINS, largest_amounts, largest_domains

    words = {f"f{number}": number for number in range(1500)}
    shown = largest_amounts(words)
    assert sum(shown.values()) == sum(words.values())
    assert len(shown) == MOST_DOMAINS + 1
    assert "1,460 other domains" in shown
    kept, told = largest_domains({name: {"total_tokens": count} for name, count in words.items()})
    assert sorted(figures["total_tokens"] for figures in kept.values()) == list(range(1460, 1500))
    assert told.startswith("1,460 domains with less text are left out here")
    _, run = trained_on(tmp_path, range(60))
    metrics = json.loads((run / "training_metrics.json").read_text(encoding="utf-8"))
    metrics["ledger"]["domains"] = words
    (run / "training_metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    page = write_run_report(run).read_text(encoding="utf-8")
    assert "1,460 other domains" in page
    assert page.count("<tr>") < 100
    assert "1,460 other domains" in write_model_card(run).read_text(encoding="utf-8")


def test_what_a_run_begins_with_and_learns_from_is_in_its_fingerprint(tmp_path: Path, tiny_run: Path) -> None:
    """The content counts and not the name: other weights or another plugin under the same path are another run."""
    plugin, folder = tmp_path / "mine.py", Path(shutil.copytree(tiny_run, tmp_path / "origin"))
    plugin.write_text("x = 1\n", encoding="utf-8")
    config = settings(write_corpus(tmp_path / "corpus", range(60)), tmp_path)
    data = pipeline.prepare_data(config)
    config.plugins, config.model.init_from = [str(plugin)], str(folder)
    config.distillation = DistillationConfig(teachers=[str(folder)])
    before = pipeline.run_fingerprint(config, data)
    plugin.write_text("x = 2\n", encoding="utf-8")
    changed = pipeline.run_fingerprint(config, data)
    assert {key for key in before if before[key] != changed[key]} == {"plugins"}
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    changed = pipeline.run_fingerprint(config, data)
    assert {key for key in before if before[key] != changed[key]} == {"plugins", "model.init_from weights", "teacher 1"}
