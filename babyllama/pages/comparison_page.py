"""benchmark_comparison.html: one self-contained page that says which run is better, and when nobody can say.

Made from benchmark_results.json alone; names and samples are escaped by jinja2, as in `report`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babyllama.common.console import printable
from babyllama.common.files import write_text_atomic
from babyllama.pages import comparison_figures as plots
from babyllama.pages.comparison_tables import comparison_table, cost_table, quality_table, ranking_table, speed_table
from babyllama.pages.run_page import page_templates

SAMPLES_SHOWN = 3


def write_comparison(results: dict[str, Any], path: Path) -> Path:
    """Write the page.

    Args:
        results: Result of `BenchmarkSuite.results`.
        path: The file.

    Returns:
        The file.
    """
    write_text_atomic(path, render(results))
    return path


def render(results: dict[str, Any]) -> str:
    """Return the page as text."""
    from markupsafe import Markup

    # Figures are ours; everything else is escaped by the template.
    figures = {key: Markup(svg) for key, svg in _figures(results).items() if svg}
    page = (
        page_templates()
        .get_template("benchmark.html.j2")
        .render(
            results=results,
            verdicts=verdicts(results),
            rankings=[(metric, ranking_table(metric)) for metric in results["metrics"]],
            quality=quality_table(results),
            comparisons=comparison_table(results),
            cost=cost_table(results),
            speed=speed_table(results),
            figures=figures,
            own_benchmarks=own_benchmarks(results),
            samples=_samples(results),
            # What the page has to say of how it was measured.
            windows=sorted({run["window"] for run in results["runs"].values()}),
            tokenizers=len({run["tokenizer"] for run in results["runs"].values()}),
            effects=list(dict.fromkeys(entry["effect"] for entry in results["comparisons"])),
            one_seed=any(entry["note"].startswith("one seed") for entry in results["comparisons"]),
            smallest=min(
                (e["smallest_permutation_p"] for e in results["comparisons"] if "permutation_p" in e), default=None
            ),
        )
    )
    return printable(page)


def _figures(results: dict[str, Any]) -> dict[str, str | None]:
    runs = results["runs"]
    sets = dict.fromkeys(name for run in runs.values() for name in run["benchmarks"].get("minimal_pairs") or {})
    found = {"curves": plots.learning_curves(runs), "pareto": plots.pareto(runs)}
    found |= {f"pairs:{name}": plots.paradigm_heat_map(runs, name) for name in sets}
    for metric in results["metrics"]:
        entries = [entry for entry in results["comparisons"] if entry["metric"] == metric["name"]]
        found[f"difference:{metric['name']}"] = plots.interval_figure(
            entries, 1 if metric["name"].endswith("bits_per_byte") else 100
        )
    return found


def verdicts(results: dict[str, Any]) -> list[str]:
    """Return one sentence a metric: who is best, and whether that holds against everyone."""
    found = []
    for metric in results["metrics"]:
        rows = metric["ranking"]
        if len(rows) < 2:
            continue
        first, rest = rows[0], [row["name"] for row in rows[1:]]
        open_ones = [name for name in rest if name not in first["better_than"]]
        if len({row["value"] for row in rows}) == 1:
            text = "all have the same score"
        elif not open_ones:
            text = f"{first['name']} is better than {_all_of(rest)}"
        elif len(open_ones) == len(rest):
            text = f"no run or recipe is shown to be best; {first['name']} has the best score"
            if len(rest) == 1:
                text = f"{first['name']} and {rest[0]} are not told apart"
        else:
            text = f"{first['name']} has the best score and is not told apart from {', '.join(open_ones)}"
        found.append(f"{metric['label'][0].upper()}{metric['label'][1:]}: {text}.")
    return found


def _all_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"all {len(names)} others"


def own_benchmarks(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return figures of benchmarks that subclasses and plugins added: benchmark -> run -> figures."""
    ours = {"perplexity", "isolated_sentences", "minimal_pairs", "completion", "consistency", "repetition", "speed"}
    names = dict.fromkeys(n for run in results["runs"].values() for n in run["benchmarks"] if n not in ours)
    return {name: {run: facts["benchmarks"].get(name) for run, facts in results["runs"].items()} for name in names}


def _samples(results: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    found = {n: (run["benchmarks"].get("repetition") or {}).get("samples", []) for n, run in results["runs"].items()}
    return {name: samples[:SAMPLES_SHOWN] for name, samples in found.items() if samples}
