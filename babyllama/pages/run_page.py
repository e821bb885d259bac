"""report.html: one page a run, without any outside resource, that a newcomer understands and a reviewer can check.

Made from the files of a run folder, each of which may be absent: training_metrics.json, log_history.jsonl,
training_config.yaml, evaluation_results.json, curriculum.json, milestone_results.json, chck_*/milestone.json,
samples_during_training.jsonl. While a run trains, live_page.py writes the same page from what is known by then.
Everything that comes from text, names or samples is escaped by jinja2.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.console import printable
from babyllama.common.files import read_json, write_text_atomic
from babyllama.common.units import human_bytes, human_count, human_seconds
from babyllama.config.run_layout import (
    BABYLM_RESULTS,
    CURRICULUM,
    EVALUATION_RESULTS,
    LIVE_SAMPLES,
    MILESTONE_RESULTS,
    REPORT,
    TRAINING_CONFIG,
    TRAINING_LOG,
    TRAINING_METRICS,
)
from babyllama.pages import figures as plots
from babyllama.pages.babylm_tables import babylm_tables
from babyllama.pages.model_card import origin_of
from babyllama.pages.tables import largest_amounts, largest_domains

if TYPE_CHECKING:
    from jinja2 import Environment

    from babyllama.pages.live_page import Live


def _load(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of log_history.jsonl; a last line cut by a kill is left out."""
    entries = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
    return entries


def write_run_report(run_dir: Path, output_dir: Path | None = None, milestone_results: Path | None = None) -> Path:
    """Write the page of a run folder from the files in it.

    Args:
        run_dir: The run.
        output_dir: Where the page goes; None: into the run folder.
        milestone_results: Scores of its milestones that lie elsewhere.

    Returns:
        The page's path.
    """
    results = _load(run_dir / EVALUATION_RESULTS)
    return _write(results, output_dir or run_dir, run_dir, milestone_results)


def write_evaluation_report(results: dict[str, Any], output_dir: Path, run_dir: Path | None) -> Path:
    """Write the page and evaluation_plots.png of an evaluation.

    Args:
        results: Result of `ModelEvaluator.run`.
        output_dir: Where they go.
        run_dir: The run that was scored: its curve and facts are shown too; None or a foreign folder: left out.
    """
    log = read_log(run_dir / TRAINING_LOG) if run_dir else []
    plots.write_evaluation_plots(results, output_dir, log)
    return _write(results, output_dir, run_dir)


def _write(
    results: dict[str, Any], output_dir: Path, run_dir: Path | None, milestone_results: Path | None = None
) -> Path:
    metrics = _load(run_dir / TRAINING_METRICS) if run_dir else {}
    log = read_log(run_dir / TRAINING_LOG) if run_dir else []
    config = run_dir / TRAINING_CONFIG if run_dir else None
    text = config.read_text(encoding="utf-8") if config is not None and config.is_file() else ""
    page = render(results, metrics, log, text, learning(run_dir, milestone_results))
    write_text_atomic(output_dir / REPORT, page)
    return output_dir / REPORT


