"""Checkpoints that are whole or do not count.

The Trainer writes a checkpoint file by file and finds the newest one by its name: a kill in between leaves a folder
that looks like a checkpoint, and a missing or damaged file resumes silently with other weights. Here a manifest with
every file's size and SHA-256 is written last and flushed to the disk; a folder without one, or that does not agree
with it, is not a checkpoint. A removal takes the manifest away first, so that it, too, can be interrupted anywhere.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama import __version__
from babyllama.common.console import say, warn
from babyllama.common.errors import CheckpointError
from babyllama.common.files import NotWhole, check_files, free_name, read_manifest, replace, seal
from babyllama.config.run_layout import AVERAGES, CHECKPOINT_MANIFEST, MEANS

if TYPE_CHECKING:
    from torch import nn

    from babyllama.config.schema import TrainingConfig

MIN_KEPT = 2
_NAME = re.compile(r"^checkpoint-(\d+)$")
LEFTOVER = re.compile(r"^checkpoint-\d+\.(?:deleting|incomplete|damaged)")


def step_of(folder: Path) -> int:
    """Return the step in a checkpoint's name, -1 where it has none."""
    match = _NAME.match(folder.name)
    return int(match.group(1)) if match else -1


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """Return folders named like checkpoints, oldest step first, whole or not."""
    if not run_dir.is_dir():
        return []
    return sorted((p for p in run_dir.iterdir() if p.is_dir() and step_of(p) >= 0), key=step_of)


def checkpoint_bytes(model: nn.Module, training: TrainingConfig) -> int:
    """Return bytes of one checkpoint in float32: weights as saved, two moments and the averages of what is trained.

    Muon keeps one moment less for its matrices: it needs less than this.
    """
    from babyllama.models.shared_layers import saved_parameters

    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    averages = len(training.decays) + bool(training.average_epochs)
    return 4 * (saved_parameters(model) + (2 + averages) * trained)


def commit(folder: Path, extra: dict[str, Any]) -> None:
    """Declare a written checkpoint whole: flush its files, write the manifest last.

    Args:
        folder: `checkpoint-N` as the Trainer left it.
        extra: Kept in the manifest (the run's fingerprint and runtime).
    """
    seal(folder, CHECKPOINT_MANIFEST, {"babyllama": __version__, "step": step_of(folder), "extra": extra})


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return read_manifest(folder, CHECKPOINT_MANIFEST)
    except NotWhole as problem:
        raise CheckpointError(str(problem)) from problem


def manifest_extra(folder: Path) -> dict[str, Any]:
    """Return what `commit` was given as extra."""
    return _manifest(folder)["extra"]


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: Names the first file that is missing, truncated or changed.
    """
    try:
        check_files(folder, _manifest(folder))
    except NotWhole as problem:
        raise CheckpointError(str(problem)) from problem


def is_complete(folder: Path) -> bool:
    """Return whether the manifest is there and names and sizes agree with it (contents are not read)."""
    try:
        check_files(folder, _manifest(folder), contents=False)
        return True
    except (CheckpointError, NotWhole, OSError):
        return False


def _set_aside(folder: Path, why: str, problem: CheckpointError) -> None:
    target = free_name(folder.with_name(f"{folder.name}.{why}"))
    replace(folder, target)
    warn(f"{problem}; set aside as {target.name}")


def set_incomplete_aside(run_dir: Path) -> None:
    """Set aside, with a line each, folders that were being written when something ended it."""
    for folder in checkpoint_folders(run_dir):
        if not (folder / CHECKPOINT_MANIFEST).is_file():
            _set_aside(folder, "incomplete", CheckpointError(f"{folder}: incomplete: it has no {CHECKPOINT_MANIFEST}"))


def newest_complete(run_dir: Path) -> Path | None:
    """Return the newest checkpoint whose every file is as it was written; newer ones that are not are set aside.

    Raises:
        CheckpointError: There were checkpoints, each was damaged (not merely incomplete).
    """
    last_damage: CheckpointError | None = None
    for folder in reversed(checkpoint_folders(run_dir)):
        try:
            verify(folder)
            return folder
        except CheckpointError as problem:
            complete = (folder / CHECKPOINT_MANIFEST).is_file()
            last_damage = problem if complete else last_damage
            _set_aside(folder, "damaged" if complete else "incomplete", problem)
    if last_damage is not None:
        raise CheckpointError(f"no checkpoint is whole; the last one seen: {last_damage}. --overwrite starts anew.")
    return None


def resolve_resume(run_dir: Path, request: str | bool) -> Path | None:
    """Return the checkpoint to go on from, None for step 0.

    Args:
        run_dir: The run folder.
        request: True for the newest complete one, or a path.

    Raises:
        CheckpointError: The named one, or every one, is damaged.
    """
    if request is not True:
        folder = Path(str(request)).expanduser().resolve()
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such checkpoint folder")
        verify(folder)
        return folder
    found = newest_complete(run_dir)
    if found is None:
        say(f"{run_dir}: no complete checkpoint: starting at step 0")
    return found


def rotate(run_dir: Path, limit: int, keep: Path | None = None) -> None:
    """Remove the oldest complete checkpoints beyond `limit` (never below two); `keep` stays whatever its age."""
    complete = [folder for folder in checkpoint_folders(run_dir) if is_complete(folder)]
    for folder in complete[: -max(limit, MIN_KEPT)]:
        if keep is None or folder != keep:
            _try_to_remove(folder)


def _try_to_remove(folder: Path) -> None:
    """Remove a checkpoint, or say that it is left: an old one that cannot go does not end a training."""
    try:
        remove_checkpoint(folder)
    except OSError as error:
        warn(f"{folder}: not needed any more, but it cannot be removed ({error.strerror}): remove it by hand")


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint: manifest first, then a name that no one takes for a checkpoint, then the files."""
    (folder / CHECKPOINT_MANIFEST).unlink(missing_ok=True)
    doomed = free_name(folder.with_name(f"{folder.name}.deleting"))
    replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def clean_leftovers(run_dir: Path) -> None:
    """Remove what an interrupted removal or an interrupted write left. The run's lock is held: nobody else writes."""
    for pattern in ("checkpoint-*.deleting*", ".chck_*", f".{AVERAGES}*", f".{MEANS}*"):
        for path in run_dir.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for pattern in (".*.tmp", ".write_probe_*"):
        for path in run_dir.glob(pattern):
            path.unlink(missing_ok=True)


def remove_checkpoints(run_dir: Path) -> None:
    """Remove the checkpoints of a finished run: its model stands beside them."""
    for folder in checkpoint_folders(run_dir):
        _try_to_remove(folder)
