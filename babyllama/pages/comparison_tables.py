"""The tables of a comparison: quality, cost and speed, each apart, as text, Markdown, CSV or LaTeX.

They are made from benchmark_results.json alone. What was not measured is a dash; why stands in the notes.
"""

from __future__ import annotations

from typing import Any

from babyllama.common.units import human_bytes, human_count, human_seconds
from babyllama.pages.tables import DASH, TableData


def _number(value: float | None, pattern: str) -> str:
    return DASH if value is None else pattern.format(value)


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.2f}"


def quality_table(results: dict[str, Any]) -> TableData:
    """Return perplexity, bits per byte, minimal pairs, completion, diversity of each run."""
    runs = results["runs"]
    # Which columns there are; perplexities compare only under one tokenizer.
    sets = list(dict.fromkeys(name for run in runs.values() for name in run["benchmarks"].get("minimal_pairs") or {}))
    same = len({run["tokenizer"] for run in runs.values()}) == 1
    # A row a run.
    rows = []
    for name, run in runs.items():
        found = run["benchmarks"]
        text, generation = found.get("perplexity") or {}, found.get("repetition") or {}
        rows.append(
            (
                name,
                _number(text.get("bits_per_byte"), "{:.4f}"),
                *([_number(text.get("perplexity"), "{:,.2f}")] if same else []),
                *[_percent(((found.get("minimal_pairs") or {}).get(s) or {}).get("accuracy")) for s in sets],
                _percent((found.get("completion") or {}).get("accuracy")),
                _number((found.get("consistency") or {}).get("consistency"), "{:.3f}"),
                _number(generation.get("distinct_2"), "{:.3f}"),
                _number(generation.get("repetition"), "{:.3f}"),
            )
        )
    head = ("run", "bits per byte", *(["perplexity"] if same else []), *[f"{s}, % right" for s in sets])
    return TableData("Quality", (*head, "completion, %", "consistency", "distinct-2", "repetition"), tuple(rows))


def cost_table(results: dict[str, Any]) -> TableData:
    """Return what each run took to train, from its training_metrics.json."""
    rows = []
    for name, run in results["runs"].items():
        cost = run["cost"]
        rows.append(
            (
                name,
                human_count(run["num_parameters"]),
                DASH if cost.get("train_seconds") is None else human_seconds(cost["train_seconds"]),
                _number(cost.get("tokens_per_second"), "{:,.0f}"),
                DASH if cost.get("peak_memory_bytes") is None else human_bytes(cost["peak_memory_bytes"]),
                DASH if cost.get("train_tokens") is None else human_count(cost["train_tokens"]),
                DASH if cost.get("train_words") is None else human_count(cost["train_words"]),
            )
        )
    head = ("run", "parameters", "training", "tokens/s", "peak memory", "tokens seen", "words seen")
    return TableData("Cost of training", head, tuple(rows))


def speed_table(results: dict[str, Any]) -> TableData | None:
    """Return tokens a second that each run writes; None where it was not measured."""
    runs = {name: run["benchmarks"].get("speed") or {} for name, run in results["runs"].items()}
    keys = list(dict.fromkeys(key for speed in runs.values() for key in speed if key.endswith("tokens_per_second")))
    if not keys:
        return None
    rows = tuple((name, *[_number(speed.get(key), "{:,.0f}") for key in keys]) for name, speed in runs.items())
    sizes = [key.removeprefix("batch_").removesuffix("_tokens_per_second") for key in keys]
    return TableData("Writing speed, tokens/s", ("run", *[f"batch {size}" for size in sizes]), rows)


def comparison_table(results: dict[str, Any]) -> TableData | None:
    """Differences that were tested; None where there was nothing to compare."""
    rows = []
    for entry in results["comparisons"]:
        scale, digits = (1, 4) if entry["metric"].endswith("bits_per_byte") else (100, 2)
        rows.append(
            (
                entry["label"] + ("" if scale == 1 else ", %"),
                f"{entry['a']} − {entry['b']}",
                f"{scale * entry['difference']:+.{digits}f}",
                f"{scale * entry['low']:+.{digits}f} to {scale * entry['high']:+.{digits}f}",
                _p(entry["p_corrected"]),
                entry["better"] or "not told apart",
            )
        )
    head = ("metric", "difference", "value", "95% interval", "p (Holm)", "better")
    return TableData("Differences", head, tuple(rows)) if rows else None


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def ranking_table(metric: dict[str, Any]) -> TableData:
    """Contestants of one metric from best to worst, with what they are better than."""
    percent = not metric["name"].endswith("bits_per_byte")
    rows = []
    for place, row in enumerate(metric["ranking"], start=1):
        value = f"{100 * row['value']:.2f}%" if percent else f"{row['value']:.4f}"
        spread = ""
        if row["sd"] is not None:
            spread = f" ± {100 * row['sd']:.2f}" if percent else f" ± {row['sd']:.4f}"
        rows.append((str(place), row["name"], value + spread, str(row["seeds"]), ", ".join(row["better_than"]) or DASH))
    return TableData(
        metric["label"], ("", "run or recipe", "score (± sd of seeds)", "seeds", "better than"), tuple(rows)
    )


def all_tables(results: dict[str, Any]) -> list[TableData]:
    """Return every table, in reading order."""
    found = [quality_table(results), *[ranking_table(metric) for metric in results["metrics"]]]
    found += [comparison_table(results), cost_table(results), speed_table(results)]
    return [table for table in found if table is not None]
