"""`--overwrite` without loss: the old run is put aside, and goes only when the new one holds something that loads.

    .replaced.moving/   the old run's files are on their way out (or back): those still in place are the old ones, too
    .replaced/          the old run, whole; what lies beside it is the new run's
    .replaced.deleting/ the new run has a whole checkpoint or a finished model: the old one goes

Every step is a rename, so that a kill anywhere leaves a state that `settle` understands at the next start.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from babyllama.common.console import say, warn
from babyllama.common.distributed import is_main_process
from babyllama.common.errors import ConfigError
from babyllama.common.files import free_name, replace
from babyllama.config.run_layout import AVERAGES, MEANS, MILESTONE, MODEL_CONFIG, REPLACED, RUN_FILES, TRAINING_METRICS
from babyllama.training.checkpoints import LEFTOVER, checkpoint_folders, is_complete, step_of

ASIDE, MOVING, DELETING = REPLACED, f"{REPLACED}.moving", f"{REPLACED}.deleting"


def run_parts(run_dir: Path) -> list[Path]:
    """List what a run of ours wrote into its folder, by known name; anything else is not the run's."""
    parts = []
    for path in sorted(run_dir.iterdir()) if run_dir.is_dir() else []:
        checkpoint = path.is_dir() and (step_of(path) >= 0 or LEFTOVER.match(path.name))
        milestone = path.name.startswith((".chck_", "chck_")) and (path / MILESTONE).is_file()
        average = path.name.startswith((AVERAGES, MEANS)) and (path / MODEL_CONFIG).is_file()
        if checkpoint or milestone or average or path.name in RUN_FILES:
            parts.append(path)
    return parts


def put_aside(run_dir: Path) -> None:
    """Move the run in a folder aside; the folder is then as a new one."""
    parts = run_parts(run_dir)
    if not parts:
        return
    if (run_dir / ASIDE).exists():
        raise ConfigError(
            f"{run_dir / ASIDE}: an earlier run that was replaced is still there; remove it, then start again"
        )
    moving = run_dir / MOVING
    moving.mkdir(exist_ok=True)
    for path in parts:
        replace(path, moving / path.name)
    replace(moving, run_dir / ASIDE)


def settle(run_dir: Path) -> None:
    """Finish what an interrupted replacement left: the old run comes back where the new one has nothing that loads."""
    for doomed in run_dir.glob(f"{DELETING}*"):
        shutil.rmtree(doomed, ignore_errors=True)
    if (run_dir / MOVING).is_dir():
        _move_back(run_dir)
    if not (run_dir / ASIDE).is_dir():
        return
    if holds_something(run_dir):
        drop_replaced(run_dir)
    else:
        restore(run_dir)
        say(f"{run_dir}: the run that was to be replaced is back: the new one had nothing yet")


def holds_something(run_dir: Path) -> bool:
    """Whether the run in a folder has a whole checkpoint or is finished."""
    finished = (run_dir / TRAINING_METRICS).is_file()
    return finished or any(is_complete(folder) for folder in checkpoint_folders(run_dir))


def restore(run_dir: Path) -> None:
    """Remove what the new run wrote and put the old one back."""
    for path in run_parts(run_dir):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    replace(run_dir / ASIDE, run_dir / MOVING)
    _move_back(run_dir)


def _move_back(run_dir: Path) -> None:
    for path in sorted((run_dir / MOVING).iterdir()):
        replace(path, run_dir / path.name)
    (run_dir / MOVING).rmdir()


def drop_replaced(run_dir: Path) -> None:
    """Remove the old run: the new one holds something that loads.

    Where it cannot go (on Windows while a file of it is open) it stays, with a line, and goes later.
    """
    if not (run_dir / ASIDE).is_dir():
        return
    doomed = free_name(run_dir / DELETING)
    try:
        os.replace(run_dir / ASIDE, doomed)  # without waiting: each save comes here
    except OSError as error:
        _tell_once(f"{run_dir / ASIDE}: the replaced run cannot be removed yet ({error.strerror})")
        return
    shutil.rmtree(doomed, ignore_errors=True)


@cache
def _tell_once(line: str) -> None:
    warn(line)


@contextmanager
def replacing(run_dir: Path) -> Iterator[None]:
    """Bring the old run back where the block raises before the new run has anything that loads."""
    try:
        yield
    except BaseException:
        if is_main_process() and (run_dir / ASIDE).is_dir() and not holds_something(run_dir):
            restore(run_dir)
            say(f"{run_dir}: the run that was to be replaced is back as it was")
        raise
    if is_main_process():
        drop_replaced(run_dir)
