"""Early stopping: where a curve is exhausted, what follows, and that a resume comes to the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from babyllama import plugins
from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.config.fingerprint import training_fingerprint
from babyllama.config.loading import load_config
from babyllama.config.run_layout import REPORT, TRAINING_LOG, TRAINING_METRICS, WEIGHTS
from babyllama.config.schema import Config, TrainingConfig
from babyllama.pages.run_page import read_log
from babyllama.training.recipes.patience import Patience, decayed_length, first_exhausted
from tests.runs import config_for, corpus, weights
from train import train

OVERFITS: dict[str, Any] = {"max_steps": 200, "eval_steps": 10, "save_steps": 10, "logging_steps": 10, "lr": 0.03}


def test_only_points_in_a_row_exhaust_patience() -> None:
    falling = [(n, 5.0 - n) for n in range(1, 5)]
    assert first_exhausted(falling, 1, 0, 100) is None
    stuck = [(1, 3.0), (2, 3.0), (3, 2.9), (4, 2.9), (5, 3.1), (6, 1.0)]
    assert first_exhausted(stuck, 1, 0, 100) == (2, 1, 3.0), "equal is no improvement"
    assert first_exhausted(stuck, 2, 0, 100) == (5, 3, 2.9)
    assert first_exhausted(stuck, 3, 0, 100) is None
    assert first_exhausted(stuck, 2, 5, 100) is None, "points while a curriculum holds text back do not count"
    assert first_exhausted(stuck, 2, 0, 4) is None, "points of the planned decay do not count"


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_decay_that_begins_early_is_the_planned_one_of_a_shorter_run(fraction: float) -> None:
    for step in range(1, 400):
        total = decayed_length(step, fraction, 10**9)
        assert total - round(fraction * total) == step or total == step + 1
    assert decayed_length(90, fraction, 100) == 100 or fraction == 0.1


@pytest.mark.parametrize(("exhausted", "end"), [(600, (600, 857)), (700, None)])
def test_where_the_planned_decay_begins_the_run_goes_on_into_it(exhausted: int, end: tuple[int, int] | None) -> None:
    config = Config(
        model={"type": "Llama"},
        training={"patience": 2, "lr_scheduler": "wsd", "decay_fraction": 0.3, "warmup_steps": 50},
    )
    callback = Patience(cast("Any", None), config, planned_steps=1000)
    log = [{"step": step, "valid_loss": 5 - min(step, exhausted - 200) / 1000} for step in range(100, 1100, 100)]
    found = callback.decision(log)
    assert (found and (found.step, found.total_steps)) == end


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_without_a_decay_the_last_point_may_still_end_it(schedule: str) -> None:
    config = Config(model={"type": "Llama"}, training={"patience": 2, "lr_scheduler": schedule})
    log = [{"step": step, "valid_loss": 5 - min(step, 800) / 1000} for step in range(100, 1100, 100)]
    found = Patience(cast("Any", None), config, planned_steps=1000).decision(log)
    assert found is not None
    assert (found.step, found.total_steps, found.decays) == (1000, 1000, False)


def test_patience_keeps_the_best_weights_unless_told_otherwise() -> None:
    assert TrainingConfig().keep == "last"
    assert TrainingConfig(patience=3).keep == "best"
    assert TrainingConfig(patience=3, keep="last").keep == "last"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"training.decay_from": "x/checkpoint-4"}, "not with training.decay_from"),
        ({"training.lr_scheduler": "wsd", "training.decay_fraction": 1}, "with decay_fraction 1"),
        ({"training.average_epochs": 2, "training.max_steps": 9}, r"average_epochs: not with training\.patience"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [], {"model.type": "Llama", "training.patience": 3, **keys})
    with pytest.raises(ConfigError, match=r"training\.patience"):
        load_config(None, [], {"model.type": "Llama", "training.patience": 0})


def test_with_patience_the_points_of_the_curve_belong_to_the_run() -> None:
    def of(**training: Any) -> dict[str, Any]:
        return training_fingerprint(Config(model={"type": "Llama"}, training=training), "a", "b")

    assert of() == of(eval_steps=7)
    assert of(patience=2) != of(patience=3)
    assert of(patience=2) != of(patience=2, eval_steps=7)


def overfitting(folder: Path) -> Path:
    """Few sentences to learn by heart, and held-out text of the same words in another order."""
    corpus(folder, sentences=120)
    lines = (folder / "small.train").read_text(encoding="utf-8").splitlines()
    turned = "".join(" ".join(reversed(line.split())) + "\n" for line in lines[:20])
    (folder / "small.dev").write_text(turned, encoding="utf-8")
    return folder


class Stop(TrainerCallback):
    """Ends the process's training as a power cut would, without a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def _stopped(config: Config, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "CALLBACKS", [lambda config: Stop(step)])
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(plugins, "CALLBACKS", [])


