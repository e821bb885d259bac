"""Which files of a folder are text, and for which split.

A folder that a user has holds more than a corpus. Hidden files and folders, run folders of ours, W&B's records and
virtual environments are passed by. Files whose name says validation (`c.valid`, `dev.txt`, `wiki.validation.jsonl`)
are held out and never trained on; what says test (`c.test`, `test.txt`) is neither, and what every download has beside
its text (README, LICENSE) is no text. What is left out is told: no file that could be text goes without a line.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from babyllama.common.records import bare_name, kind_of
from babyllama.config.run_layout import (
    CHECKPOINT_MANIFEST,
    EVALUATION_ITEMS,
    EVALUATION_RESULTS,
    RUN_FINGERPRINT,
    SAMPLES,
    TRAINING_LOG,
    TRAINING_METRICS,
    WANDB_ID,
)

TEXT = (".train", ".dev", ".txt", ".text", ".md", ".valid", ".test", ".raw")
TABLES = (".csv", ".tsv")  # of a folder only where it holds nothing else to read: metadata often lie beside a text
RECORDS = (".jsonl", ".parquet", *TABLES)
CHAT = ".cha"
READABLE = (*TEXT, *RECORDS, CHAT)
VALIDATION = {"dev", "valid", "validation", "val"}
PAPERS = {"readme", "license", "licence", "changelog", "citation", "notice", "copying", "authors", "contributing"}
OURS = {EVALUATION_RESULTS, EVALUATION_ITEMS, SAMPLES, TRAINING_LOG, WANDB_ID}
RUN_MARKS = (RUN_FINGERPRINT, TRAINING_METRICS, CHECKPOINT_MANIFEST)
LEFT_NAMES = 3  # files named in a line about more of them


@dataclass
class FolderFiles:
    """The files of a folder by what they are for.

    Attributes:
        train: Files to train on.
        validation: Files to hold out.
        test: Files for neither.
        left: Why -> files or folders that are left out.
    """

    train: list[Path] = field(default_factory=list)
    validation: list[Path] = field(default_factory=list)
    test: list[Path] = field(default_factory=list)
    left: dict[str, list[Path]] = field(default_factory=dict)

    def leave(self, path: Path, why: str) -> None:
        """Note that a path is left out."""
        self.left.setdefault(why, []).append(path)


def is_run_folder(folder: Path) -> bool:
    """Whether a training of ours wrote this folder."""
    return any((folder / name).is_file() for name in RUN_MARKS)


def split_of(path: Path) -> str:
    """Name the split that a file's name says: train, validation, test, or none.

    >>> [split_of(Path(name)) for name in ("c.train", "c.valid.gz", "a.test.raw", "dev.txt", "valid-01.jsonl", "a.txt")]
    ['train', 'validation', 'test', 'validation', 'validation', '']
    """
    words = re.split(r"[._-]+", bare_name(path).name.lower())
    for word in (words[-1], words[0], *words[1:-1][-1:]):
        if word in {"train", "test"}:
            return word
        if word in VALIDATION:
            return "validation"
    return ""


def sort_folder(folder: Path) -> FolderFiles:
    """Sort the files below a folder by what they are for; links that lead nowhere are left out with the others."""
    found = FolderFiles()
    readable: list[Path] = []
    for path in _walk(folder, found):
        kind = kind_of(path)
        if path.name in OURS:
            found.leave(path, "written by BabyLlama or W&B")
        elif kind not in READABLE:
            found.leave(path, f"no text: *{kind}" if kind else "no text: names without an ending")
        else:
            readable.append(path)
    tables = [path for path in readable if kind_of(path) in TABLES]
    if len(tables) < len(readable):
        for path in tables:
            found.leave(path, "a table beside text")
        readable = [path for path in readable if path not in set(tables)]
    _part(readable, found)
    return found


def _walk(folder: Path, found: FolderFiles) -> Iterator[Path]:
    """Files below a folder in order; hidden ones and what a program keeps for itself are passed by."""
    paths: list[Path] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        # Leave out whole folders: removed from `folders`, os.walk does not enter them.
        for name in list(folders):
            inner = here / name
            why = ""
            if name.startswith(".") or name in {"__pycache__", "node_modules"} or (inner / "pyvenv.cfg").is_file():
                why = "hidden, or a program's own"
            elif is_run_folder(inner) or name == "wandb":
                why = "written by BabyLlama or W&B"
            elif inner.is_symlink():  # two that lead to each other would never end
                why = "a link to another folder"
            if why:
                found.leave(inner, why)
                folders.remove(name)
        # Files that anybody can see.
        for name in files:
            if name.startswith("."):
                found.leave(here / name, "hidden, or a program's own")
            else:
                paths.append(here / name)
    yield from sorted(paths)


def _part(readable: list[Path], found: FolderFiles) -> None:
    """Part text by split: *.train alone is trained on where there is one."""
    papers = [path for path in readable if bare_name(path).stem.lower() in PAPERS]
    if len(papers) < len(readable):
        for path in papers:
            found.leave(path, "about the text")
        readable = [path for path in readable if path not in set(papers)]
    splits = {path: split_of(path) for path in readable}
    found.validation = [path for path in readable if splits[path] == "validation"]
    found.test = [path for path in readable if splits[path] == "test"]
    named = [path for path in readable if kind_of(path) == ".train"]
    others = [path for path in readable if splits[path] in {"train", ""}]
    if named:
        for path in others:
            if path not in set(named):
                found.leave(path, "beside *.train")
    found.train = named or others
    if not found.train and not found.validation:
        found.train, found.test = found.test, []  # a folder of nothing but test.txt is a text like any other


def told(found: FolderFiles, folder: Path, *, with_validation: bool) -> list[str]:
    """Lines that count what of a folder is left out.

    Args:
        found: Files of a folder, from `sort_folder`.
        folder: The folder.
        with_validation: Another text is held out, so that the folder's own validation files are not used.
    """
    left = dict(found.left)
    if found.test:
        left["a test split by its name"] = found.test
    if with_validation and found.validation:
        left["a validation split by its name"] = found.validation
    lines = []
    for why, paths in sorted(left.items()):
        names = ", ".join(str(path.relative_to(folder)) for path in paths[:LEFT_NAMES])
        more = f" and {len(paths) - LEFT_NAMES:,} more" if len(paths) > LEFT_NAMES else ""
        lines.append(f"left out of {folder}: {names}{more} ({why})")
    return lines


def endings(found: FolderFiles) -> str:
    """Say what a folder holds, by ending, for a message."""
    paths = [path for paths in (found.train, found.validation, found.test, *found.left.values()) for path in paths]
    counted = Counter(path.suffix or path.name for path in paths)
    if not counted:
        return "it is empty"
    return f"it holds {', '.join(f'{count} {name}' for name, count in counted.most_common(6))}"
