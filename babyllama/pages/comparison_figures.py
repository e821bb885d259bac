"""Figures of a comparison: scores with what they are better than, learning curves, cost against quality, paradigms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from babyllama.pages.figures import GREY, ORANGE, WIDTH, points, pyplot, short_count, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's eight, black and yellow last; lines beyond eight repeat them with another dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
DASHES = ("-", "--", ":", "-.")
PARADIGMS_WITH_NUMBERS = 8  # runs up to which a heat map's cells have room for their number


def style_of(number: int) -> dict[str, Any]:
    """Colour and dash of the n-th run, the same in all figures."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}


def learning_curves(runs: dict[str, Any]) -> str | None:
    """Return SVG of all runs' held-out curves against tokens and against seconds; None where no run has a log."""
    drawn = {name: run["log"] for name, run in runs.items() if run["log"]}
    if not drawn:
        return None
    figure, columns = pyplot().subplots(1, 2, figsize=(WIDTH * 1.25, 3.3), sharey=True)
    order = list(runs)
    for axes, key, label in zip(columns, ("tokens", "seconds"), ("tokens seen", "seconds of training"), strict=True):
        for name, log in drawn.items():
            x, y = points(log, key, "valid_bits_per_byte")
            marker = "o" if len(x) == 1 else None  # a line through one point is nothing to see
            axes.plot(x, y, **style_of(order.index(name)), linewidth=1.4, label=name, marker=marker)
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=5)
    columns[0].xaxis.set_major_formatter(short_count)
    columns[0].set_ylabel("held-out bits per byte")
    _legend_below(figure, columns[0], len(drawn))
    return svg(figure)


def _legend_below(figure: Figure, axes: Axes, count: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(count, 90 // max(8, 6 + max(map(len, labels)))))
    figure.tight_layout()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=columns, frameon=False)


def quality_of(run: dict[str, Any]) -> tuple[str, float, bool] | None:
    """(label, value, higher is better) of a run's main figure: bits per byte, else its first minimal pairs."""
    text = run["benchmarks"].get("perplexity") or {}
    if text.get("bits_per_byte") is not None:
        return "bits per byte", text["bits_per_byte"], False
    for name, pairs in (run["benchmarks"].get("minimal_pairs") or {}).items():
        return f"{name}, % right", 100 * pairs["accuracy"], True
    return None


def pareto_front(costs: Sequence[float], values: Sequence[float], higher_is_better: bool) -> list[int]:
    """Return indices of the points that no other beats in both, from the cheapest on.

    >>> pareto_front([1, 2, 3], [5.0, 6.0, 4.0], higher_is_better=False)
    [0, 2]
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i] if higher_is_better else values[i]))
    front: list[int] = []
    for index in order:
        better = not front or (
            values[index] > values[front[-1]] if higher_is_better else values[index] < values[front[-1]]
        )
        if better:
            front.append(index)
    return front


def pareto(runs: dict[str, Any]) -> str | None:
    """Return SVG of quality against parameters, training time and writing time; None below two runs with a quality."""
    quality = {name: found for name, run in runs.items() if (found := quality_of(run))}
    if len(quality) < 2 or len({label for label, _, _ in quality.values()}) > 1:
        return None
    panels = [
        ("parameters", {name: run["num_parameters"] for name, run in runs.items()}),
        ("seconds of training", {name: run["cost"].get("train_seconds") for name, run in runs.items()}),
        ("seconds to write 1,000 tokens", {name: _writing_time(run) for name, run in runs.items()}),
    ]
    panels = [(label, values) for label, values in panels if sum(values[n] is not None for n in quality) > 1]
    figure, grid = pyplot().subplots(1, len(panels), figsize=(WIDTH * 1.25, 3.1), sharey=True, squeeze=False)
    order = list(runs)
    for axes, (label, costs) in zip(grid[0], panels, strict=True):
        names = [name for name in quality if costs[name] is not None]
        _pareto_panel(axes, names, [costs[n] for n in names], [quality[n] for n in names], order)
        axes.set_xlabel(label)
    grid[0][0].set_ylabel(next(iter(quality.values()))[0])
    _legend_below(figure, grid[0][0], len(quality))
    return svg(figure)


def _writing_time(run: dict[str, Any]) -> float | None:
    rate = (run["benchmarks"].get("speed") or {}).get("batch_1_tokens_per_second")
    return 1000 / rate if rate else None


def _pareto_panel(axes: Axes, names: list[str], costs: list[float], quality: list[Any], order: list[str]) -> None:
    values = [value for _, value, _ in quality]
    front = pareto_front(costs, values, quality[0][2])
    axes.plot([costs[i] for i in front], [values[i] for i in front], color=GREY, linewidth=1, linestyle=":")
    for name, cost, value in zip(names, costs, values, strict=True):
        axes.plot(cost, value, "o", color=style_of(order.index(name))["color"], markersize=7, label=name)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(short_count if max(costs) >= 1000 else lambda v, _: f"{v:g}")
    axes.margins(0.15)


def paradigm_heat_map(runs: dict[str, Any], name: str) -> str | None:
    """Return SVG of accuracy by paradigm (rows) and run (columns) on one set of pairs, easiest paradigm on top."""
    found = {
        run_name: pairs[name]["paradigms"]
        for run_name, run in runs.items()
        if name in (pairs := run["benchmarks"].get("minimal_pairs") or {})
    }
    if not found:
        return None
    # Rows by mean accuracy.
    paradigms = sorted(
        {p for figures in found.values() for p in figures},
        key=lambda p: -sum(figures.get(p, {}).get("accuracy", 0) for figures in found.values()),
    )
    rows = [[100 * f[p]["accuracy"] if p in f else float("nan") for f in found.values()] for p in paradigms]
    height = 1.4 + 0.21 * len(paradigms)
    # The map, with figures in its cells where there is room.
    figure, axes = pyplot().subplots(figsize=(3.6 + 0.75 * len(found), height))
    image = axes.imshow(rows, cmap="RdBu", vmin=0, vmax=100, aspect="auto")  # white at chance, 50
    axes.set_xticks(range(len(found)), list(found), rotation=35, ha="left", fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(paradigms)), [p.replace("_", " ") for p in paradigms], fontsize=7)
    axes.grid(visible=False)
    if len(found) <= PARADIGMS_WITH_NUMBERS:
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                colour = "white" if abs(value - 50) > 32 else "black"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
    figure.colorbar(image, ax=axes, label="% right (chance 50)", shrink=min(1.0, 3 / height), aspect=12)
    return svg(figure)


def interval_figure(comparisons: Sequence[dict[str, Any]], scale: float) -> str | None:
    """Return SVG of one metric's differences with their 95% intervals; those that hold in colour."""
    if not comparisons:
        return None
    figure, axes = pyplot().subplots(figsize=(WIDTH, 0.8 + 0.28 * len(comparisons)))
    for place, entry in enumerate(reversed(comparisons)):
        colour = COLOURS[0] if entry["holds"] else GREY
        axes.plot([scale * entry["low"], scale * entry["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(scale * entry["difference"], place, "o", color=colour, markersize=5)
    axes.axvline(0, color=ORANGE, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(comparisons)), [f"{e['a']} − {e['b']}" for e in reversed(comparisons)], fontsize=8)
    axes.set_ylim(-0.6, len(comparisons) - 0.4)
    axes.grid(axis="y", visible=False)
    return svg(figure)
