"""What watches a training: the log file, the terminal, signals, and the guard of checkpoints (clocks: timing/).

Each is a HuggingFace `TrainerCallback` and does one thing. None of them reads a tensor in a step.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common import distributed
from babyllama.common.console import leave_closed_terminal, say
from babyllama.common.distributed import is_main_process
from babyllama.common.files import to_json, write_text_atomic
from babyllama.common.units import human_count, human_seconds
from babyllama.config.run_layout import MPS_RANDOM_STATE
from babyllama.config.schema import TrainingConfig
from babyllama.models.gpu import random_states, set_random_states
from babyllama.training import checkpoints
from babyllama.training.replaced import drop_replaced

if TYPE_CHECKING:
    from babyllama.data.epoch_order import ChunkSet
    from babyllama.training.stop_signals import StopSignals
    from babyllama.training.timing.clock import StepClock
    from babyllama.training.trainer import BabyTrainer


class CollectSeldom(TrainerCallback):
    """Keeps Python's collector of cycles out of the steps: it stops everything for tens of milliseconds at random.

    What lives at the start is never looked at again; what a training leaves is collected at evaluations and saves, as
    nanochat and torchtitan do. `gpu.restored_settings` puts the collector back however the training ends.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Collect once, freeze what is left, and switch the collector off."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Collect while the GPU has nothing queued."""
        gc.collect()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Collect while the GPU has nothing queued."""
        gc.collect()


class MpsRandomState(TrainerCallback):
    """Keeps the state of an Apple GPU's random generator in each checkpoint: the Trainer keeps a CPU's and CUDA's only.

    Dropout draws from it, so that without it a resumed run would not be the unbroken one.

    Args:
        resumed_from: Tells the checkpoint that the training goes on from, None at step 0.
    """

    def __init__(self, resumed_from: Callable[[], Path | None]) -> None:
        self.resumed_from = resumed_from

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the checkpoint's state back; one that was made on another device has none."""
        checkpoint = self.resumed_from()
        if checkpoint is not None and (checkpoint / MPS_RANDOM_STATE).is_file():
            set_random_states("mps", [load_file(checkpoint / MPS_RANDOM_STATE)["state"]])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the state into the checkpoint before its manifest is made."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        save_file({"state": random_states("mps")[0]}, folder / MPS_RANDOM_STATE)


class LogFile(TrainerCallback):
    """log_history.jsonl: one line an entry, appended as it happens; a resume rewrites it to the checkpoint's state."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write what a resumed run already has, or an empty file."""
        if is_main_process():
            write_text_atomic(self.path, "".join(to_json(entry, indent=None) + "\n" for entry in state.log_history))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Append the newest entry."""
        if is_main_process() and state.log_history:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(to_json(state.log_history[-1], indent=None) + "\n")


class EpochSetter(TrainerCallback):
    """Tells the packed dataset which epoch it is, so that its cut points move."""

    def __init__(self, dataset: ChunkSet) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """`state.epoch` is whole at an epoch's start and a fraction where a resume falls into one."""
        self.dataset.set_epoch(int(state.epoch or 0))


class StopOnSignal(TrainerCallback):
    """Turns a received signal into a checkpoint at the end of the step and the end of the training.

    Several processes agree once a step, before the weights change, on what one of them met: a signal, or a loss that is
    not finite. On two CPU processes that takes 0.3 ms.
    """

    def __init__(self, signals: StopSignals, trainer: BabyTrainer) -> None:
        self.signals = signals
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Agree, where there is somebody to agree with."""
        if not distributed.is_initialized():
            return
        broken, self.signals.agreed = distributed.all_reduce_max(int(self.trainer.not_finite), self.signals.received)
        if broken:
            self.trainer.stop_not_finite(float("nan"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop."""
        if not distributed.is_initialized():
            self.signals.agreed = self.signals.received
        if self.signals.agreed and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True


