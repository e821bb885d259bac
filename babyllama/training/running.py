"""The training itself, from its first step to whatever ends it: the last step, a signal, an error of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from babyllama.common import distributed
from babyllama.common.disk_space import is_disk_full
from babyllama.common.errors import DiskError, Interrupted, NumericError
from babyllama.common.provenance import resume_command
from babyllama.training import checkpoints
from babyllama.training.callbacks import StopOnSignal

if TYPE_CHECKING:
    from babyllama.training.start import Start
    from babyllama.training.stop_signals import StopSignals
    from babyllama.training.trainer import BabyTrainer


def run_training(trainer: BabyTrainer, start: Start, signals: StopSignals) -> None:
    """Train to the end; a signal, a full disk, a lost process or a loss that is not finite leaves by its own error.

    Args:
        trainer: The built Trainer; a callback with a method `failed` is told what ended the training.
        start: Start with the checkpoint to go on from; where the training fails it is the last that this one wrote.
        signals: Signals that are noted while the training runs.
    """
    try:
        _run_training(trainer, start.checkpoint, signals)
    except BaseException as error:
        start.checkpoint = trainer.last_good_checkpoint or start.checkpoint
        for callback in trainer.callback_handler.callbacks:
            if hasattr(callback, "failed"):
                callback.failed(error)
        raise


def _run_training(trainer: BabyTrainer, checkpoint: Path | None, signals: StopSignals) -> None:
    trainer.add_callback(StopOnSignal(signals, trainer))
    trainer.last_good_checkpoint = checkpoint
    if checkpoint is not None and trainer.take_finished(checkpoint):
        return
    run_dir = Path(trainer.args.output_dir)
    if distributed.is_initialized():
        signals.watch(lambda number: _end_in_silence(run_dir, number))
    with distributed.report_once(run_dir, lambda: how_to_go_on(run_dir)):
        _train(trainer, checkpoint)
        if signals.agreed and trainer.state.global_step < trainer.state.max_steps:
            raise Interrupted(
                f"stopped at step {trainer.state.global_step:,} with a checkpoint; go on with: {resume_command()}",
                signals.agreed,
            )
    signals.on_silence = None


def _train(trainer: BabyTrainer, checkpoint: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (NumericError, Interrupted):
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskError(
            f"the disk is full: {trainer.args.output_dir} could not be written at step {trainer.state.global_step:,}. "
            f"Free some space, then go on with --resume_from_checkpoint."
        ) from error


def how_to_go_on(run_dir: Path) -> str:
    """Return the newest whole checkpoint and the command that goes on from it (looks, and changes nothing)."""
    whole = [folder for folder in checkpoints.checkpoint_folders(run_dir) if checkpoints.is_complete(folder)]
    found = f"The last whole checkpoint is {whole[-1]}" if whole else "No checkpoint had been written"
    return f"{found}; go on with: {resume_command()}"


def _end_in_silence(run_dir: Path, number: int) -> None:
    """The others did not answer after a SIGTERM: they are dead, and a checkpoint could not be whole."""
    lost = distributed.lost_process(how_to_go_on(run_dir))
    if distributed.claim_report(run_dir):
        print(f"error: {lost}", file=sys.stderr, flush=True)
    os._exit(128 + number)
