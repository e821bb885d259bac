"""A time budget: the number of steps is fixed once, fits the time, repeats exactly, and is that of max_steps."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json, write_json
from babyllama.config.loading import config_from_dict
from babyllama.config.schema import Config
from babyllama.data.packing import PackedDataset
from babyllama.data.token_store import TokenSplit
from babyllama.models.fused_loss import install_fused_loss
from babyllama.models.runtime import Runtime
from babyllama.training.arguments import count_steps
from babyllama.training.checkpoints import remove_checkpoint
from babyllama.training.recipes import time_budget
from babyllama.training.recipes.time_budget import StepTimes, limit_of, rehearse, steps_within, with_steps
from tests.runs import config_for, corpus, weights
from tests.training.test_step_graph import Again
from train import train

TIMES = StepTimes(step=0.5, evaluation=2.0, save=1.0)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small")


def _config(**training: Any) -> Config:
    return Config(model={"type": "Llama"}, training={"batch_size": 4, **training})


@pytest.mark.parametrize("seconds", [1.0, 30.0, 180.0, 3600.0])
def test_steps_evaluations_and_saves_fit_and_no_further_step_does(seconds: float) -> None:
    config = _config(max_minutes=1)

    def takes(steps: int) -> float:
        counts = count_steps(with_steps(config, steps), 4000)
        return steps * 0.5 + math.ceil(steps / counts.eval_steps) * 2.0 + math.ceil(steps / counts.save_steps) * 1.0

    steps = steps_within(seconds, TIMES, config, 4000)
    assert steps == 1 or takes(steps) <= seconds
    assert steps <= seconds / 0.5 or steps == 1
    assert takes(steps + 2) > 0.97 * seconds  # intervals are rounded, so the sum is not quite monotone


def test_schedule_and_intervals_follow_the_number_of_steps() -> None:
    counts = count_steps(with_steps(_config(max_minutes=1), 1000), 4000)
    assert (counts.total_steps, counts.eval_steps, counts.save_steps, counts.logging_steps) == (1000, 50, 100, 10)


def test_what_limits_a_run() -> None:
    assert limit_of(_config(max_minutes=3)) == 3
    assert limit_of(_config()) is None
    assert limit_of(_config(quick_start_minutes=4)) == 4  # the embedded corpus
    assert limit_of(_config(quick_start_minutes=4, max_steps=30)) is None
    assert limit_of(_config(quick_start_minutes=4, num_epochs=2)) is None
    own = config_from_dict(
        {"model": {"type": "Llama"}, "data": {"train_path": "x"}, "training": {"quick_start_minutes": 4}}
    )
    assert limit_of(own) is None


def test_minutes_and_steps_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="both set"):
        config_from_dict({"model": {"type": "Llama"}, "training": {"max_minutes": 3, "max_steps": 10}})


@pytest.mark.integration
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_budget_run_has_the_bits_of_its_number_of_steps(
    text: Path,
    tmp_path: Path,
    optimizer: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Dropout is on: the rehearsal gives back the random state as well as the weights."""
    monkeypatch.setattr(time_budget, "steps_within", lambda *_: 9)  # the steps are timed; how many is the load's matter
    recipe = {"optimizer": optimizer, "save_steps": None, "eval_steps": None, "logging_steps": None}
    timed = train(config_for(text, tmp_path, name="timed", max_steps=None, max_minutes=0.1, **recipe))
    told = capsys.readouterr().out
    steps = timed.metrics["global_step"]
    assert timed.metrics["total_steps"] == steps == 9
    assert f"{steps:,} steps" in told
    plain = train(config_for(text, tmp_path, name="plain", max_steps=steps, **recipe))
    assert weights(timed.run_dir) == weights(plain.run_dir)


