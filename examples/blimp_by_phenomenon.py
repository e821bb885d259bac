r"""Which grammar has a model learned? Its BLiMP by phenomenon, beside models that were published.

    python examples/blimp_by_phenomenon.py models/Llama-10M --published blimp/raw_results/summary/models_summary.jsonl

The run must have been scored on BLiMP (`evaluate.py models/Llama-10M --minimal-pairs blimp/data`). The published file
is the one of BLiMP's own repository: a JSON object a line, with `UID`, `linguistics_term` and a share per model; its
rows `overall` are not read, for the means are made here from the paradigms, of the run and of the others alike. Two
files are written, a picture and a table. The others were trained on far more text (GPT-2 on 40 GB): they show what is
hard, not what is to be reached.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from babyllama.common.command import run_command
from babyllama.common.console import say
from babyllama.common.errors import DataError
from babyllama.common.files import read_json, write_text_atomic
from babyllama.config.run_layout import EVALUATION_RESULTS
from babyllama.pages.figures import BLUE, GREEN, GREY, ORANGE, pyplot
from babyllama.pages.tables import TableData, print_tables

MARKS = ("o", "s", "^", "D", "v", "P", "X")
COLOURS = (BLUE, ORANGE, GREEN, GREY)


def published_shares(path: Path) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """Read the published file: the phenomenon of each paradigm, and each model's share by paradigm.

    Args:
        path: The file of BLiMP's repository.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [row for row in rows if row["UID"] != "overall"]
    if not rows:
        raise DataError(f"{path}: no line with a UID of a paradigm")
    phenomena = {row["UID"]: row["linguistics_term"] for row in rows}
    models = [name for name in rows[0] if name not in {"UID", "linguistics_term"}]
    return phenomena, {name: {row["UID"]: float(row[name]) for row in rows} for name in models}


def run_shares(run: Path, paradigms: set[str]) -> dict[str, float]:
    """Return a run's share of pairs right by paradigm, from the set in its results that has these paradigms.

    Args:
        run: Folder of the run, or its evaluation_results.json.
        paradigms: Names of BLiMP's 67 paradigms.
    """
    path = run / EVALUATION_RESULTS if run.is_dir() else run
    for found in (read_json(path).get("minimal_pairs") or {}).values():
        if paradigms <= set(found.get("paradigms", {})):
            return {uid: found["paradigms"][uid]["accuracy"] for uid in paradigms}
    raise DataError(f"{path}: not scored on BLiMP; do so with: python evaluate.py {run} --minimal-pairs blimp/data")


def by_phenomenon(shares: dict[str, float], phenomena: dict[str, str]) -> dict[str, float]:
    """Average paradigms within each phenomenon, every paradigm with the same weight, as BLiMP's authors do."""
    groups: dict[str, list[float]] = {}
    for uid, share in shares.items():
        groups.setdefault(phenomena[uid], []).append(share)
    return {name: sum(values) / len(values) for name, values in groups.items()}


def draw(table: dict[str, dict[str, float]], order: list[str], path: Path) -> None:
    """Draw a row a phenomenon and a mark a model, hardest phenomenon of the first model at the bottom.

    Args:
        table: Model -> phenomenon -> share.
        order: Phenomena from the bottom to the top.
        path: PNG to write.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 0.36 * len(order) + 1.4))
    for number, (model, shares) in enumerate(table.items()):
        style = {"marker": MARKS[number % len(MARKS)], "color": COLOURS[number % len(COLOURS)]}
        values = [100 * shares[name] for name in order]
        axes.scatter(values, range(len(order)), s=64 if number == 0 else 26, label=model, zorder=3, **style)
    axes.axvline(50, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(order)), [name.replace("_", " ") for name in order])
    axes.set_xlabel("pairs right, % (dashed: chance)")
    axes.set_xlim(0, 101)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, dpi=144, bbox_inches="tight")
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Read the runs and the published file, print the table, write picture and table."""
    parser = argparse.ArgumentParser(description="BLiMP by phenomenon, beside published models.")
    parser.add_argument("runs", nargs="+", type=Path, help="scored runs; the first gives the order")
    parser.add_argument("--published", type=Path, required=True, help="models_summary.jsonl of BLiMP's repository")
    parser.add_argument("--output", type=Path, default=Path("blimp_by_phenomenon"), help="folder of the two files")
    given = parser.parse_args(argv)
    phenomena, published = published_shares(given.published)
    shares = {run.name or str(run): run_shares(run, set(phenomena)) for run in given.runs} | published
    table = {name: by_phenomenon(found, phenomena) for name, found in shares.items()}
    first = next(iter(table.values()))
    order = sorted(first, key=lambda name: first[name])
    # The rows from best to worst, and the mean over all paradigms at the end.
    rows = [(name, *(f"{100 * found[name]:.1f}" for found in table.values())) for name in reversed(order)]
    rows.append(("all paradigms", *(f"{100 * sum(found.values()) / len(found):.1f}" for found in shares.values())))
    tables = [TableData("BLiMP, % right", ("phenomenon", *table), tuple(rows))]
    print_tables(tables)
    given.output.mkdir(parents=True, exist_ok=True)
    draw(table, order, given.output / "blimp_by_phenomenon.png")
    lines = ["\t".join(row) for row in [("phenomenon", *table), *rows]]
    write_text_atomic(given.output / "blimp_by_phenomenon.tsv", "\n".join(lines) + "\n")
    say(f"written: {given.output}/blimp_by_phenomenon.png and .tsv")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
