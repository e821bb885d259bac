"""Does a submission hold what the collation and the leaderboard of its year check? Every difference names its file.

Sizes of every cell, types of the predictions, one prediction an item for Global PIQA, the checkpoints of the whole
schedule in the age-of-acquisition file, the cells of every checkpoint on the fast sets. In 2026 the official collation
turns a wrong cell into null with a warning and the leaderboard then counts 0: here it is a problem, always.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babyllama.babylm.data_folder import DataFolder
from babyllama.babylm.rules import Rules, Task, Track
from babyllama.babylm.tasks.items import check_sizes
from babyllama.babylm.tree import MAIN, Tree, read_predictions
from babyllama.common.errors import DataError

MIN_CARD = 200  # characters that the leaderboard asks of a model card


@dataclass(frozen=True)
class Finding:
    """Something that would cost points.

    Attributes:
        text: File, cell, found and wanted in one line.
        missing: Whether a file is not there (a task that was not run), rather than wrong.
    """

    text: str
    missing: bool = False


def check_tree(tree: Tree, data: DataFolder | None = None) -> list[Finding]:
    """Check every file of a submission tree.

    Args:
        tree: The tree.
        data: The evaluation data; with it each prediction must be one of its item's answers.

    Returns:
        What is wrong or missing, in the order of the tree.
    """
    found: list[Finding] = []
    for task in tree.rules.tasks.values():
        found += _check_file(tree, MAIN, task, False, data)
    for name in tree.track.checkpoints:
        for task in tree.rules.tasks.values():
            if task.fast:
                found += _check_file(tree, name, task, True, data)
    return found


def _check_file(tree: Tree, checkpoint: str, task: Task, fast: bool, data: DataFolder | None) -> list[Finding]:
    path = tree.predictions(checkpoint, task, fast)
    if not path.is_file():
        return [Finding(f"{path}: not there: {task.name} of {checkpoint} was not scored", missing=True)]
    try:
        content = read_predictions(path)
        if task.kind == "aoa":
            return _check_acquisition(path, content, task, tree.track)
        problems = check_predictions(str(path), task, fast, content)
        if not problems and data is not None:
            problems = _check_answers(str(path), task, fast, content, data)
    except DataError as error:
        return [Finding(str(error))]
    except (KeyError, TypeError, AttributeError) as error:
        return [Finding(f"{path}: not in the form of predictions: {type(error).__name__}: {error}")]
    return [Finding(text) for text in problems]


def check_predictions(where: str, task: Task, fast: bool, content: dict[str, Any]) -> list[str]:
    """Compare the cells of a predictions.json with the rules, and the type of their first prediction.

    Args:
        where: File or key, named in the lines.
        task: The task.
        fast: Whether it is the fast set.
        content: {UID: {"predictions": [...]}}.
    """
    problems = check_sizes(task, fast, {uid: len(cell["predictions"]) for uid, cell in content.items()}, where)
    kind = {"glue": int, "reading": float}.get(task.kind, str)
    for uid, cell in content.items():
        first = cell["predictions"][0]["pred"] if cell["predictions"] else None
        if not isinstance(first, kind) or isinstance(first, bool):
            problems.append(
                f"{where}: cell {uid}: first prediction is {type(first).__name__} found, {kind.__name__} wanted"
            )
    return problems


def _check_answers(where: str, task: Task, fast: bool, content: dict[str, Any], data: DataFolder) -> list[str]:
    """Return whether each prediction is one of the answers of its item, in file order."""
    source = data.of(task, fast)
    if task.kind in ("reading", "glue") or not source.is_there:
        return []
    answers: dict[str, list[tuple[str, ...]]] = {}
    for item in source.items:
        answers.setdefault(item.uid, []).append(item.answers)
    for uid, cell in content.items():
        for number, (entry, known) in enumerate(zip(cell["predictions"], answers.get(uid, []), strict=False)):
            if entry["pred"].strip() not in [text.strip() for text in known]:
                return [
                    f"{where}: cell {uid}: prediction {number}: {entry['pred'][:40]!r} found, one of "
                    f"{[text[:40] for text in known]} wanted: made from other data"
                ]
    return []


def _check_acquisition(path: Path, content: dict[str, Any], task: Task, track: Track) -> list[Finding]:
    """Return every checkpoint of the schedule with all its contexts."""
    wanted = sum(task.sizes(False).values())
    counts = Counter(entry["step"] for entry in content["results"])
    found = [
        Finding(f"{path}: cell {name}: {counts[name]:,} surprisals found, {wanted:,} wanted", missing=not counts[name])
        for name in track.checkpoints
        if counts[name] != wanted
    ]
    known = set(track.checkpoints)
    return found + [
        Finding(f"{path}: cell {name}: a checkpoint found that the schedule does not have")
        for name in counts
        if name not in known
    ]


def check_collated(path: str, content: dict[str, Any], rules: Rules, track: Track) -> list[str]:
    """Check the file that is uploaded as the leaderboard does before it takes it.

    Args:
        path: Name of the file in the lines.
        content: Parsed content of the file.
        rules: The year's rules.
        track: The track.
    """
    problems: list[str] = []
    # The final model's predictions, task by task.
    for task in rules.tasks.values():
        if task.kind == "aoa":
            continue
        cells = content.get(task.collated)
        if task.kind == "glue":
            cells = {task.name: cells[task.name]} if cells and task.name in cells else None
        if cells:
            problems += check_predictions(f"{path}: {task.collated}", task, False, cells)
    # The fast evaluation: as many entries as checkpoints, each with the cells that are wanted.
    lists = content.get("fast_eval_results", {})
    steps = len(track.checkpoints)
    for task in rules.tasks.values():
        entries = lists.get(task.collated) if task.fast else None
        if entries is None:
            continue
        where = f"{path}: fast_eval_results.{task.collated}"
        if len(entries) != steps:
            problems.append(f"{where}: {len(entries)} checkpoints found, {steps} wanted")
        wanted = _fast_cells(task)
        for name, entry in zip(track.checkpoints, entries, strict=False):
            if entry is not None and {uid.lower() for uid in entry} != wanted:
                odd = sorted({uid.lower() for uid in entry} ^ wanted)
                problems.append(f"{where}: {name}: cells found that differ from those wanted: {', '.join(odd[:3])}")
    aoa = content.get("aoa")
    if rules.collation == "nulls" and isinstance(aoa, dict) and "results" in aoa:
        problems.append(f"{path}: aoa: surprisals found, {{'aoa': figure}} wanted (surprisals go to aoa_surprisals)")
    return problems


def _fast_cells(task: Task) -> set[str]:
    if task.kind == "reading":
        return {"spr", "rt"}
    return {task.name} if task.one_each else set(task.sizes(True))


def check_card(path: Path) -> list[str]:
    """Check the model card: at least 200 characters and a licence in its head."""
    if not path.is_file():
        return [f"{path}: no model card there: the leaderboard wants one of at least {MIN_CARD} characters"]
    from huggingface_hub import ModelCard

    card = ModelCard.load(path, ignore_metadata_errors=True)
    problems = []
    if len(card.text.strip()) < MIN_CARD:
        problems.append(f"{path}: {len(card.text.strip())} characters found, {MIN_CARD} wanted")
    if not card.data.get("license"):
        problems.append(f"{path}: no licence in its head: give --license ID (mit, apache-2.0, cc-by-4.0 ...)")
    return problems