def _begin(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


@cache
def page_templates() -> Environment:
    """The pages' templates: whatever comes from text, names or samples is escaped, a missing value is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("babyllama.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amounts_by_domain": largest_amounts}
    environment.filters |= {"count": human_count, "seconds": human_seconds, "bytes": human_bytes, "begin": _begin}
    return environment


def learning(run_dir: Path | None, milestone_results: Path | None = None) -> dict[str, Any]:
    """Return what a run folder tells of how it was trained: `curriculum`, `milestones`, `babylm`, `written`."""
    if run_dir is None:
        return {}
    saved = {path.parent.name: read_json(path) for path in run_dir.glob("chck_*/milestone.json")}
    scored = _load(milestone_results or run_dir / MILESTONE_RESULTS).get("milestones", [])
    scores = {row["name"]: row for row in scored}
    rows = [{**facts, **scores.get(name, {})} for name, facts in saved.items()]
    return {
        "curriculum": _load(run_dir / CURRICULUM),
        "milestones": sorted(rows, key=lambda row: row["words"]),
        "babylm": _load(run_dir / BABYLM_RESULTS),
        "written": read_log(run_dir / LIVE_SAMPLES),
    }


def render(
    results: dict[str, Any],
    metrics: dict[str, Any],
    log: list[dict[str, Any]],
    config: str,
    learned: dict[str, Any] | None = None,
    *,
    live: Live | None = None,
    drawn: dict[str, str] | None = None,
) -> str:
    """Return the page as text.

    Args:
        results: Result of `ModelEvaluator.run`, or nothing.
        metrics: training_metrics.json, or nothing.
        log: Entries of log_history.jsonl, which figures are drawn from.
        config: training_config.yaml as text.
        learned: Result of `learning`.
        live: State of a training that goes on or has just ended; None: the final page.
        drawn: SVG by name of figures that are drawn already; None: they are drawn here.
    """
    from markupsafe import Markup

    # What stands at the page's head.
    figures = run_figures(results, metrics, log, learned or {}) if drawn is None else drawn
    babylm = results.get("babylm") or (learned or {}).get("babylm")
    name = live.name if live else metrics.get("name") or Path(results.get("checkpoint", "run")).name
    page = (
        page_templates()
        .get_template("report.html.j2")
        .render(
            name=name,
            results=results,
            metrics=metrics,
            tiles=live.tiles if live and not metrics else tiles(results, metrics),
            origin=_origin(metrics),
            domains=largest_domains(results.get("domains") or {}),
            overfit=overfitting_note(metrics),
            live=live,
            clock=live.clock() if live else {},
            # Figures are ours; everything else is escaped by the template.
            figures={key: Markup(svg) for key, svg in figures.items()},
            learned=learned or {},
            babylm=babylm_tables(babylm) if babylm else [],
            pairs=results.get("minimal_pairs", {}),
            samples=results.get("generation", {}).get("samples", []),
            extra={k: v for k, v in results.items() if isinstance(v, dict) and k not in KNOWN},
            config=config,
            language=language_tag(metrics),
            versions=results.get("versions") or metrics.get("versions") or {},
        )
    )
    return printable(page)  # names of files and paradigms may hold control codes, too


def _origin(metrics: dict[str, Any]) -> str:
    """Where a run's weights come from, by its ledger."""
    ledger = metrics.get("ledger") or {}
    start = (ledger.get("init_from") or {}).get("path")
    return origin_of(start, [teacher["path"] for teacher in ledger.get("teachers") or []])


KNOWN = {
    "babylm",
    "domains",
    "isolated_domains",
    "measured",
    "minimal_pairs",
    "generation",
    "token_statistics",
    "completion",
    "speed",
    "versions",
}


def held_out(results: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the held-out figures: of the evaluation, else those of the training."""
    if results.get("bits_per_byte") is not None:
        return results
    if metrics.get("eval_bits_per_byte") is None:
        return {}
    names = {
        "bits_per_byte": "eval_bits_per_byte",
        "bits_per_byte_ci": "eval_bits_per_byte_ci",
        "perplexity": "eval_perplexity",
    }
    return {key: metrics.get(name) for key, name in names.items()} | {"domains": metrics.get("eval_domains") or {}}


def tiles(results: dict[str, Any], metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the key figures: (name, value, what it is)."""
    found: list[tuple[str, str, str]] = []
    # The score on held-out text, and the floor where it is known.
    score = held_out(results, metrics)
    if score:
        interval = score.get("bits_per_byte_ci")
        spread = f"95% interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        found.append(("bits per byte", f"{score['bits_per_byte']:.3f}", spread))
        found.append(("perplexity", f"{score['perplexity']:,.2f}", "per token of this tokenizer"))
        source = metrics.get("source_bits_per_byte") if "source_bits_per_byte" in results or not results else None
        if source:
            above = 100 * (score["bits_per_byte"] / source - 1)
            found.append(("above the floor", f"{above:.1f}%", f"the text's exact entropy is {source:.3f}"))
    # Averages of the weights and minimal pairs.
    for average in metrics.get("averages") or []:
        kept = "this average of the weights is the model" if average["kept"] else "bits per byte of this average"
        found.append((average["name"], f"{average['eval_bits_per_byte']:.3f}", kept))
    for folder, figures_ in results.get("minimal_pairs", {}).items():
        found.append(
            (f"minimal pairs ({folder})", f"{100 * figures_['accuracy']:.1f}%", f"{figures_['num_pairs']:,} pairs")
        )
    # Size and cost of the training.
    if metrics:
        found.append(("parameters", human_count(metrics["num_parameters"]), f"{metrics['num_parameters']:,}"))
        found.append(
            ("trained on", f"{human_count(metrics['train_words'])} words", f"{metrics['train_tokens']:,} tokens")
        )
        speed = metrics.get("tokens_per_second")
        found.append(
            ("training time", human_seconds(metrics["train_seconds"]), f"{speed:,.0f} tokens/s" if speed else "")
        )
    elif results.get("num_parameters"):
        found.append(("parameters", human_count(results["num_parameters"]), f"{results['num_parameters']:,}"))
    return found


def language_tag(metrics: dict[str, Any]) -> str:
    """Return the language of most of the training text as HTML's `lang` has it (`zh-Hans`); empty where not known.

    Browsers choose the shapes of Han characters by it.
    """
    contents = ((metrics.get("ledger") or {}).get("content") or {}).values()
    largest = max(contents, key=lambda row: row["bytes"], default={})
    if largest.get("language", "und") == "und":
        return ""
    return "-".join(filter(None, [largest["language"], largest.get("script")]))


def overfitting_note(metrics: dict[str, Any]) -> str:
    """Return a sentence where the held-out curve was clearly better before the end, else nothing."""
    best, last = metrics.get("best_step"), metrics.get("global_step")
    if not best or not last or best > 0.9 * last:
        return ""
    kept = "its weights were kept" if metrics.get("kept") == "best" else "training.keep: best would keep its weights"
    return f"The held-out loss was lowest at step {best:,} of {last:,}: then the model learned by heart ({kept})."


def run_figures(
    results: dict[str, Any], metrics: dict[str, Any], log: list[dict[str, Any]], learned: dict[str, Any]
) -> dict[str, str]:
    """Return SVG by name, those that there is data for."""
    found: dict[str, str] = {}
    if learned.get("milestones"):
        found["words"] = plots.words_curve(log, learned["milestones"])
    if learned.get("curriculum"):
        found["pacing"] = plots.pacing(learned["curriculum"]["curve"])
    if any("loss" in entry for entry in log):
        found["loss"] = plots.loss_curve(log, metrics.get("best_step"))
        found["rates"] = plots.learning_rate_and_norm(log)
    rows = plots.domain_rows(held_out(results, metrics))
    if rows:
        found["domains"] = plots.interval_chart(rows, "bits per byte (lower is better)")
    for folder, pairs in results.get("minimal_pairs", {}).items():
        found[f"pairs:{folder}"] = plots.interval_chart(
            plots.paradigm_rows(pairs), "% right", chance=100 * pairs.get("chance", 0.5)
        )
    curve = results.get("token_statistics", {}).get("calibration")
    if curve:
        found["calibration"] = plots.calibration(curve)
    return found
