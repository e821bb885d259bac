"""The one file that is uploaded: the final model's predictions, every checkpoint's figures on the fast sets.

The collation of both years' rules, as collate_preds.py of the pipelines writes it. 2026: `aoa_surprisals` beside `aoa`
(the figure), `entity_tracking_filtered`, null for what is missing. 2025: `aoa` holds the surprisals, and a missing file
is an error. Figures of the fast sets are made here from predictions and local data, cell by cell.

A run that ended before the schedule has checkpoints missing, and one missing checkpoint voids the age-of-acquisition
task. Teams repeat the last model for them; `fill_missing` does that, marks every copy and tells it in log and form.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from babyllama.babylm.data_folder import DataFolder
from babyllama.babylm.rules import Task
from babyllama.babylm.score import AOA_SCORE
from babyllama.babylm.tasks import reading, zero_shot
from babyllama.babylm.tree import COLLATED, MAIN, SCORE, Tree, read_predictions
from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json, write_json, write_text_atomic

FILLED = "filled_from"


def filled_checkpoints(tree: Tree) -> dict[str, str]:
    """Checkpoints of the tree that are copies of another one's predictions: name -> whose."""
    found = {}
    for name in tree.track.checkpoints:
        for record in (tree.root / name).rglob(SCORE):
            source = read_json(record).get(FILLED)
            if source:
                found[name] = source
    return found


def remove_filled(tree: Tree) -> None:
    """Remove the copies that `fill_missing` made earlier."""
    for name in filled_checkpoints(tree):
        shutil.rmtree(tree.root / name)


def fill_missing(tree: Tree) -> dict[str, str]:
    """Copy the predictions of the checkpoint before (or, at the start, behind) to each one that is missing.

    Returns:
        Name -> the checkpoint whose predictions stand in.

    Raises:
        ConfigError: No checkpoint of the schedule is there.
    """
    order = tree.track.checkpoints
    there = list(tree.checkpoints())
    if not there:
        raise ConfigError(
            f"--fill-missing: {tree.run} has none of the {len(order)} checkpoints of {tree.track.name}: "
            f"train with training.save_words: {'babylm-' + tree.track.name}"
        )
    filled = {}
    for name in tree.missing_checkpoints():
        before = [other for other in there if order.index(other) < order.index(name)]
        filled[name] = before[-1] if before else there[0]
    for name, source in filled.items():
        shutil.rmtree(tree.root / name, ignore_errors=True)
        for record in (tree.root / source).rglob(SCORE):
            target = tree.root / name / record.parent.relative_to(tree.root / source)
            shutil.copytree(record.parent, target, dirs_exist_ok=True)
            write_json(target / SCORE, {**read_json(record), "fingerprint": None, FILLED: source})
        say(f"{name} is missing: the predictions of {source} stand in for it (--fill-missing; told in the form)")
    return filled


def collate(tree: Tree, data: DataFolder) -> dict[str, Any]:
    """Assemble the file that is uploaded from a tree without wrong cells.

    Args:
        tree: The submission tree.
        data: The evaluation data; its fast sets hold the right answers.

    Returns:
        The content; a task that is not there is None.
    """
    content: dict[str, Any] = {}
    glue: dict[str, Any] = {}
    # The final model's predictions, GLUE's tasks under one key.
    for task in tree.rules.tasks.values():
        path = tree.predictions(MAIN, task, False)
        found = read_predictions(path) if path.is_file() else None
        if task.kind == "glue":
            glue |= found or {}
        else:
            content[task.collated] = found
        if task.kind == "aoa" and tree.rules.collation == "nulls":
            if found is not None and not _is_complete(tree, found):
                content[task.collated] = None
            figure = path.parent / AOA_SCORE
            content["aoa"] = read_json(figure) if figure.is_file() else None
    content["glue"] = glue
    # The fast evaluation: a list over the checkpoints for each task.
    content["fast_eval_results"] = {
        task.collated: [fast_cells(tree, data, name, task) for name in tree.track.checkpoints]
        for task in tree.rules.tasks.values()
        if task.fast
    }
    return content


def _is_complete(tree: Tree, surprisals: dict[str, Any]) -> bool:
    return {entry["step"] for entry in surprisals["results"]} == set(tree.track.checkpoints)


def fast_cells(tree: Tree, data: DataFolder, checkpoint: str, task: Task) -> dict[str, float] | None:
    """Figure of each cell of a checkpoint's fast set, made from its predictions; None where they are missing."""
    path = tree.predictions(checkpoint, task, True)
    source = data.of(task, True)
    if not path.is_file() or not source.is_there:
        return None
    found = read_predictions(path)
    if task.kind == "reading":
        return reading.figures(source.reading, *reading.stored_surprisals(found))
    cells = zero_shot.cell_figures(task, source.items, found)
    return {task.name: sum(cells.values()) / len(cells)} if task.one_each else cells


def write_collated(tree: Tree, content: dict[str, Any]) -> Path:
    """Write the file that is uploaded, missing numbers as NaN like the official script.

    Returns:
        Its path.
    """
    path = tree.root / COLLATED
    write_text_atomic(path, json.dumps(content))
    return path


def set_license(card_path: Path, name: str) -> None:
    """Write a licence into the head of a model card; a folder without a card gets a short one.

    Args:
        card_path: README.md of the model.
        name: Identifier of the licence as the hub knows it.
    """
    from huggingface_hub import ModelCard

    if card_path.is_file():
        card = ModelCard.load(card_path, ignore_metadata_errors=True)
    else:
        card = ModelCard("---\n{}\n---\n\n# Model\n")
    card.data.license = name
    write_text_atomic(card_path, str(card))
