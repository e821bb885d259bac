"""Averages of the weights (`training.ema_decay`, `average_epochs`), kept beside the training, able to become its model.

After each optimizer step t (from 1) an average E of decay d moves towards the weights W (Polyak and Juditsky 1992):

    E <- d' E + (1 - d') W        d' = min(d, (1 + t) / (10 + t))

The smaller decay at the start (as TensorFlow's ExponentialMovingAverage has it) keeps the random first weights from
counting for 1 / (1 - d) steps. `average_epochs: N` is the plain mean of the weights at N places: the run's end and
the N - 1 places that lie one, two, ... epochs before it (fewer where `max_steps` or `max_minutes` makes the run shorter
than that), which are the ends of the last N epochs where the run has whole epochs (checkpoint averaging, as in Vaswani
et al. 2017).

The averages are part of each checkpoint (`weight_averages.safetensors`), so a resumed run has the ones that the
unbroken run would have. At the end each stands in the run folder as a model of its own (`ema_0.999/`, `mean_3_epochs/`,
loadable like any checkpoint), its held-out score in the run's record beside the model's; with `training.keep: ema` the
one with the lowest loss on the held-out curve's chunks becomes the run's model. The training itself never sees them.

Averages are float32 copies of the trained parameters: 40 MB and one pass over the weights a step for 10M parameters
(the mean of epochs: one pass an epoch).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common.console import say
from babyllama.common.distributed import is_main_process
from babyllama.common.errors import CheckpointError
from babyllama.common.files import Building
from babyllama.config.run_layout import AVERAGES, AVERAGES_FILE, MEANS
from babyllama.models.older_readers import write_old_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from babyllama.config.schema import Config
    from babyllama.training.trainer import BabyTrainer

_STEPS = ".steps"  # behind the mean's name, the steps whose weights are in it


def decay_at(decay: float, step: int) -> float:
    """Compute the decay in force at a step.

    >>> decay_at(0.999, 1), decay_at(0.999, 100_000)
    (0.18181818181818182, 0.999)
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverages(TrainerCallback):
    """Averages of a model's trained parameters, each under the name of the folder that it is saved as.

    Args:
        model: The model that is trained.
        decays: Decays a step, each with an average of its own.
        epochs: Number of epochs whose last weights are averaged, None for no such mean.
        steps_per_epoch: Optimizer steps of an epoch.
        resumed_from: Tells the checkpoint that the training goes on from, None at step 0.
    """

    def __init__(
        self,
        model: nn.Module,
        decays: list[float],
        epochs: int | None,
        steps_per_epoch: int,
        resumed_from: Callable[[], Path | None],
    ) -> None:
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.decays = {f"{AVERAGES}{decay:g}": decay for decay in decays}
        self.mean, self.epochs, self.steps_per_epoch = f"{MEANS}{epochs}_epochs", epochs or 0, steps_per_epoch
        self.resumed_from = resumed_from
        self.averages: dict[str, dict[str, Tensor]] = {}
        self.points: list[int] = []
        self.taken: list[int] = []

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin with the weights, or go on with the checkpoint's averages."""
        checkpoint = self.resumed_from()
        kept = {} if checkpoint is None else self._read(checkpoint)
        self.averages = {}
        for folder in self.decays:
            key = folder.removeprefix(AVERAGES)
            own = {name: kept.get(f"{key}/{name}", p.detach()) for name, p in self.named.items()}
            self.averages[folder] = self._copied(own)
        places = (state.max_steps - back * self.steps_per_epoch for back in range(self.epochs))
        self.points, self.taken = sorted(step for step in places if step > 0), []
        if self.points and state.global_step:
            self._go_on_with_mean(kept, state.global_step)

    def _go_on_with_mean(self, kept: dict[str, Tensor], step: int) -> None:
        """Take the checkpoint's mean where it is one of this run's places; another length has others."""
        taken = kept[f"{self.mean}{_STEPS}"].tolist() if f"{self.mean}{_STEPS}" in kept else []
        expected = [point for point in self.points if point <= step]
        if taken and taken == expected:
            self.taken = taken
            self.averages[self.mean] = self._copied({name: kept[f"{self.mean}/{name}"] for name in self.named})
        elif taken or expected:
            say(f"{self.mean}: the checkpoint has the weights of steps {taken}, this length wants {expected}: left out")

    def _copied(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.to(self.named[name].device, torch.float32, copy=True) for name, t in weights.items()}

    def _read(self, checkpoint: Path) -> dict[str, Tensor]:
        path = checkpoint / AVERAGES_FILE
        if path.is_file():
            return load_file(path)
        say(f"{checkpoint.name}: holds no averages of the weights: they begin there")  # the trunk of a cooldown
        return {}

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move each average towards the new weights; take them into the mean where an epoch ends."""
        for folder, decay in self.decays.items():
            self._move(folder, 1 - decay_at(decay, state.global_step))
        if state.global_step in self.points and state.global_step not in self.taken:
            self.taken.append(state.global_step)
            if self.mean not in self.averages:
                self.averages[self.mean] = self._copied({name: p.detach() for name, p in self.named.items()})
            self._move(self.mean, 1 / len(self.taken))

    def _move(self, folder: str, weight: float) -> None:
        average = self.averages[folder]
        torch._foreach_lerp_(list(average.values()), [p.float() for p in self.named.values()], weight)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the averages into the checkpoint before its manifest is made."""
        if is_main_process():
            flat = {
                f"{folder.removeprefix(AVERAGES)}/{name}": tensor
                for folder, average in self.averages.items()
                for name, tensor in average.items()
            }
            if self.taken:
                flat[f"{self.mean}{_STEPS}"] = torch.tensor(self.taken)
            save_file(flat, Path(args.output_dir) / f"checkpoint-{state.global_step}" / AVERAGES_FILE)

    @torch.no_grad()
    def put(self, folder: str) -> dict[str, Tensor]:
        """Put an average into the model.

        Args:
            folder: Name of one of the averages.

        Returns:
            The weights that were there, for `put_back`.
        """
        before = {name: p.detach().clone() for name, p in self.named.items()}
        for name, parameter in self.named.items():
            parameter.copy_(self.averages[folder][name])
        return before

    @torch.no_grad()
    def put_back(self, weights: dict[str, Tensor]) -> None:
        """Restore what `put` returned."""
        for name, parameter in self.named.items():
            parameter.copy_(weights[name])


