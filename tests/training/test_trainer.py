"""What the Trainer of ours never saves, and what it no longer does in each step."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import Trainer

from babyllama import plugins
from babyllama.common.errors import NumericError
from babyllama.models.fused_loss import install_fused_loss
from babyllama.models.structure import spare_the_walks, weights_are_finite
from babyllama.pages.run_page import read_log
from babyllama.training.trainer import BabyTrainer, packed_loss
from tests.runs import config_for, corpus
from train import train

POISON = """
import os, signal
import torch
from transformers import TrainerCallback
from babyllama.plugins import register_callback

class Poison(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == 6:
            with torch.no_grad():
                next(p for p in model.parameters() if p.ndim == 2).fill_(float("nan"))
        if state.global_step == {signal_at}:
            signal.raise_signal(signal.SIGTERM)

register_callback(lambda config: Poison())
"""


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step looks at its loss, as on a GPU; the plugin's callbacks are forgotten afterwards."""
    monkeypatch.setattr(plugins, "CALLBACKS", [])
    monkeypatch.setattr(BabyTrainer, "training_step", Trainer.training_step)


def poisoned(tmp_path: Path, signal_at: int, **training: Any) -> Any:
    plugin = tmp_path / "poison.py"
    plugin.write_text(POISON.format(signal_at=signal_at), encoding="utf-8")
    steps = {"max_steps": 20, "save_steps": 5, "logging_steps": 5, "eval_steps": 20}
    config = config_for(corpus(tmp_path / "text"), tmp_path, **(steps | training))
    config.plugins = [str(plugin)]
    return config


@pytest.mark.integration
@pytest.mark.parametrize("signal_at", [6, 8])
def test_a_signal_after_a_nan_saves_nothing(tmp_path: Path, as_on_a_gpu: None, signal_at: int) -> None:
    """At step 6 only the weight shows it, at step 8 the running loss does; the log would at 10."""
    with pytest.raises(NumericError, match="checkpoint-5"):
        train(poisoned(tmp_path, signal_at))
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]


@pytest.mark.integration
def test_a_milestone_after_a_nan_is_not_written(tmp_path: Path, as_on_a_gpu: None) -> None:
    config = poisoned(tmp_path, 100)
    config.training.save_words = [1_250]  # step 6
    with pytest.raises(NumericError):
        train(config)
    assert not list((tmp_path / "run").glob("chck_*"))


def test_a_weight_that_is_not_finite_is_found(tiny_llama: Any) -> None:
    model = copy.deepcopy(tiny_llama)
    assert weights_are_finite(model)
    for value in (float("nan"), float("inf")):
        spoiled = copy.deepcopy(model)
        with torch.no_grad():
            next(iter(spoiled.parameters())).view(-1)[7] = value
        assert not weights_are_finite(spoiled)


def test_the_held_out_curve_takes_chunks_from_all_over_the_text(tiny_llama: Any) -> None:
    """Held-out files stand one after another: the first chunks would be of one domain."""
    model = copy.deepcopy(tiny_llama).train()
    install_fused_loss(model)
    asked: list[int] = []

    class Chunks:
        def __len__(self) -> int:
            return 12

        def __getitems__(self, numbers: list[int]) -> dict[str, torch.Tensor]:
            asked.extend(numbers)
            ids = torch.tensor([[1, 20 + number, 40, 60] for number in numbers])
            return {"input_ids": ids, "labels": ids}

    arguments = SimpleNamespace(per_device_train_batch_size=2, device="cpu")
    trainer = SimpleNamespace(model=model, args=arguments, valid=Chunks(), compute_loss_context_manager=nullcontext)
    found = packed_loss(trainer, 4)
    assert asked == [0, 3, 6, 9]
    with torch.no_grad():
        ids = torch.tensor([[1, 20 + number, 40, 60] for number in asked])
        logits = tiny_llama(ids).logits[:, :-1]
    assert found == pytest.approx(F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)).item())
    assert model.training


@pytest.mark.integration
def test_the_log_counts_words_and_tokens_of_the_text(tmp_path: Path) -> None:
    run = train(config_for(corpus(tmp_path / "text"), tmp_path, max_steps=None, num_epochs=2, batch_size=32)).run_dir
    last = read_log(run / "log_history.jsonl")[-1]
    text = (tmp_path / "text" / "small.train").read_text(encoding="utf-8")
    assert last["words"] == 2 * len(text.split()) < last["tokens"]


def test_a_loss_scale_that_only_falls_ends_the_training() -> None:
    state = SimpleNamespace(global_step=60)
    low = SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: 2.0**-34))
    with pytest.raises(NumericError, match="50 steps in a row"):
        BabyTrainer.check_loss_scale(SimpleNamespace(accelerator=low, state=state))
    for scaler in (None, SimpleNamespace(get_scale=lambda: 2.0**-20)):
        BabyTrainer.check_loss_scale(SimpleNamespace(accelerator=SimpleNamespace(scaler=scaler), state=state))


def test_a_step_walks_over_the_modules_no_more(tiny_llama: Any) -> None:
    """Training mode is set once, gradients go from a list; both still do what they say."""
    model = copy.deepcopy(tiny_llama).train()
    spare_the_walks(model)
    asked: list[bool] = []
    layer = model.base_model.layers[0]
    plain = layer.train
    layer.train = lambda mode=True: asked.append(mode) or plain(mode)
    model.train()
    assert not asked
    model.eval()
    model.train()
    assert asked == [False, True]
    ids = torch.randint(3, 100, (1, 8))
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    model(input_ids=ids, labels=ids).loss.backward()
    model.zero_grad(set_to_none=False)
    assert all(float(p.grad.abs().sum()) == 0 for p in model.parameters())
