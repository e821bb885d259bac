"""Checkpoints that are whole or do not count.

The Trainer writes a checkpoint file by file and finds the newest one by its name: a kill in between leaves a folder
that looks like a checkpoint, and a missing or damaged file resumes silently with other weights. Here a manifest with
every file's size and SHA-256 is written last and flushed to the disk; a folder without one, or that does not agree
with it, is not a checkpoint. A removal takes the manifest away first, so that it, too, can be interrupted anywhere.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babyllama import __version__
from babyllama.common.console import say, warn
from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.common.files import finite, fsync_file, fsync_folder, read_json, to_json, write_json
from babyllama.config.fingerprint import LENGTH, differences
from babyllama.config.run_layout import MILESTONE, MODEL_CONFIG, RUN_FILES, RUN_FINGERPRINT, TRAINING_METRICS

MANIFEST = "checkpoint_manifest.json"
MIN_KEPT = 2
_NAME = re.compile(r"^checkpoint-(\d+)$")
_LEFTOVER = re.compile(r"^checkpoint-\d+\.(?:deleting|incomplete|damaged)")


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name, -1 where it has none."""
    match = _NAME.match(folder.name)
    return int(match.group(1)) if match else -1


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """Folders named like checkpoints, oldest step first, whole or not."""
    if not run_dir.is_dir():
        return []
    return sorted((p for p in run_dir.iterdir() if p.is_dir() and step_of(p) >= 0), key=step_of)


def _hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(manifest, indent=None).encode()).hexdigest()


def commit(folder: Path, extra: dict[str, Any]) -> None:
    """Declare a written checkpoint whole: flush its files, write the manifest last.

    Args:
        folder: `checkpoint-N` as the Trainer left it.
        extra: Kept in the manifest (the run's fingerprint and runtime).
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        fsync_file(path)
    fsync_folder(folder)
    listed = {str(p.relative_to(folder)): {"size": p.stat().st_size, "sha256": _hash(p)} for p in files}
    manifest = finite({"babyllama": __version__, "step": step_of(folder), "files": listed, "extra": extra})
    write_json(folder / MANIFEST, {**manifest, "sha256_of_the_rest": _digest(manifest)})
    fsync_folder(folder.parent)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: incomplete: it has no {MANIFEST} (the process ended while it was written)")
    try:
        manifest = read_json(path)
        if manifest.pop("sha256_of_the_rest") != _digest(manifest):
            raise ValueError("its content is not what was written")
        return {"files": dict(manifest["files"]), "extra": dict(manifest["extra"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


def manifest_extra(folder: Path) -> dict[str, Any]:
    """What `commit` was given as extra."""
    return _read_manifest(folder)["extra"]


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: Names the first file that is missing, truncated or changed.
    """
    for name, facts in _read_manifest(folder)["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, though the manifest lists it")
        size = path.stat().st_size
        if size != facts["size"]:
            raise CheckpointError(f"{path}: damaged: {size:,} bytes, the manifest says {facts['size']:,}")
        if _hash(path) != facts["sha256"]:
            raise CheckpointError(f"{path}: damaged: its content is not what was written (SHA-256 differs)")


def is_complete(folder: Path) -> bool:
    """Whether the manifest is there and names and sizes agree with it (contents are not read)."""
    try:
        files = _read_manifest(folder)["files"]
        return all((folder / name).stat().st_size == facts["size"] for name, facts in files.items())
    except (CheckpointError, OSError):
        return False


def _set_aside(folder: Path, why: str, problem: CheckpointError) -> None:
    number = 1
    while (target := folder.with_name(f"{folder.name}.{why}-{number}")).exists():
        number += 1
    folder.rename(target)
    warn(f"{problem}; set aside as {target.name}")


def newest_complete(run_dir: Path) -> Path | None:
    """The newest checkpoint whose every file is as it was written; newer ones that are not are set aside.

    Raises:
        CheckpointError: There were checkpoints, each was damaged (not merely incomplete).
    """
    last_damage: CheckpointError | None = None
    for folder in reversed(checkpoint_folders(run_dir)):
        try:
            verify(folder)
            return folder
        except CheckpointError as problem:
            complete = (folder / MANIFEST).is_file()
            last_damage = problem if complete else last_damage
            _set_aside(folder, "damaged" if complete else "incomplete", problem)
    if last_damage is not None:
        raise CheckpointError(f"no checkpoint is whole; the last one seen: {last_damage}. --overwrite starts anew.")
    return None


def resolve_resume(run_dir: Path, request: str | bool) -> Path | None:
    """The checkpoint to go on from, None for step 0.

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
            _remove(folder)


def _remove(folder: Path) -> None:
    """Manifest first, then a name that no one takes for a checkpoint, then the files."""
    (folder / MANIFEST).unlink(missing_ok=True)
    doomed = folder.with_name(f"{folder.name}.deleting")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def clean_leftovers(run_dir: Path) -> None:
    """Remove what an interrupted removal or an interrupted write left. The run's lock is held: nobody else writes."""
    for pattern in ("checkpoint-*.deleting", ".chck_*"):
        for path in run_dir.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for pattern in (".*.tmp", ".write_probe_*"):
        for path in run_dir.glob(pattern):
            path.unlink(missing_ok=True)


@dataclass
class RunState:
    """What a run folder holds.

    Attributes:
        ours: It has our fingerprint file.
        finished: A training ended there.
        fingerprint: Of the run it holds.
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
    foreign = [n for n in names if n not in known and not n.startswith((".", "checkpoint-", "chck_"))]
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
        if folder.is_dir() and (step_of(folder) >= 0 or _LEFTOVER.match(folder.name)):
            _remove(folder) if step_of(folder) >= 0 else shutil.rmtree(folder, ignore_errors=True)
        elif folder.name.startswith((".chck_", "chck_")) and (folder / MILESTONE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
    for name in RUN_FILES:
        (run_dir / name).unlink(missing_ok=True)


def remove_run(run_dir: Path) -> None:
    """Remove a run of ours and its folder where nothing else is in it; an absent folder is none.

    Raises:
        ConfigError: It is not a run of ours.
    """
    _clear(run_dir, inspect_run(run_dir))
    if run_dir.is_dir() and not any(run_dir.iterdir()):
        run_dir.rmdir()


def remove_checkpoints(run_dir: Path) -> None:
    """Remove the checkpoints of a finished run: its model stands beside them."""
    for folder in checkpoint_folders(run_dir):
        _remove(folder)
