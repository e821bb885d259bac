"""The leaderboard's table, made before the upload: its columns, their averages, what is missing and where it is.

Columns of 2026 are nine: seven of NLP tasks, reading and age of acquisition; the overall figure is their plain mean and
a missing task counts as 0 there. Figures come from score.json of the submission tree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babyllama.babylm.rules import Task
from babyllama.babylm.tree import MAIN, Tree
from babyllama.common.files import write_json
from babyllama.common.provenance import provenance
from babyllama.config.run_layout import BABYLM_RESULTS, TRAINING_CONFIG
from babyllama.evaluation.score_cache import checkpoint_content

HUMAN = ("reading", "AoA")


def columns(tree: Tree) -> dict[str, dict[str, Any]]:
    """Return the board's columns of a model.

    Returns:
        For each column its figure (a fraction, None where a task of it is missing), the tasks' figures and which of
        them are missing.
    """
    found: dict[str, dict[str, Any]] = {}
    for task in tree.rules.tasks.values():
        column = found.setdefault(task.board, {"tasks": {}, "missing": []})
        record = tree.score(MAIN, task, False)
        if record is None or record.get("figure") is None:
            column["missing"].append(task.name)
        else:
            column["tasks"][task.name] = record["figure"]
    for column in found.values():
        values = column["tasks"].values()
        column["figure"] = sum(values) / len(values) if values and not column["missing"] else None
    return dict(sorted(found.items(), key=lambda pair: pair[0] in HUMAN))


def averages(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Averages as the leaderboard makes them, a missing column counting as 0: nlp, human_likeness, overall."""
    values = {name: column["figure"] or 0.0 for name, column in found.items()}
    groups = {
        "nlp": [value for name, value in values.items() if name not in HUMAN],
        "human_likeness": [value for name, value in values.items() if name in HUMAN],
        "overall": list(values.values()),
    }
    return {name: sum(group) / len(group) for name, group in groups.items() if group}


def results(tree: Tree) -> dict[str, Any]:
    """Return the table as plain data: for the page, for `evaluate.py`, for a program."""
    found = columns(tree)
    checkpoints = {}
    for name in tree.checkpoints():
        rows = {task.name: _fast_figure(tree, name, task) for task in tree.rules.tasks.values() if task.fast}
        checkpoints[name] = {key: value for key, value in rows.items() if value is not None}
    return {
        "schema_version": 1,
        "rules": tree.rules.year,
        "track": tree.track.name,
        "model": tree.root.name,
        **provenance(),
        "weights": checkpoint_content(tree.run),
        "columns": found,
        "averages": averages(found),
        "checkpoints": checkpoints,
        "missing_checkpoints": tree.missing_checkpoints(),
    }


def _fast_figure(tree: Tree, checkpoint: str, task: Task) -> float | None:
    record = tree.score(checkpoint, task, True)
    return None if record is None else record.get("figure")


def save(tree: Tree) -> Path:
    """Write babylm_results.json beside the tree and, for a run of ours, into its folder for the page."""
    found = results(tree)
    write_json(tree.root / BABYLM_RESULTS, found)
    if (tree.run / TRAINING_CONFIG).is_file():
        try:
            write_json(tree.run / BABYLM_RESULTS, found)
        except OSError:
            return tree.root / BABYLM_RESULTS  # a read-only run folder: the tree has them
    return tree.root / BABYLM_RESULTS
