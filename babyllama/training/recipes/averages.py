"""Exponential averages of the weights (`training.ema_decay`), kept beside the training and able to become its model.

After each optimizer step t (from 1) an average E of decay d moves towards the weights W (Polyak and Juditsky 1992):

    E <- d' E + (1 - d') W        d' = min(d, (1 + t) / (10 + t))

The smaller decay at the start (as TensorFlow's ExponentialMovingAverage has it) keeps the random first weights from
counting for 1 / (1 - d) steps. The averages are part of each checkpoint (`weight_averages.safetensors`), so a resumed
run has the ones that the unbroken run would have. At the end each stands in the run folder as a model of its own
(`ema_0.999/`, loadable like any checkpoint); with `training.keep: ema` the one with the lowest loss on the held-out
curve's chunks becomes the run's model. The training itself never sees them.

Averages are float32 copies of the trained parameters: 40 MB and one pass over the weights a step for 10M parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common.console import is_main_process, say
from babyllama.common.errors import CheckpointError
from babyllama.config.run_layout import AVERAGES, AVERAGES_FILE

if TYPE_CHECKING:
    from babyllama.config.schema import Config


def decay_at(decay: float, step: int) -> float:
    """Compute the decay in force at a step.

    >>> decay_at(0.999, 1), decay_at(0.999, 100_000)
    (0.18181818181818182, 0.999)
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverages(TrainerCallback):
    """Exponential averages of a model's trained parameters.

    Args:
        model: The model that is trained.
        decays: Decays a step, each with an average of its own.
        resumed_from: Tells the checkpoint that the training goes on from, None at step 0.
    """

    def __init__(self, model: nn.Module, decays: list[float], resumed_from: Callable[[], Path | None]) -> None:
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.decays, self.resumed_from = decays, resumed_from
        self.averages: dict[float, dict[str, Tensor]] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin with the weights, or go on with the checkpoint's averages."""
        checkpoint = self.resumed_from()
        kept = {} if checkpoint is None else self._read(checkpoint)
        self.averages = {}
        for decay in self.decays:
            own = {name: kept.get(f"{decay:g}/{name}", p.detach()) for name, p in self.named.items()}
            self.averages[decay] = {n: t.to(self.named[n].device, torch.float32, copy=True) for n, t in own.items()}

    def _read(self, checkpoint: Path) -> dict[str, Tensor]:
        path = checkpoint / AVERAGES_FILE
        if path.is_file():
            return load_file(path)
        say(f"{checkpoint.name}: holds no averages of the weights: they begin there")  # the trunk of a cooldown
        return {}

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move each average towards the new weights."""
        for decay, average in self.averages.items():
            weight = 1 - decay_at(decay, state.global_step)
            torch._foreach_lerp_(list(average.values()), [p.float() for p in self.named.values()], weight)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the averages into the checkpoint before its manifest is made."""
        if is_main_process():
            flat = {f"{d:g}/{name}": tensor for d, average in self.averages.items() for name, tensor in average.items()}
            save_file(flat, Path(args.output_dir) / f"checkpoint-{state.global_step}" / AVERAGES_FILE)

    @torch.no_grad()
    def put(self, decay: float) -> dict[str, Tensor]:
        """Put an average into the model.

        Args:
            decay: One of the decays.

        Returns:
            The weights that were there, for `put_back`.
        """
        before = {name: p.detach().clone() for name, p in self.named.items()}
        for name, parameter in self.named.items():
            parameter.copy_(self.averages[decay][name])
        return before

    @torch.no_grad()
    def put_back(self, weights: dict[str, Tensor]) -> None:
        """Restore what `put` returned."""
        for name, parameter in self.named.items():
            parameter.copy_(weights[name])


def add_averages(trainer: Any, config: Config) -> None:
    """Let a Trainer keep the averages that `training.ema_decay` names; none where it is unset."""
    decays = config.training.ema_decay
    if decays:
        decays = decays if isinstance(decays, list) else [decays]
        trainer.averages = WeightAverages(trainer.model, decays, lambda: trainer.last_good_checkpoint)
        trainer.add_callback(trainer.averages)


def save_averages(trainer: Any, tokenizer: Any, run_dir: Path, loss: Callable[[], float]) -> None:
    """Save each average as a model folder; with `keep: ema` leave the best of them in the trainer's model.

    Args:
        trainer: After its last step; without averages nothing is done.
        tokenizer: Saved with each.
        run_dir: The run folder.
        loss: Held-out loss of the trainer's model, in nats a token.
    """
    averages: WeightAverages | None = getattr(trainer, "averages", None)
    if averages is None:
        return
    if not averages.averages:
        raise CheckpointError(f"{run_dir}: the averages of the weights are gone: no training step was made")
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    found: dict[float, float] = {}
    for decay in averages.averages:
        before = averages.put(decay)
        found[decay] = loss()
        if is_main_process():
            folder = run_dir / f"{AVERAGES}{decay:g}"
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        averages.put_back(before)
        say(f"average of the weights, decay {decay:g}: held-out loss {found[decay]:.4f}, saved as {AVERAGES}{decay:g}")
    if trainer.training_config.keep == "ema":
        best = min(found, key=lambda decay: found[decay])
        averages.put(best)
        say(f"kept the average of decay {best:g}")
