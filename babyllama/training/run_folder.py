"""May this training write here? What a run folder holds, and what may happen in it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.config.fingerprint import LENGTH, check_resume, differences
from babyllama.config.run_layout import AVERAGES, MEANS, MODEL_CONFIG, RUN_FILES, RUN_FINGERPRINT, TRAINING_METRICS
from babyllama.training.checkpoints import checkpoint_folders, remove_checkpoint, step_of
from babyllama.training.replaced import put_aside, run_parts, settle

if TYPE_CHECKING:
    from babyllama.config.schema import Config


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
    foreign = [n for n in names if n not in known and not n.startswith((".", "checkpoint-", "chck_", AVERAGES, MEANS))]
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
    settle(run_dir)
    state = inspect_run(run_dir)
    # Asked to replace: what is ours goes aside.
    if overwrite and not resume:
        _refuse_foreign(run_dir, state)
        put_aside(run_dir)
        return "fresh"
    # Nothing of ours there.
    if state.foreign_files and not state.ours:
        shown = ", ".join(sorted(state.foreign_files)[:3])
        raise ConfigError(f"{run_dir}: not a run of ours (it holds {shown}). Choose another --model_name.")
    if not state.ours:
        return "resume" if resume else "fresh"
    # Another run.
    different = differences(state.fingerprint, fingerprint)
    longer = any(state.fingerprint.get(key) != fingerprint.get(key) for key in LENGTH)
    if different and resume and state.has_checkpoints:
        check_resume(state.fingerprint, fingerprint)  # names all that differs
    if different:
        raise ConfigError(
            f"{run_dir}: holds another run ({'; '.join(different[:3])}). "
            "Choose another --model_name, or replace it with --overwrite."
        )
    # This run, finished.
    if state.finished and longer and resume and not state.has_checkpoints:
        raise ConfigError(
            f"{run_dir}: this run is finished and its checkpoints are gone: it cannot go on. Train on from its weights "
            "as another run (--set model.init_from=FOLDER), or start anew: --overwrite."
        )
    if state.finished and not different and not (longer and resume):
        if longer:
            raise ConfigError(
                f"{run_dir}: holds this run finished at another length. Go on with --resume_from_checkpoint, "
                "choose another --model_name, or replace it with --overwrite."
            )
        return "finished"
    # This run, unfinished.
    if resume:
        return "resume"
    if state.has_checkpoints:
        raise ConfigError(
            f"{run_dir}: holds this run unfinished. Go on with --resume_from_checkpoint, or start anew: --overwrite."
        )
    return "fresh"


def remove_run(run_dir: Path) -> None:
    """Remove a run of ours and its folder where nothing else is in it; an absent folder is none.

    Raises:
        ConfigError: It is not a run of ours.
    """
    _refuse_foreign(run_dir, inspect_run(run_dir))
    for path in run_parts(run_dir):
        if step_of(path) >= 0:
            remove_checkpoint(path)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if run_dir.is_dir() and not any(run_dir.iterdir()):
        run_dir.rmdir()


def _refuse_foreign(run_dir: Path, state: RunState) -> None:
    if not state.ours and (state.foreign_files or (run_dir / MODEL_CONFIG).exists()):
        raise ConfigError(f"{run_dir}: not a run of ours: --overwrite does not touch it. Choose another --model_name.")


def refuse_own_inputs(run_dir: Path, config: Config) -> None:
    """Refuse to replace a run that the new one reads from.

    Raises:
        ConfigError: Names the key whose path lies inside the folder.
    """
    teachers = config.distillation.teachers if config.distillation else []
    inputs = [
        ("model.init_from", config.model.init_from),
        ("training.decay_from", config.training.decay_from),
        *(("distillation.teachers", path) for path in teachers),
        ("data.tokenizer_path", config.data.tokenizer_path),
        ("data.train_path", config.data.train_path),
        ("data.eval_path", config.data.eval_path),
        ("curriculum.model", config.curriculum.model if config.curriculum else None),
    ]
    for key, path in inputs:
        if path and Path(path).expanduser().resolve().is_relative_to(run_dir):
            raise ConfigError(
                f"{key}: {path} lies in {run_dir}, which --overwrite would replace: choose another --model_name"
            )
