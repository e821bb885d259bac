"""gpu.md: the environment in a line, a table of the checks, a table of the speeds; all of it from rows.jsonl."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from tests.gpu.environment import environment_line

# Predicted before anything had run on CUDA, one H100, bf16: (stock eager, stock compiled, ours, target), tokens/s.
PREDICTED = {
    "llama-10M": (0.4e6, 1.2e6, 0.9e6, 2.5e6),
    "llama-16M": (1.3e6, 1.9e6, 1.6e6, 3.0e6),
    "llama-97M": (380e3, 570e3, 480e3, 740e3),
    "gpt-97M": (330e3, 520e3, 440e3, 680e3),
    "llama-360M": (130e3, 180e3, 150e3, 225e3),
    "gpt-705M": (65e3, 95e3, 75e3, 112e3),
}
ORDER = {"stock-eager-workers": 0, "stock-workers": 1, "stock": 1, "ours": 2, "ours-muon": 2}  # place in PREDICTED


def read_rows(file: Path) -> list[dict[str, Any]]:
    """All rows of a results file, the newest of each name; a line cut short by a kill is left out."""
    newest: dict[str, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").split("\n") if file.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        before = newest.get(row["name"])
        if before is None or row["state"] != "skipped" or before["state"] == "skipped":
            newest[row["name"]] = row  # a row measured earlier is not replaced by one left out now
    return list(newest.values())


def number(value: Any) -> str:
    """A figure as the table shows it.

    >>> number(2512345.0), number(0.00012345), number(12.3456), number("x"), number(None)
    ('2,512,345', '0.000123', '12.35', 'x', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool | str | list):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def checks_table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of every group but speed."""
    lines = ["| row | state | seconds | figures |", "| --- | --- | --- | --- |"]
    for row in rows:
        if row["group"] in ("environment", "speed"):
            continue
        said = [f"{name} {number(value)}" for name, value in (row.get("figures") or {}).items()]
        said += row.get("problems") or []
        said += [row["skipped"]] if row.get("skipped") else []
        said += row.get("notes") or []
        text = "; ".join(said).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {row['name']} | {row['state']} | {row['seconds']:.0f} | {text} |")
    return lines


def speeds_table(rows: list[dict[str, Any]]) -> list[str]:
    """Median over rounds of each preset and variant, beside what was predicted."""
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        options = row.get("options") or {}
        if row["group"] == "speed" and row["state"] == "passed" and "steps" in options:
            measured.setdefault((options["config"], options["variant"]), []).append(row["figures"])
    if not measured:
        return ["not measured"]
    names = (
        "tokens_per_second",
        "mfu",
        "of_product_rate",
        "peak_allocated_gb",
        "peak_reserved_gb",
        "first_step_seconds",
    )
    lines = [
        "| preset, variant | predicted | tokens/s | MFU | of product rate | allocated GB | reserved GB | 1st step s |"
    ]
    lines.append("| --- " * 8 + "|")
    for (preset, variant), rounds in measured.items():
        predicted = PREDICTED.get(preset, (None,) * 4)[ORDER.get(variant, 2)]
        values = []
        for name in names:
            found = [figures[name] for figures in rounds if figures.get(name) is not None]
            values.append(number(statistics.median(found) if found else None))
        quick = " (quick)" if any(figures.get("quick") for figures in rounds) else ""
        lines.append(f"| {preset}, {variant}{quick} | {number(predicted)} | {' | '.join(values)} |")
    return lines


def other_speeds(rows: list[dict[str, Any]]) -> list[str]:
    """Profiles, minimal pairs, generation: a line each."""
    lines = []
    for row in rows:
        if row["group"] != "speed" or (row["state"] == "passed" and "steps" in (row.get("options") or {})):
            continue
        figures = ", ".join(f"{name} {number(value)}" for name, value in (row.get("figures") or {}).items())
        more = "; ".join([*(row.get("problems") or []), *(row.get("notes") or []), row.get("skipped") or ""]).strip(
            "; "
        )
        lines.append(f"* {row['name']} ({row['state']}): {'; '.join(part for part in (figures, more) if part)}")
    return lines


def write_report(out: Path, rows: list[dict[str, Any]]) -> Path:
    """Write gpu.md.

    Args:
        out: Folder of the results.
        rows: From `read_rows`.

    Returns:
        The page.
    """
    from babyllama.common.files import write_text_atomic

    environment = next((row for row in rows if row["group"] == "environment"), {})
    lines = ["# Measured by `python -m tests.gpu`", "", environment_line(environment.get("figures") or {}), ""]
    lines += ["## Checks", "", *checks_table(rows), "", "## Speeds", "", *speeds_table(rows), "", *other_speeds(rows)]
    write_text_atomic(out / "gpu.md", "\n".join(lines).rstrip() + "\n")
    return out / "gpu.md"
