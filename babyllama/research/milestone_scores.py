"""Scores of all milestones of a run: quality against words seen (`evaluate.py RUN --milestones`).

Each `chck_*` folder is scored like any other checkpoint, by the same evaluator on the same text; only the perplexity
and, where there are pairs, the minimal pairs unless tasks are named. The table, milestone_results.json and the curve
in the run's report.html come from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.console import say
from babyllama.common.errors import CheckpointError
from babyllama.common.files import write_json
from babyllama.config.run_layout import MILESTONE_RESULTS
from babyllama.pages.run_page import write_run_report
from babyllama.pages.terminal import print_milestones
from babyllama.research.milestones import saved_milestones

if TYPE_CHECKING:
    from evaluate import ModelEvaluator

FIGURES = ("perplexity", "bits_per_byte", "bits_per_byte_ci", "average_loss")


def score_milestones(
    run_dir: Path, evaluator_of: Callable[[Path], Any], tasks: Sequence[str] | None, output: str | None
) -> Path:
    """Score every milestone, print the table, write the results and the page.

    Args:
        run_dir: The run folder.
        evaluator_of: Maker of a folder's ModelEvaluator.
        tasks: Tasks of the evaluator; None: perplexity, and minimal pairs where there are some.
        output: A folder or *.json; None: the run folder.

    Returns:
        The results file.

    Raises:
        CheckpointError: The run has no milestones.
    """
    run_dir = run_dir.expanduser().resolve()
    milestones = saved_milestones(run_dir)
    if not milestones:
        raise CheckpointError(f"{run_dir}: no milestones (chck_*): train with --set training.save_words=[1M,2M]")
    rows: list[dict[str, Any]] = []
    header: dict[str, Any] = {}
    documents: Any = None
    # Each on the same text, read once.
    for folder, milestone in milestones:
        evaluator = evaluator_of(folder)
        if documents is not None:  # the same text for all, read once
            evaluator.documents = documents
        results = evaluator.run(tasks or _default_tasks(evaluator))
        documents = vars(evaluator).get("documents")
        header = {key: results[key] for key in ("command", "created", "versions", "window", "stride", "eval_data")}
        found = {key: results[key] for key in FIGURES if key in results}
        if "minimal_pairs" in results:
            keys = ("accuracy", "accuracy_ci", "num_pairs")
            pairs = results["minimal_pairs"].items()
            found["minimal_pairs"] = {name: {key: figures[key] for key in keys} for name, figures in pairs}
        others = {k: v for k, v in results.items() if k in (tasks or ()) and k not in found}
        rows.append({"name": milestone.name, "words": milestone.words, "step": milestone.step, **found, **others})
        say(_line(rows[-1]))
    # Results, table and page.
    target = run_dir / MILESTONE_RESULTS if output is None else Path(output).expanduser()
    target = target if target.suffix == ".json" else target / MILESTONE_RESULTS
    write_json(target, {"schema_version": 1, "run": str(run_dir), **header, "milestones": rows})
    print_milestones(rows)
    write_run_report(run_dir, target.parent, target)
    return target


def _default_tasks(evaluator: ModelEvaluator) -> list[str]:
    pairs = evaluator.options.minimal_pairs or evaluator.learned_embedded_corpus()
    return ["perplexity", "minimal_pairs"] if pairs else ["perplexity"]


def _line(row: dict[str, Any]) -> str:
    text = f"{row['name']}: {row['words']:,} words"
    if row.get("bits_per_byte") is not None:
        text += f", {row['bits_per_byte']:.4f} bits per byte"
    return text