@pytest.mark.integration
def test_a_resume_takes_the_number_of_steps_from_the_checkpoint(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe: dict[str, Any] = {"max_steps": None, "max_minutes": 2.0, "save_steps": 10, "eval_steps": 500}
    monkeypatch.setattr(time_budget, "steps_within", lambda *_: 30)
    run_dir = train(config_for(text, tmp_path, **recipe)).run_dir
    whole = weights(run_dir)
    (run_dir / "training_metrics.json").unlink()
    remove_checkpoint(run_dir / "checkpoint-30")
    monkeypatch.setattr(time_budget, "rehearse", lambda *_, **__: pytest.fail("timed twice"))
    result = train(config_for(text, tmp_path, **recipe), resume=True)
    assert result.metrics["global_step"] == 30
    assert weights(run_dir) == whole


def test_steps_are_timed_as_the_training_will_compute_them(tiny_llama: Any) -> None:
    """On a GPU a small model's step is replayed in a fifth of the time that its kernels take one by one."""
    model, recorder = copy.deepcopy(tiny_llama), Again(tiny_llama)
    recorder.model = model
    install_fused_loss(model)
    split = TokenSplit(
        np.arange(3, 300, dtype=np.uint16), np.array([0, 297]), *[np.zeros(1, dtype=np.int64)] * 3, ["d"]
    )
    chunks = PackedDataset(split, 16, pad_id=0)
    config = config_for(Path(), Path())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for graphs in (False, True):
        runtime = Runtime("cpu", "fp32", "eager", "off", 1, muon_precision=None, graphs=graphs)
        times = rehearse(model, config, runtime, chunks, chunks, curve_chunks=4, seconds=0.001, recorder=recorder)
        assert times.step > 0
        assert (recorder.warmed, recorder.recorded, recorder.replayed > 1) == (
            (3, 1, True) if graphs else (0, 0, False)
        )
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.integration
def test_more_minutes_go_on_from_a_finished_run(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe: dict[str, Any] = {"max_steps": None, "save_steps": 10, "eval_steps": 500}
    monkeypatch.setattr(time_budget, "steps_within", lambda *_: 10)
    train(config_for(text, tmp_path, max_minutes=1.0, **recipe))
    longer = train(config_for(text, tmp_path, max_minutes=2.0, **recipe), resume=True)
    assert longer.metrics["global_step"] == 20
    assert "training.max_minutes: 1.0 -> 2.0" in capsys.readouterr().out


@pytest.mark.integration
def test_epochs_repeat_the_text_with_a_line(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time_budget, "steps_within", lambda *_: 250)
    config = config_for(text, tmp_path, max_steps=None, max_minutes=1.0, save_steps=None, eval_steps=None)
    metrics = train(config).metrics
    assert metrics["global_step"] == 250
    assert metrics["num_epochs"] > 1
    assert "is read again" in capsys.readouterr().out


class TestQuickStart:
    """The embedded corpus within a few minutes on any machine."""

    def fixed(self, monkeypatch: pytest.MonkeyPatch, seconds: float, waited: float = 0.0) -> Config:
        times = StepTimes(step=seconds, evaluation=0.0, save=0.0)
        monkeypatch.setattr(time_budget, "rehearse", lambda *_, **__: times)
        monkeypatch.setattr(time_budget, "seconds_since_start", lambda: waited)
        config = config_from_dict(
            {
                "model": {"type": "Llama"},
                "training": {"batch_size": 32, "quick_start_minutes": 4, "torch_compile": False},
            }
        )
        from babyllama.models.runtime import decide

        runtime = decide(config, total_steps=10, num_parameters=1000)
        chunks = range(290 * 32)
        self.config, self.runtime = config, runtime
        found = time_budget.fix_length(None, config, runtime, (chunks, chunks), 256)
        self.whole = found is config
        return found

    def test_a_fast_machine_trains_the_whole_epoch_as_configured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fixed(monkeypatch, 0.3)
        assert self.whole

    def test_a_slow_one_what_fits_and_says_what_is_left_out(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shortened = self.fixed(monkeypatch, 1.6)
        assert shortened.training.max_steps == 144  # 240 s / 1.6 s, less the margin of 4%
        assert "144 of 290 steps" in capsys.readouterr().out
        counts = count_steps(shortened, 290 * 32)
        assert (counts.eval_steps, counts.save_steps) == (36, 36)  # four points

    def test_what_the_command_has_taken_before_is_taken_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 4 min 50 s for the whole command 60 s are over, and 20 are kept for the scores."""
        assert self.fixed(monkeypatch, 1.2, waited=60.0).training.max_steps == int(
            (290 - 60 - 20) / (1.2 * time_budget.MARGIN)
        )

    def test_a_resume_keeps_the_number_and_the_intervals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shortened = self.fixed(monkeypatch, 1.6)
        monkeypatch.setattr(time_budget, "rehearse", lambda *_, **__: pytest.fail("timed twice"))
        start = SimpleNamespace(total_steps=144)
        chunks = range(290 * 32)
        again = time_budget.fix_length(None, self.config, self.runtime, (chunks, chunks), 256, start)
        assert again == shortened

    def test_a_very_slow_one_no_less_than_the_pairs_need(self, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = self.fixed(monkeypatch, 60.0).training.max_steps
        assert steps == math.ceil(time_budget.FEWEST_TOKENS / (32 * 128))


def test_a_resume_gets_the_minutes_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 steps took one of the three minutes: two are left, and not three."""
    times = StepTimes(step=0.5, evaluation=0.0, save=0.0)
    monkeypatch.setattr(time_budget, "rehearse", lambda *_, **__: times)
    write_json(
        tmp_path / "trainer_state.json", {"global_step": 100, "log_history": [{"seconds": 30.0}, {"seconds": 60.0}]}
    )
    config, chunks = _config(max_minutes=3), range(4000)
    start = SimpleNamespace(total_steps=None, checkpoint=tmp_path)
    runtime = Runtime("cpu", "fp32", "eager", "off", 1, muon_precision=None)
    found = time_budget.fix_length(None, config, runtime, (chunks, chunks), 256, start)
    careful = StepTimes(0.5 * time_budget.MARGIN, 0.0, 0.0)
    assert found.training.max_steps == 100 + steps_within(120.0, careful, config, len(chunks))


def test_the_record_has_the_number_of_steps(text: Path, tmp_path: Path) -> None:
    run_dir = train(config_for(text, tmp_path, max_steps=3)).run_dir
    assert read_json(run_dir / "training_metrics.json")["total_steps"] == 3
    manifest = read_json(run_dir / "checkpoint-3" / "checkpoint_manifest.json")
    assert manifest["extra"]["total_steps"] == 3
