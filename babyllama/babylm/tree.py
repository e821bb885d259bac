"""The submission tree: where each prediction of each checkpoint lies, and what is known of how it was made.

    OUTPUT/<model>/main/zero_shot/causal/<task>/<data>/predictions.json     the final model, all tasks
    OUTPUT/<model>/chck_1M/zero_shot/causal/...                             a checkpoint, fast sets
    OUTPUT/<model>/main/finetune/<task>/predictions.json

`<model>` is the name of the run folder up to its last dot, as the challenge's scripts cut it. Beside each
predictions.json stands score.json of ours: the figures, and a fingerprint of weights, data and rules by which the same
work is not done twice.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from babyllama.babylm.rules import Rules, Task, Track
from babyllama.common.errors import CheckpointError, DataError
from babyllama.common.files import read_json, write_json, write_text_atomic
from babyllama.config.run_layout import MILESTONE, MODEL_CONFIG

MAIN = "main"
SCORE = "score.json"
COLLATED = "all_full_preds_and_fast_scores_causal.json"


def model_name(run: Path) -> str:
    """Name of a model's folder in the tree.

    >>> model_name(Path("models/babylm-0.1")), model_name(Path("models/small/"))
    ('babylm-0', 'small')
    """
    return Path(run.name).stem


class Tree:
    """The submission tree of one model.

    Args:
        output: Folder that holds the models' folders (`results`).
        run: The run or model folder.
        rules: The year's rules.
        track: The track.

    Raises:
        CheckpointError: The run folder is not there or holds no model.
    """

    def __init__(self, output: str | Path, run: str | Path, rules: Rules, track: Track) -> None:
        self.run = Path(run).expanduser().resolve()
        if not (self.run / MODEL_CONFIG).is_file():
            raise CheckpointError(f"{self.run}: no {MODEL_CONFIG} in it: not a model folder")
        self.rules, self.track = rules, track
        self.root = Path(output).expanduser() / model_name(self.run)

    def checkpoints(self) -> dict[str, Path]:
        """Return folders of the checkpoints of the schedule that are there, by name, in its order."""
        found = {name: self.run / name for name in self.track.checkpoints}
        return {name: folder for name, folder in found.items() if (folder / MODEL_CONFIG).is_file()}

    def missing_checkpoints(self) -> list[str]:
        """Checkpoints of the schedule that are not there."""
        there = self.checkpoints()
        return [name for name in self.track.checkpoints if name not in there]

    def folder(self, checkpoint: str) -> Path:
        """Folder of the model itself (`main`) or of one of its checkpoints."""
        return self.run if checkpoint == MAIN else self.run / checkpoint

    def predictions(self, checkpoint: str, task: Task, fast: bool) -> Path:
        """Path of a task's predictions."""
        return self.root / checkpoint / task.predictions(fast)

    def score(self, checkpoint: str, task: Task, fast: bool) -> dict[str, Any] | None:
        """Return what score.json says of a task, None where it was not scored."""
        path = self.predictions(checkpoint, task, fast)
        record = path.parent / SCORE
        if not path.is_file() or not record.is_file():
            return None
        try:
            return read_json(record)
        except ValueError:
            return None

    def save(self, checkpoint: str, task: Task, fast: bool, found: object, score: dict[str, Any]) -> None:
        """Write predictions and then the score, which marks them as complete."""
        path = self.predictions(checkpoint, task, fast)
        (path.parent / SCORE).unlink(missing_ok=True)
        write_predictions(path, found)
        write_json(path.parent / SCORE, score)

    def words(self, checkpoint: str) -> int | None:
        """True count of words that a checkpoint has seen, None where its folder does not say."""
        path = self.folder(checkpoint) / MILESTONE
        return read_json(path).get("words") if path.is_file() else None


def write_predictions(path: Path, found: object) -> None:
    """Write predictions as the challenge's scripts do: a missing value is a bare NaN, which its readers expect."""
    write_text_atomic(path, json.dumps(found, ensure_ascii=True))


def read_predictions(path: Path) -> Any:  # noqa: ANN401 - JSON
    """Read predictions of ours or of the challenge's scripts.

    Raises:
        DataError: The file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def fingerprint(*parts: Any) -> str:
    """Return SHA-256 over what decides a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
