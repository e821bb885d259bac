"""Items of the tasks that choose among texts, read from the official data files.

An item is a few candidate sentences, of each the number of characters at its end that count, and what of the chosen
candidate goes into predictions.json. Field names, cells and what is compared follow the challenge's pipelines of 2025
(babylm/evaluation-pipeline-2025) and 2026 (babylm-org/babylm-eval).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babyllama.babylm.rules import Task
from babyllama.common.errors import DataError


@dataclass(frozen=True, slots=True)
class Item:
    """A choice among candidate texts.

    Attributes:
        uid: Cell that the item counts in.
        sentences: Whole text of each candidate.
        completions: End of each sentence whose tokens are counted.
        answers: What predictions.json holds for each candidate.
        label: Index of the right candidate.
        ratio: People's share for the first candidate (WUG), else 0.
    """

    uid: str
    sentences: tuple[str, ...]
    completions: tuple[str, ...]
    answers: tuple[str, ...]
    label: int = 0
    ratio: float = 0.0


def read_items(task: Task, folder: Path) -> list[Item]:
    """Read the items of a task in the order of files (by name) and lines.

    Args:
        task: The task; its kind decides how a line is read.
        folder: Folder of its *.jsonl files.

    Raises:
        DataError: A file is missing, or a line cannot be used; names file and line.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise DataError(f"{folder}: no *.jsonl file there; {task.name} is to be had at {task.source}")
    return [item for file in files for item in read_file(task, file)]


def read_file(task: Task, file: Path) -> Iterator[Item]:
    """Read the items of one file.

    Raises:
        DataError: As for `read_items`.
    """
    decode = DECODERS[task.kind]
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if task.drop_nothing and any("nothing" in option for option in record["options"]):
                continue
            item = decode(record, file.stem)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            told = f"no `{error.args[0]}`" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            raise DataError(
                f"{file}: line {number}: not an item of {task.name}: {told}; get it again from {task.source}"
            ) from None
        if task.options and len(item.sentences) != task.options:
            raise DataError(f"{file}: line {number}: {len(item.sentences)} options, {task.name} has {task.options}")
        yield item


def _lines(file: Path) -> list[str]:
    """Return lines of a file at line feeds only: U+2028 or U+0085 inside a text ends no line."""
    try:
        return file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def _text(record: dict[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"`{key}` is no text")
    return value


def _sentence_pair(record: dict[str, Any], stem: str) -> Item:
    pair = (_text(record, "sentence_good"), _text(record, "sentence_bad"))
    return Item(str(record["UID"]) if "field" in record else stem, pair, pair, pair)


def _ewok_targets(record: dict[str, Any], stem: str) -> Item:
    """2025: which target is likelier after the first context."""
    context = _text(record, "Context1")
    ends = tuple(" " + _text(record, key) for key in ("Target1", "Target2"))
    return Item(_text(record, "Domain"), tuple(context + end for end in ends), ends, ends)


def _ewok_contexts(record: dict[str, Any], stem: str) -> Item:
    """2026: after which context is the first target likelier."""
    end = " " + _text(record, "Target1")
    sentences = tuple(_text(record, key) + end for key in ("Context1", "Context2"))
    return Item(_text(record, "Domain"), sentences, (end, end), sentences)


def _entity_tracking(record: dict[str, Any], stem: str) -> Item:
    options = tuple(record["options"])
    if len(options) < 2 or not all(isinstance(option, str) for option in options):
        raise TypeError("`options` is no list of at least two texts")
    prefix = _text(record, "input_prefix")
    return Item(f"{stem}_{record['numops']}_ops", tuple(prefix + option for option in options), options, options)


COMPS_CELLS = {"comps_base": "base", "comps_wugs": "wugs", "comps_wugs_dist-before": "wugs_dist_before"}


def _comps(record: dict[str, Any], stem: str) -> Item:
    end = _text(record, "property_phrase")
    sentences = tuple(_text(record, key) + " " + end for key in ("prefix_acceptable", "prefix_unacceptable"))
    return Item(COMPS_CELLS.get(stem, "wugs_dist_in_between"), sentences, (end, end), sentences)


def _global_piqa(record: dict[str, Any], stem: str) -> Item:
    keys = [f"solution{number}" for number in range(4) if f"solution{number}" in record]
    ends = tuple(" " + _text(record, key) for key in keys)
    label = int(record["label"])
    if not 0 <= label < len(ends):
        raise ValueError(f"label {label} names none of {len(ends)} solutions")
    prompt = _text(record, "prompt")
    return Item(_text(record, "example_id"), tuple(prompt + end for end in ends), ends, ends, label)


def _wug(record: dict[str, Any], stem: str) -> Item:
    pair = tuple(_text(record, "sentences").split("\t"))
    if len(pair) != 2:
        raise ValueError("`sentences` is not two sentences with a tab between them")
    uid = "wug_past" if "past" in stem else "wug_adj"
    return Item(uid, pair, pair, pair, ratio=float(record["ratio"]))


DECODERS: dict[str, Callable[[dict[str, Any], str], Item]] = {
    "sentence_pairs": _sentence_pair,
    "ewok_targets": _ewok_targets,
    "ewok_contexts": _ewok_contexts,
    "entity_tracking": _entity_tracking,
    "comps": _comps,
    "global_piqa": _global_piqa,
    "wug": _wug,
}


def check_sizes(task: Task, fast: bool, counts: dict[str, int], where: str) -> list[str]:
    """Compare numbers of items with the rules.

    Args:
        task: The task.
        fast: Whether they are those of the fast set.
        counts: Number of each UID found.
        where: File or folder, named in the problems.

    Returns:
        One line for each difference: where, cell, found, wanted.
    """
    if task.one_each:
        problems = [f"{where}: cell {u}: {n} predictions found, 1 wanted" for u, n in counts.items() if n != 1]
        if len(counts) != task.one_each:
            problems.append(f"{where}: {len(counts):,} items found, {task.one_each:,} wanted")
        return problems
    wanted = task.sizes(fast)
    found = {uid.lower(): number for uid, number in counts.items()}
    return [
        f"{where}: cell {uid}: {found.get(uid, 0):,} found, {wanted.get(uid, 0):,} wanted"
        for uid in sorted(wanted.keys() | found.keys())
        if wanted.get(uid, 0) != found.get(uid, 0)
    ]