def add_averages(trainer: BabyTrainer, config: Config, steps_per_epoch: int) -> None:
    """Let a Trainer keep the averages that `ema_decay` and `average_epochs` name; none where both are unset.

    Args:
        trainer: The Trainer.
        config: Run configuration.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    decays, epochs = config.training.decays, config.training.average_epochs
    if decays or epochs:
        trainer.averages = WeightAverages(
            trainer.model, decays, epochs, steps_per_epoch, lambda: trainer.last_good_checkpoint
        )
        trainer.add_callback(trainer.averages)


def save_averages(
    trainer: BabyTrainer, tokenizer: PreTrainedTokenizerBase, run_dir: Path, loss: Callable[[], float]
) -> list[dict[str, Any]]:
    """Save each average as a model folder; with `keep: ema` leave the best of them in the trainer's model.

    Args:
        trainer: After its last step; without averages nothing is done.
        tokenizer: Saved with each.
        run_dir: The run folder.
        loss: Held-out loss of the trainer's model, in nats a token.

    Returns:
        An entry an average for the run's record: name of its folder, valid_loss (over the held-out curve's chunks),
        kept (whether it became the model), and for a mean of epochs the steps whose weights are in it.

    Raises:
        CheckpointError: There is no average, since no step was made.
    """
    averages: WeightAverages | None = getattr(trainer, "averages", None)
    if averages is None:
        return []
    if not averages.averages:
        raise CheckpointError(f"{run_dir}: the averages of the weights are gone: no training step was made")
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    found: list[dict[str, Any]] = []
    for name in averages.averages:
        # The average in the model's place for as long as it is scored and saved.
        before = averages.put(name)
        entry = {"name": name, "valid_loss": loss(), "kept": False}
        if is_main_process():
            with Building(run_dir / name) as folder:
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                write_old_names(folder)
        averages.put_back(before)
        steps = {"steps": averages.taken} if name == averages.mean else {}
        found.append({**entry, **steps})
        say(f"average of the weights {name}: held-out loss {entry['valid_loss']:.4f} on the curve's chunks, saved")
    # The best of them becomes the run's model.
    if trainer.training_config.keep == "ema":
        best = min(found, key=lambda entry: entry["valid_loss"])
        best["kept"] = True
        averages.put(best["name"])
        say(f"kept the average {best['name']}")
    return found


def score_averages(
    found: list[dict[str, Any]], score: Callable[[Path], dict[str, Any]], run_dir: Path
) -> dict[str, Any]:
    """Give each average's entry its score on the held-out documents, by the definition of the model's own.

    Args:
        found: Result of `save_averages`.
        score: Scores a model folder (`babyllama.evaluation.perplexity.score_checkpoint`).
        run_dir: The run folder.

    Returns:
        The run record's `averages`: the entries with eval_loss and eval_bits_per_byte. Empty where there are none.
    """
    for entry in found:
        scored = score(run_dir / entry["name"])
        entry["eval_loss"], entry["eval_bits_per_byte"] = scored["average_loss"], scored["bits_per_byte"]
        say(f"{entry['name']}: {entry['eval_bits_per_byte']:.4f} bits per byte on the held-out documents")
    return {"averages": found} if found else {}
