"""May this training write here? What a run folder holds, and what may happen in it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.config.fingerprint import LENGTH, differences
from babyllama.config.run_layout import AVERAGES, MILESTONE, MODEL_CONFIG, RUN_FILES, RUN_FINGERPRINT, TRAINING_METRICS
from babyllama.training.checkpoints import LEFTOVER, checkpoint_folders, remove_checkpoint, step_of

if TYPE_CHECKING:
    pass


@dataclass
class RunState:
    """What a run folder holds.

    Attributes:
        ours: It has our fingerprint file.
        finished: A training ended there.
        fingerprint: Fingerprint of the run that the folder holds.
        has_checkpoints: Any folder named like one.
        foreign_files: Names that no run of ours writes.
    """

    ours: bool
    finished: bool
    fingerprint: dict[str, Any]
    has_checkpoints: bool
    foreign_files: list[str]


def inspect_run(run_dir: Path) -> RunState:
    """Look at a run folder (it may be absent)."""
    names = [path.name for path in run_dir.iterdir()] if run_dir.is_dir() else []
    known = {*RUN_FILES, "wandb", "runs", "pairs"}
    foreign = [n for n in names if n not in known and not n.startswith((".", "checkpoint-", "chck_", AVERAGES))]
    fingerprint: dict[str, Any] = {}
    if RUN_FINGERPRINT in names:
        try:
            fingerprint = dict(read_json(run_dir / RUN_FINGERPRINT))
        except (ValueError, TypeError, OSError):
            fingerprint = {"unreadable": RUN_FINGERPRINT}
    finished = TRAINING_METRICS in names and bool(fingerprint)
    return RunState(bool(fingerprint), finished, fingerprint, bool(checkpoint_folders(run_dir)), foreign)


def guard_run(run_dir: Path, fingerprint: dict[str, Any], *, overwrite: bool, resume: bool) -> str:
    """Decide what may happen in a run folder: `finished`, `resume` or `fresh`.

    Raises:
        ConfigError: The folder holds another run, or an unfinished one, and neither flag says what to do.
    """
    state = inspect_run(run_dir)
    if overwrite and not resume:
        _clear(run_dir, state)
        return "fresh"
    if state.foreign_files and not state.ours:
        shown = ", ".join(sorted(state.foreign_files)[:3])
        raise ConfigError(f"{run_dir}: not a run of ours (it holds {shown}). Choose another --model_name.")
    if not state.ours:
        return "resume" if resume else "fresh"
    different = differences(state.fingerprint, fingerprint)
    longer = any(state.fingerprint.get(key) != fingerprint.get(key) for key in LENGTH)
    if different and not resume:
        raise ConfigError(
            f"{run_dir}: holds another run ({'; '.join(different[:3])}). "
            "Choose another --model_name, or replace it with --overwrite."
        )
    if state.finished and not different and not (longer and resume):
        if longer:
            raise ConfigError(
                f"{run_dir}: holds this run finished at another length. Go on with --resume_from_checkpoint, "
                "choose another --model_name, or replace it with --overwrite."
            )
        return "finished"
    if resume:
        return "resume"
    if state.has_checkpoints:
        raise ConfigError(
            f"{run_dir}: holds this run unfinished. Go on with --resume_from_checkpoint, or start anew: --overwrite."
        )
    return "fresh"


def _clear(run_dir: Path, state: RunState) -> None:
    """Remove a run of ours, file by known name; anything else in the folder stays."""
    if not run_dir.is_dir():
        return
    if not state.ours and (state.foreign_files or (run_dir / MODEL_CONFIG).exists()):
        raise ConfigError(f"{run_dir}: not a run of ours: --overwrite does not touch it. Choose another --model_name.")
    for folder in run_dir.iterdir():
        if folder.is_dir() and (step_of(folder) >= 0 or LEFTOVER.match(folder.name)):
            remove_checkpoint(folder) if step_of(folder) >= 0 else shutil.rmtree(folder, ignore_errors=True)
        elif _is_saved_model(folder):
            shutil.rmtree(folder, ignore_errors=True)
    for name in RUN_FILES:
        (run_dir / name).unlink(missing_ok=True)


def _is_saved_model(folder: Path) -> bool:
    """Whether a folder of a run is a milestone or an average of the weights."""
    if folder.name.startswith(AVERAGES):
        return (folder / MODEL_CONFIG).is_file()
    return folder.name.startswith((".chck_", "chck_")) and (folder / MILESTONE).is_file()


def remove_run(run_dir: Path) -> None:
    """Remove a run of ours and its folder where nothing else is in it; an absent folder is none.

    Raises:
        ConfigError: It is not a run of ours.
    """
    _clear(run_dir, inspect_run(run_dir))
    if run_dir.is_dir() and not any(run_dir.iterdir()):
        run_dir.rmdir()