@pytest.mark.integration
def test_the_best_weights_are_kept_behind_later_ones(tmp_path: Path) -> None:
    """The best point lies before the end, and more checkpoints come after it than are kept."""
    recipe = OVERFITS | {"lr_scheduler": "constant", "warmup_steps": 5, "keep": "best", "save_total_limit": 2}
    found = train(config_for(overfitting(tmp_path / "text"), tmp_path, **recipe | {"max_steps": 120, "save_steps": 10}))
    best = found.metrics["best_step"]
    assert found.metrics["global_step"] - best >= 40
    saved, chosen = (load_file(folder / WEIGHTS) for folder in (found.run_dir, found.run_dir / f"checkpoint-{best}"))
    last = load_file(found.run_dir / f"checkpoint-{found.metrics['global_step']}" / WEIGHTS)
    assert all(torch.equal(saved[name], chosen[name]) for name in chosen)
    assert not all(torch.equal(saved[name], last[name]) for name in last)


@pytest.mark.integration
@pytest.mark.parametrize("schedule", ["constant", "wsd"])
def test_overfitting_run_ends_early_and_a_resume_at_the_same_step(
    tmp_path: Path, schedule: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = overfitting(tmp_path / "text")
    recipe = OVERFITS | {"lr_scheduler": schedule, "patience": 2, "warmup_steps": 5, "keep": "last"}
    whole = train(config_for(text, tmp_path, name="whole", **recipe)).run_dir
    metrics = read_json(whole / TRAINING_METRICS)
    end = metrics["early_end"]
    assert end["step"] - end["best_step"] == 20, "two points behind the best"
    assert metrics["global_step"] == metrics["total_steps"] == end["total_steps"] < 200
    assert end["reason"] in capsys.readouterr().out
    assert "(training.patience)" in (whole / REPORT).read_text(encoding="utf-8")
    rates = {entry["step"]: entry["learning_rate"] for entry in read_log(whole / TRAINING_LOG) if "loss" in entry}
    assert rates[end["step"]] == pytest.approx(0.03)
    if schedule == "wsd":
        assert end["total_steps"] == decayed_length(end["step"], 0.3, 200)
        assert rates[max(rates)] < 0.03
    else:
        assert end["total_steps"] == end["step"]

    # The run that max_steps would have given, to the bit.
    told = train(
        config_for(text, tmp_path, name="told", **recipe | {"patience": None, "max_steps": end["total_steps"]})
    )
    assert weights(told.run_dir) == weights(whole)

    # Killed before the decision, and behind it; a second resume has nothing left to do.
    steps = [end["step"] - 5] + ([end["step"] + 3] if schedule == "wsd" else [])
    for number, step in enumerate(steps):
        config = config_for(text, tmp_path, name=f"killed-{number}", **recipe)
        _stopped(config, step, monkeypatch)
        assert weights(train(config, resume=True).run_dir) == weights(whole)
        assert train(config, resume=True).already_finished


@pytest.mark.integration
def test_killed_behind_the_last_checkpoint_of_an_early_end_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = overfitting(tmp_path / "text")
    config = config_for(text, tmp_path, **OVERFITS, patience=1, lr_scheduler="constant", warmup_steps=5)
    run = train(config).run_dir
    kept, metrics = weights(run), read_json(run / TRAINING_METRICS)
    assert metrics["kept"] == "best"
    assert metrics["early_end"]["best_step"] == metrics["best_step"] < metrics["global_step"]
    (run / TRAINING_METRICS).unlink()
    again = train(config, resume=True)
    assert "nothing is left to train" in capsys.readouterr().out
    assert weights(again.run_dir) == kept
    assert json.loads((run / TRAINING_METRICS).read_text(encoding="utf-8"))["early_end"] == metrics["early_end"]
