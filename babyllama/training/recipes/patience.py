"""Early stopping (`training.patience`): a run that only overfits ends, and under wsd its decay begins.

A point of the held-out curve that is not below the best one so far is a point without improvement; after `patience` of
them in a row (close to criterion UP of Prechelt 1998, "Early Stopping: But When?", which counts points above the one
before them) the run has nothing more to learn at this rate:

* cosine, linear, constant: the training ends at that point.
* wsd: the rate is still at its peak, and a decay is what such a run gains most by. It begins at that point and takes
  `decay_fraction` of the run that results: s steps behind it become a run of s / (1 - decay_fraction). That is the run
  that `max_steps` of this length would have given, to the bit, where `warmup_steps` is a count and nothing else is a
  share of the run (a curriculum, `data.start_length`). During a decay, planned or not, patience waits for its end: at
  the step where the planned one begins it decides nothing.

Points before a curriculum shows all of the text do not count. Everything is read off the log of the curve, which each
checkpoint holds: a resume comes to the same decision at the same step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common.console import say

if TYPE_CHECKING:
    from babyllama.config.schema import Config
    from babyllama.training.trainer import BabyTrainer


@dataclass(frozen=True)
class EarlyEnd:
    """What patience decided.

    Attributes:
        step: Step of the point at which it ran out.
        best_step: Step of the best point before it.
        best_loss: Held-out loss of that point, nats per token.
        total_steps: Steps of the run now: `step`, or with the decay that begins there.
        patience: Points without improvement that were waited for.
    """

    step: int
    best_step: int
    best_loss: float
    total_steps: int
    patience: int

    @property
    def decays(self) -> bool:
        """Whether a decay begins at the point."""
        return self.total_steps > self.step

    def sentence(self) -> str:
        """Return what happened, in one sentence."""
        then = (
            f"the decay begins, and the run ends at step {self.total_steps:,}" if self.decays else "the training ends"
        )
        return (
            f"the held-out loss was lowest at step {self.best_step:,} ({self.best_loss:.4f}) and did not improve at "
            f"{self.patience} points (training.patience): at step {self.step:,} {then}"
        )


def first_exhausted(
    curve: Iterable[tuple[int, float]], patience: int, counts_from: float, counts_to: float
) -> tuple[int, int, float] | None:
    """Find where a held-out curve has not improved at `patience` points in a row.

    Args:
        curve: Step and held-out loss of the points, in their order.
        patience: Points without improvement to wait for.
        counts_from: First step whose points count.
        counts_to: Step behind which points no longer count: a decay goes on there.

    Returns:
        Step of the last of those points, step and loss of the best one; None where there is no such place.

    >>> first_exhausted([(10, 3.0), (20, 2.0), (30, 2.1), (40, 2.0), (50, 1.0)], 2, 0, 100)
    (40, 20, 2.0)
    >>> first_exhausted([(10, 3.0), (20, 2.0), (30, 2.1), (40, 1.9), (50, 2.0)], 2, 0, 100) is None
    True
    """
    best_step, best_loss, waited = 0, float("inf"), 0
    for step, loss in curve:
        if step < counts_from:
            continue
        if loss < best_loss:
            best_step, best_loss, waited = step, loss, 0
        elif step <= counts_to:
            waited += 1
            if waited >= patience:
                return step, best_step, best_loss
    return None


def decayed_length(step: int, fraction: float, most: int) -> int:
    """Return the steps of a run whose decay begins at `step` and takes `fraction` of it; at most `most`.

    >>> decayed_length(700, 0.3, 10_000), decayed_length(25, 0.3, 10_000), decayed_length(700, 0.3, 900)
    (1000, 36, 900)
    """
    total = round(step / (1 - fraction))
    while total - round(fraction * total) < step:  # the length whose planned decay would begin here
        total += 1
    return min(max(total, step + 1), most)


class Patience(TrainerCallback):
    """Ends a training, or begins its decay, where the held-out curve no longer improves."""

    def __init__(self, trainer: BabyTrainer, config: Config, planned_steps: int) -> None:
        """Watch a run.

        Args:
            trainer: Trainer of the run.
            config: Run configuration with `training.patience`.
            planned_steps: Optimizer steps of the run as it was planned.
        """
        from babyllama.training.optim import schedule_arguments

        self.trainer, self.training, self.planned = trainer, config.training, planned_steps
        self.end: EarlyEnd | None = None
        learning = config.curriculum
        self._from = 0 if learning is None else learning.full_at * planned_steps
        decay = schedule_arguments(config.training, planned_steps).get("lr_scheduler_kwargs", {}).get("num_decay_steps")
        self._to = planned_steps if decay is None else planned_steps - decay - 1

    def decision(self, log: Sequence[dict[str, Any]]) -> EarlyEnd | None:
        """Return what a log of the run decides, None where patience has not run out."""
        points = [(entry["step"], entry["valid_loss"]) for entry in log if "valid_loss" in entry]
        patience = self.training.patience or 1
        found = first_exhausted(points, patience, self._from, self._to)
        if found is None:
            return None
        step = found[0]
        decays = self.training.lr_scheduler == "wsd"
        total = decayed_length(step, self.training.decay_fraction, self.planned) if decays else step
        return EarlyEnd(*found, total, patience)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Come to the decision of a resumed run again."""
        self._decide(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look at the new point."""
        if self.end is None:
            self._decide(state, control)

    def _decide(self, state: TrainerState, control: TrainerControl) -> None:
        self.end = self.decision(state.log_history)
        if self.end is None:
            return
        say(self.end.sentence())
        end_at(self.trainer, self.end)
        if state.global_step >= self.end.total_steps:
            control.should_training_stop = control.should_save = True


def end_at(trainer: BabyTrainer, end: EarlyEnd) -> None:
    """End a run at another step than planned; under wsd its decay begins at the point that decided it.

    Args:
        trainer: Trainer of the run, at that point or resumed behind it.
        end: What was decided.
    """
    trainer.total_steps = trainer.state.max_steps = end.total_steps
    if not end.decays or trainer.lr_scheduler is None:
        return
    scheduler = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)  # accelerate may wrap it
    for number, planned in enumerate(scheduler.lr_lambdas):
        stable = end.step - planned.keywords["num_warmup_steps"]
        changed = {"num_stable_steps": stable, "num_decay_steps": end.total_steps - end.step}
        scheduler.lr_lambdas[number] = partial(planned.func, **planned.keywords | changed)


def add_patience(trainer: BabyTrainer, config: Config, planned_steps: int) -> None:
    """Let a run end early where `training.patience` asks for it; say where it cannot.

    Args:
        trainer: Result of `train.build_trainer`.
        config: Run configuration.
        planned_steps: Optimizer steps of the run as it was planned.
    """
    patience = config.training.patience
    if patience is None:
        return
    callback = Patience(trainer, config, planned_steps)
    trainer.patience = callback
    points = planned_steps // trainer.args.eval_steps
    if points <= patience:
        say(f"training.patience: {patience} points of {points} that the run has: nothing ends it early (eval_steps)")
    trainer.add_callback(callback)
