"""Predictions, figures and the text report of the tasks that choose among texts.

A cell's figure is its share of right choices; a task's is the plain mean of its cells (entity tracking: the mean over
its files of the mean of their cells). WUG compares shares: the model's is exp(a) / (exp(a) + exp(b)), and the figure
is Spearman's rank correlation with people's. Shapes of predictions.json and best_temperature_report.txt as the
challenge's own scripts write them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from babyllama.babylm.rules import Task
from babyllama.babylm.tasks.items import Item
from babyllama.babylm.tasks.ranking import Choice


def predictions(task: Task, items: Sequence[Item], choices: Sequence[Choice]) -> dict[str, Any]:
    """Content of predictions.json: {UID: {"predictions": [{"id", "pred"}, ...]}} in the order of the items."""
    found: dict[str, Any] = {}
    for item, choice in zip(items, choices, strict=True):
        cell = found.setdefault(item.uid, {"predictions": []})["predictions"]
        entry: dict[str, Any] = {"id": f"{item.uid}_{len(cell)}", "pred": item.answers[choice.index]}
        if task.kind == "wug":
            entry["prob"] = first_share(choice.scores)
        cell.append(entry)
    return found


def first_share(scores: Sequence[float]) -> float:
    """Probability of the first of two texts among the two.

    >>> round(first_share([-10.0, -10.0]), 3), round(first_share([0.0, -1000.0]), 3)
    (0.5, 1.0)
    """
    difference = scores[1] - scores[0]
    return 1 / (1 + math.exp(difference)) if difference < 700 else 0.0


def cell_figures(task: Task, items: Sequence[Item], found: dict[str, Any]) -> dict[str, float]:
    """Figure of each cell from stored predictions, as the collation and the leaderboard compare them.

    Args:
        task: The task.
        items: Items of the task in file order; they hold the right answers.
        found: Content of predictions.json.

    Returns:
        Share of predictions (stripped) that equal the right answer; for WUG the rank correlation.
    """
    gold: dict[str, list[Item]] = {}
    for item in items:
        gold.setdefault(item.uid, []).append(item)
    figures = {}
    for uid, cell in found.items():
        pairs = list(zip(cell["predictions"], gold[uid], strict=True))
        if task.kind == "wug":
            figures[uid] = spearman([p["prob"] for p, _ in pairs], [item.ratio for _, item in pairs])
        else:
            right = sum(p["pred"].strip() == item.answers[item.label].strip() for p, item in pairs)
            figures[uid] = right / len(pairs)
    return figures


def task_figure(task: Task, cells: dict[str, float]) -> float:
    """Figure of a task from those of its cells, as a fraction."""
    if task.kind != "entity_tracking":
        return sum(cells.values()) / len(cells)
    files: dict[str, list[float]] = {}
    for uid, value in cells.items():
        files.setdefault(uid.rsplit("_", 2)[0], []).append(value)
    means = [sum(values) / len(values) for values in files.values()]
    return sum(means) / len(means)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, ties with their mean rank; 0 where one side is constant.

    >>> round(spearman([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.0, 9.0]), 6)
    0.8
    """
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else 0.0


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, tied values with the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def report(task: Task, cells: dict[str, float], figure: float) -> str:
    """Return text of best_temperature_report.txt (temperature 1; no others are tried)."""
    metric = "SPEARMAN'S RHO" if task.kind == "wug" else "ACCURACY"
    scale = 1 if task.kind == "wug" else 100
    lines = ["TEMPERATURE: 1.00", "", f"### UID {metric}"]
    lines += [f"{uid}: {scale * value:.2f}" for uid, value in cells.items()]
    return "\n".join([*lines, "", f"### AVERAGE {metric}", f"{scale * figure:.2f}", "", ""])
