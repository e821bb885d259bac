"""A training that cannot go on as it began: smaller parts, another precision; it goes on from where it was told to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from babyllama.config.schema import Config
from babyllama.pages.run_page import read_log
from babyllama.training import checkpoints, out_of_memory
from babyllama.training.trainer import BabyTrainer
from tests.runs import config_for, corpus, weights
from train import train

pytestmark = pytest.mark.integration
RECIPE = {"warmup_steps": 2, "logging_steps": 1, "save_total_limit": 9}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small")


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on: a GPU that takes four sequences at once and not eight."""
    real = BabyTrainer.training_step

    def step(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        if len(inputs["input_ids"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, model, inputs, *rest, **more)

    def begin() -> None:
        monkeypatch.setattr(BabyTrainer, "training_step", step)
        monkeypatch.setattr(out_of_memory, "halves_by_itself", lambda runtime: True)

    return begin


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """From which checkpoint each attempt began."""
    found: list[str | None] = []
    real = BabyTrainer.train

    def note(self: Any, resume_from_checkpoint: str | None = None) -> Any:
        found.append(resume_from_checkpoint and Path(resume_from_checkpoint).name)
        return real(self, resume_from_checkpoint=resume_from_checkpoint)

    monkeypatch.setattr(BabyTrainer, "train", note)
    return found


def branch_of(text: Path, out: Path, name: str, **training: Any) -> Config:
    recipe = RECIPE | {"lr_scheduler": "wsd", "max_steps": 8, "save_steps": 2} | training
    return config_for(text, out, name=name, decay_from=str(out / "trunk" / "checkpoint-4"), **recipe)


def test_a_cooldown_that_had_to_halve_its_parts_still_begins_at_the_trunk(
    text: Path,
    tmp_path: Path,
    short_of_memory: Callable[[], None],
    starts: list[str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(config_for(text, tmp_path, name="trunk", lr_scheduler="constant", **RECIPE))
    whole = train(branch_of(text, tmp_path, "whole"))
    short_of_memory()
    halved = train(branch_of(text, tmp_path, "halved"))
    assert "out of memory on cpu: going on with training.gradient_accumulation_steps: 2" in capsys.readouterr().out
    assert starts[-2:] == ["checkpoint-4", "checkpoint-4"], "the attempt that failed, and the one that went on"
    losses = [
        {entry["step"]: entry["loss"] for entry in read_log(done.run_dir / "log_history.jsonl") if "loss" in entry}
        for done in (whole, halved)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3), "the trunk's four steps and the branch's; other dropout"
    assert train(branch_of(text, tmp_path, "halved")).already_finished, "the same command again"


def test_a_resume_from_a_named_checkpoint_stays_there_when_its_parts_are_halved(
    text: Path, tmp_path: Path, starts: list[str | None], short_of_memory: Callable[[], None]
) -> None:
    run = train(config_for(text, tmp_path, **RECIPE)).run_dir
    for name in ("model.safetensors", "training_metrics.json"):
        (run / name).unlink()
    short_of_memory()
    train(config_for(text, tmp_path, **RECIPE), resume=str(run / "checkpoint-4"))
    assert starts[1:] == ["checkpoint-4", "checkpoint-4"], "and not checkpoint-12, which lies beside it"
    assert checkpoints.is_complete(run / "checkpoint-12")


def test_a_checkpoint_in_half_precision_goes_on_where_there_is_no_loss_scale(text: Path, tmp_path: Path) -> None:
    """From a T4 to a laptop: the Trainer would ask a scaler that is not there for its state."""
    config = config_for(text, tmp_path, max_steps=8)
    run = train(config).run_dir
    expected = weights(run)
    shutil.rmtree(run / "checkpoint-8")
    for name in ("model.safetensors", "training_metrics.json"):
        (run / name).unlink()
    folder = run / "checkpoint-4"
    extra = checkpoints.manifest_extra(folder)
    scaler = {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 4,
    }
    torch.save(scaler, folder / "scaler.pt")
    (folder / "checkpoint_manifest.json").unlink()
    checkpoints.commit(folder, extra)
    train(config, resume=True)
    assert weights(run) == expected
