"""The evaluation data as the challenge distributes it: which tasks are there and complete, and where to get the others.

`DIR/full_eval` and `DIR/fast_eval` hold a folder a task under the official names. Nothing of it is copied or unpacked:
users fetch EWoK and entity tracking themselves and point here. Numbers of items are compared with the rules before a
model is loaded; a difference names file, cell, found and wanted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from babyllama.babylm.rules import Rules, Task
from babyllama.babylm.tasks import acquisition, finetuning, reading
from babyllama.babylm.tasks.items import Item, check_sizes, read_items
from babyllama.common.errors import DataError
from babyllama.common.files import sha256_of

FULL, FAST = "full_eval", "fast_eval"
ZERO_SHOT_LEFT_OUT = ("glue", "aoa")


@dataclass(frozen=True)
class TaskData:
    """Data of one task, full or fast.

    Attributes:
        task: The task.
        fast: Whether it is the fast set.
        folder: Where its files are to be.
    """

    task: Task
    fast: bool
    folder: Path

    @property
    def name(self) -> str:
        """Name in messages and tables."""
        return f"{self.task.name} (fast)" if self.fast else self.task.name

    @property
    def files(self) -> list[Path]:
        """Files that the task reads, those that are there."""
        names = {
            "reading": [reading.FILE],
            "aoa": [acquisition.CONTEXTS],
            "glue": [f"{self.task.name}.train.jsonl", f"{self.task.name}.valid.jsonl"],
        }
        wanted = names.get(self.task.kind)
        found = sorted(self.folder.glob("*.jsonl")) if wanted is None else [self.folder / name for name in wanted]
        return [path for path in found if path.is_file()]

    @property
    def is_there(self) -> bool:
        """Whether the task can be run."""
        return len(self.files) >= (2 if self.task.kind == "glue" else 1)

    def where_to_get(self) -> str:
        """Line for a task without data: the folder that is looked for, its size, and where it is to be had."""
        sizes = self.task.sizes(self.fast)
        number = self.task.one_each or sum(sizes.values())
        what = "contexts" if self.task.kind == "aoa" else "items"
        return f"{self.name}: {self.folder}: no data ({number:,} {what}): {self.task.source}"

    def digest(self) -> str:
        """Return SHA-256 over names and content of the files."""
        found = hashlib.sha256()
        for path in self.files:
            found.update(f"{path.name}\0{sha256_of(path)}\0".encode())
        return found.hexdigest()

    @cached_property
    def items(self) -> list[Item]:
        """Items of a choice task, their numbers checked.

        Raises:
            DataError: A line cannot be used, or a cell has another number of items than the rules say.
        """
        found = read_items(self.task, self.folder)
        self._require(dict(Counter(item.uid for item in found)))
        return found

    @cached_property
    def reading(self) -> reading.ReadingData:
        """Rows of the reading task, their number checked."""
        data = reading.read_reading(self.files[0])
        self._require({"reading": len(data.words)})
        return data

    @cached_property
    def occurrences(self) -> list[acquisition.Occurrence]:
        """Contexts of the age-of-acquisition task, their number checked."""
        found = acquisition.read_contexts(self.files[0])
        self._require({"aoa": len(found)})
        return found

    @cached_property
    def examples(self) -> tuple[list[finetuning.Example], list[finetuning.Example]]:
        """Training and validation examples of a fine-tuning task, the latter's number checked."""
        train, valid = (finetuning.read_examples(self.task.name, path) for path in sorted(self.files))
        self._require({self.task.name: len(valid)})
        return train, valid

    def check(self) -> None:
        """Read the data and compare its numbers with the rules.

        Raises:
            DataError: As for `items`.
        """
        attributes = {"reading": "reading", "aoa": "occurrences", "glue": "examples"}
        getattr(self, attributes.get(self.task.kind, "items"))

    def _require(self, counts: dict[str, int]) -> None:
        problems = check_sizes(self.task, self.fast, counts, str(self.folder))
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise DataError(f"{problems[0]}{more}; get it again from {self.task.source}, or score by your own --rules")


class DataFolder:
    """The evaluation data of a folder.

    Args:
        path: Folder with full_eval and fast_eval.
        rules: The year's rules.

    Raises:
        DataError: There is neither folder.
    """

    def __init__(self, path: str | Path, rules: Rules) -> None:
        self.path, self.rules = Path(path).expanduser(), rules
        if not (self.path / FULL).is_dir() and not (self.path / FAST).is_dir():
            raise DataError(f"--data {path}: no {FULL} or {FAST} in it: {next(iter(rules.tasks.values())).source}")
        self._known: dict[tuple[str, bool], TaskData] = {}

    def of(self, task: Task, fast: bool) -> TaskData:
        """Return the data of a task, read once."""
        key = (task.name, fast)
        if key not in self._known:
            self._known[key] = TaskData(task, fast, self.path / (FAST if fast else FULL) / task.folder(fast))
        return self._known[key]

    def zero_shot(self, fast: bool) -> list[TaskData]:
        """Return data of the tasks that are scored without training, in the order of the rules, present or not."""
        tasks = [task for task in self.rules.tasks.values() if task.kind not in ZERO_SHOT_LEFT_OUT]
        return [self.of(task, fast) for task in tasks if task.fast or not fast]

    @property
    def acquisition(self) -> TaskData | None:
        """Data of the age-of-acquisition task, None where the rules have none."""
        return next((self.of(task, False) for task in self.rules.tasks.values() if task.kind == "aoa"), None)

    @property
    def human_shares(self) -> Path:
        """The children's shares beside the contexts."""
        data = self.acquisition
        return (data.folder if data else self.path) / acquisition.HUMAN
