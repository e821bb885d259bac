"""Cooldown branches (`training.decay_from`): several lengths of a run for little more than the longest.

One run is trained at a constant rate (the trunk: `lr_scheduler: constant`, `save_steps` and `save_total_limit` so that
the wanted checkpoints stay). A branch starts from one of its checkpoints with weights, optimizer state and place in the
text, and takes the rate linearly to zero by its own end (Hagele et al. 2024, arXiv 2405.18392). Its steps are counted
from the trunk's beginning, so it sees the text that the trunk would have seen:

    trunk       --set training.lr_scheduler=constant --num-epochs 12 --set training.save_total_limit=12
    a branch    --set training.decay_from=models/trunk/checkpoint-2208 --num-epochs 4      (with lr_scheduler wsd)

All keys that change the weights must be the trunk's, but for those of the schedule, the length and the averages.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.config.fingerprint import differences
from babyllama.config.run_layout import CHECKPOINT_MANIFEST
from babyllama.training import checkpoints

if TYPE_CHECKING:
    from babyllama.config.schema import Config

MAY_DIFFER = {
    "training.lr_scheduler",
    "training.decay_fraction",
    "training.ema_decay",
    "training.average_epochs",
    "the trunk's checkpoint",
}


def trunk_folder(config: Config) -> Path | None:
    """The checkpoint folder that `training.decay_from` names, absolute; None where it is unset.

    Raises:
        CheckpointError: There is no such checkpoint.
    """
    if config.training.decay_from is None:
        return None
    folder = Path(config.training.decay_from).expanduser().resolve()
    if checkpoints.step_of(folder) < 1 or not (folder / CHECKPOINT_MANIFEST).is_file():
        raise CheckpointError(f"training.decay_from: {folder}: not a whole checkpoint folder (checkpoint-N of a run)")
    return folder


def cooldown_fingerprint(config: Config) -> dict[str, Any]:
    """What a branch's weights depend on beside its own keys: the content of the trunk's checkpoint."""
    folder = trunk_folder(config)
    if folder is None:
        return {}
    content = hashlib.sha256((folder / CHECKPOINT_MANIFEST).read_bytes()).hexdigest()
    return {"the trunk's checkpoint": content}


def check_trunk(folder: Path, fingerprint: dict[str, Any]) -> None:
    """Check that a checkpoint is whole and its run's recipe the branch's.

    Args:
        folder: The trunk's checkpoint, from `trunk_folder`.
        fingerprint: The branch's.

    Raises:
        CheckpointError: A file of it is damaged.
        ConfigError: It belongs to another recipe, or not to one of a constant rate; names what differs.
    """
    checkpoints.verify(folder)
    trunk = checkpoints.manifest_extra(folder)["fingerprint"]
    if trunk.get("training.lr_scheduler") != "constant":
        schedule = trunk.get("training.lr_scheduler")
        raise ConfigError(f"training.decay_from: {folder}: its run has lr_scheduler {schedule}, a trunk has constant")
    trunk, ours = ({k: v for k, v in f.items() if k not in MAY_DIFFER} for f in (trunk, fingerprint))
    found = differences(trunk, ours)
    if found:
        raise ConfigError([f"training.decay_from: {folder}: another recipe:", *(f"  {line}" for line in found)])


def cooldown_schedule(folder: str, total_steps: int) -> dict[str, Any]:
    """`lr_scheduler_type`, `lr_scheduler_kwargs` and `warmup_steps` of a branch: the peak rate to zero by its end.

    Args:
        folder: The trunk's checkpoint folder, whose name says the step.
        total_steps: Steps of the branch, counted from the trunk's beginning.

    Raises:
        ConfigError: The branch would end where it begins, or before.
    """
    step = checkpoints.step_of(Path(folder).expanduser().resolve())
    if total_steps <= step:
        raise ConfigError(
            f"training.decay_from: the trunk's checkpoint is at step {step:,} and the run's end at {total_steps:,}: "
            "num_epochs and max_steps count from the trunk's beginning"
        )
    kwargs = {"num_decay_steps": total_steps - step, "decay_type": "linear", "min_lr_ratio": 0.0}
    return {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": kwargs, "warmup_steps": 0}
