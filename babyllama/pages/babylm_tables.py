"""A run's BabyLM figures as tables, from babylm_results.json: the board's row, the checkpoints on the fast sets."""

from __future__ import annotations

from typing import Any

from babyllama.pages.tables import DASH, TableData

AVERAGES = {"nlp": "NLP average", "human_likeness": "human-likeness average", "overall": "overall"}


def board_table(found: dict[str, Any]) -> TableData:
    """Show the leaderboard's row as a table.

    Args:
        found: Content of babylm_results.json.
    """
    rows = []
    for name, column in found["columns"].items():
        missing = ", ".join(column["missing"])
        value = DASH if column["figure"] is None else f"{100 * column['figure']:.2f}"
        parts = ", ".join(f"{task} {100 * figure:.2f}" for task, figure in column["tasks"].items())
        rows.append((name, value, parts if len(column["tasks"]) > 1 or column["figure"] is None else "", missing))
    for name, value in found["averages"].items():
        rows.append((AVERAGES[name], f"{100 * value:.2f}", "missing tasks counted as 0", ""))
    title = f"{found['model']}: BabyLM {found['rules']}, {found['track']}"
    return TableData(title, ("column", "%", "of", "missing"), tuple(rows))


def checkpoint_table(found: dict[str, Any]) -> TableData:
    """Show the figures of the checkpoints on the fast sets as a table."""
    names = list(dict.fromkeys(name for row in found["checkpoints"].values() for name in row))
    rows = [
        (name, *(f"{100 * row[task]:.1f}" if task in row else DASH for task in names))
        for name, row in found["checkpoints"].items()
    ]
    return TableData("checkpoints, fast sets (%)", ("checkpoint", *names), tuple(rows))


def babylm_tables(found: dict[str, Any]) -> list[TableData]:
    """Return all tables of a run's BabyLM figures."""
    tables = [board_table(found)]
    return [*tables, checkpoint_table(found)] if found["checkpoints"] else tables