class BestKeeper(TrainerCallback):
    """Remembers the step with the lowest valid_loss; with `keep: best` has it saved at once."""

    def __init__(self, save: bool) -> None:
        self.save = save
        self.best_step: int | None = None
        self.best_loss = float("inf")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the best so far from the log of a resumed run."""
        for entry in state.log_history:
            self._look(entry.get("valid_loss"), entry["step"])

    def _look(self, loss: float | None, step: int) -> bool:
        if loss is None or not loss < self.best_loss:
            return False
        self.best_loss, self.best_step = loss, step
        return True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Look at the new point."""
        if self._look((metrics or {}).get("valid_loss"), state.global_step) and self.save:
            control.should_save = True


class CheckpointGuard(TrainerCallback):
    """Commits each checkpoint after the Trainer wrote it, then removes the older ones.

    Args:
        trainer: Told which checkpoint is the last good one; asked for the best one.
        run_dir: The run folder.
        extra: Kept in the manifest: the run's fingerprint and runtime.
        training: save_total_limit and keep.
    """

    def __init__(self, trainer: BabyTrainer, run_dir: Path, extra: dict[str, Any], training: TrainingConfig) -> None:
        self.trainer = trainer
        self.run_dir = run_dir
        self.extra = extra
        self.training = training

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The manifest is written last, when every process wrote its part: a checkpoint without one is not complete."""
        distributed.barrier()
        folder = self.run_dir / f"checkpoint-{state.global_step}"
        if is_main_process():
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing of ours reads
            checkpoints.commit(folder, self.extra)
        self.trainer.last_good_checkpoint = folder
        if not is_main_process():
            return
        drop_replaced(self.run_dir)
        best = self.run_dir / f"checkpoint-{self.trainer.best.best_step}"
        keep = best if self.training.keep == "best" and best.is_dir() else None
        checkpoints.rotate(self.run_dir, self.training.save_total_limit, keep)


class Terminal(TrainerCallback):
    """A bar where a person is looking, plain lines elsewhere; an estimate after the first timed steps."""

    ESTIMATE_AFTER = 5

    def __init__(self, clock: StepClock, tokens_per_step: float) -> None:
        self.clock = clock
        self.tokens_per_step = tokens_per_step
        self._bar: Any = None
        self._task: Any = None
        self._estimated = False
        self._loss = float("nan")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar."""
        import sys

        if not (is_main_process() and sys.stdout.isatty()):
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar; once, say how long the run will take."""
        if not self._estimated and len(self.clock.steps) >= self.ESTIMATE_AFTER:
            self._estimated = True
            left = (state.max_steps - state.global_step) * statistics.median(self.clock.steps)
            speed = self.tokens_per_step / statistics.median(self.clock.steps)
            say(f"estimated: {human_seconds(left)} of training left ({state.max_steps:,} steps, {speed:,.0f} tokens/s)")
        if self._bar is not None:
            self._bar.update(self._task, total=state.max_steps, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the newest figures."""
        entry = logs or {}
        if "valid_loss" in entry:
            say(
                f"step {state.global_step:,}: held-out loss {entry['valid_loss']:.4f}, perplexity "
                f"{entry['valid_perplexity']:,.1f}, {entry['valid_bits_per_byte']:.3f} bits per byte"
            )
        if "loss" not in entry:
            return
        speed = entry.get("tokens_per_second")  # absent while nothing but warming-up steps has been done
        text = f"loss {entry['loss']:.4f}  " + (f"{speed:,.0f} tokens/s  " if speed else "")
        text += f"{human_count(entry['tokens'])} tokens"
        if self._bar is not None:
            self._bar.update(self._task, description=text)
            return
        step = self.clock.median_step()
        left = f"  {human_seconds((state.max_steps - state.global_step) * step)} left" if step else ""
        say(f"step {state.global_step:,}/{state.max_steps:,}  {text}{left}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            leave_closed_terminal()  # the bar draws itself a last time
            self._bar.stop()
            self._bar = None
