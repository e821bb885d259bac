"""Figures: SVG for the page, one PNG as a file; matplotlib without a screen, the same bytes each time."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.files import atomic_path
from babyllama.config.run_layout import EVALUATION_PLOTS
from babyllama.pages.fonts import use_fonts
from babyllama.pages.tables import largest_domains

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
WIDTH = 7.2  # inches; the page scales the SVG to its column


def pyplot() -> ModuleType:
    """matplotlib.pyplot, drawing to files, in our style."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "svg.hashsalt": "babyllama",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.axisbelow": True,
            "text.parse_math": False,  # names and samples are text, also where they hold a dollar sign
        }
    )
    return plt


def svg(figure: Figure) -> str:
    """Return the figure as an <svg> element without prologue, sized by the page."""
    use_fonts(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot().close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )


def points(log: Sequence[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """Return the log's values of two keys, from the entries that have both."""
    found = [(entry[x], entry[y]) for entry in log if entry.get(x) is not None and entry.get(y) is not None]
    return [a for a, _ in found], [b for _, b in found]


def short_count(value: float, _: int | None = None) -> str:
    """Return an axis's tick as 0, 500k, 2M."""
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"


def draw_loss(axes: Axes, log: Sequence[dict[str, Any]], best_step: int | None = None) -> None:
    """Training and held-out loss against tokens; the best point of the held-out curve marked."""
    axes.plot(*points(log, "tokens", "loss"), color=GREY, linewidth=0.9, label="training")
    tokens, losses = points(log, "tokens", "valid_loss")
    axes.plot(tokens, losses, color=BLUE, marker="o", markersize=3, label="held out")
    for entry in log:
        if best_step is not None and entry["step"] == best_step and "valid_loss" in entry:
            axes.plot(
                entry["tokens"],
                entry["valid_loss"],
                "o",
                color=ORANGE,
                markersize=7,
                label=f"best (step {best_step:,})",
            )
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_formatter(short_count)
    axes.legend(frameon=False)


def loss_curve(log: Sequence[dict[str, Any]], best_step: int | None = None) -> str:
    """Return SVG of the loss curve."""
    figure, axes = pyplot().subplots(figsize=(WIDTH, 3.4))
    draw_loss(axes, log, best_step)
    return svg(figure)


def words_curve(log: Sequence[dict[str, Any]], milestones: Sequence[dict[str, Any]]) -> str:
    """Return SVG of held-out bits per byte against words seen, with the milestones.

    Args:
        log: Log of the training, whose points are over packed chunks in the training's precision.
        milestones: `words`, and where they were scored `bits_per_byte` (over whole documents) and `bits_per_byte_ci`.
    """
    # The curve of the training, with a line at each milestone.
    figure, axes = pyplot().subplots(figsize=(WIDTH, 3.2))
    words, bits = points(log, "words", "valid_bits_per_byte")
    axes.plot(words, bits, color=BLUE, linewidth=1, marker="o", markersize=2.5, label="during training (chunks)")
    for milestone in milestones:
        axes.axvline(milestone["words"], color=GREY, linewidth=0.6, alpha=0.5)
    # The milestones' own scores with their intervals.
    scored = [row for row in milestones if row.get("bits_per_byte") is not None]
    if scored:
        heights = [row["bits_per_byte"] for row in scored]
        spread = [
            [abs(h - row["bits_per_byte_ci"][side]) for h, row in zip(heights, scored, strict=True)] for side in (0, 1)
        ]
        axes.errorbar(
            [row["words"] for row in scored],
            heights,
            spread,
            fmt="s",
            color=ORANGE,
            markersize=4,
            label="milestones (documents)",
        )
    axes.set_xlabel("words seen")
    axes.set_ylabel("held-out bits per byte")
    axes.xaxis.set_major_formatter(short_count)
    axes.legend(frameon=False)
    return svg(figure)


def pacing(curve: Sequence[dict[str, float]]) -> str:
    """SVG of a curriculum: share of the chunks that is in, and mean difficulty of the shown ones, against steps."""
    figure, columns = pyplot().subplots(1, 2, figsize=(WIDTH, 2.4))
    for axes, key, name in zip(
        columns,
        ("share", "difficulty"),
        ("share of the chunks that is in", "mean difficulty of what is shown"),
        strict=True,
    ):
        axes.plot(*points(curve, "step", key), color=BLUE, linewidth=1)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
    columns[0].set_ylim(0, 1.05)
    figure.tight_layout()
    return svg(figure)


def learning_rate_and_norm(log: Sequence[dict[str, Any]]) -> str:
    """Return SVG of learning rate, gradient norm and speed against steps, side by side."""
    figure, columns = pyplot().subplots(1, 3, figsize=(WIDTH, 2.1))
    for axes, key, name in zip(
        columns,
        ("learning_rate", "grad_norm", "tokens_per_second"),
        ("learning rate", "gradient norm", "tokens/s"),
        strict=True,
    ):
        axes.plot(*points(log, "step", key), color=BLUE, linewidth=0.9)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_ylim(bottom=0)
    figure.tight_layout()
    return svg(figure)


def draw_bars(
    axes: Axes, rows: Sequence[tuple[str, float, Sequence[float] | None]], label: str, chance: float | None
) -> None:
    """Horizontal points with intervals, one a row, the first on top."""
    places = list(range(len(rows)))[::-1]
    for place, (_, value, interval) in zip(places, rows, strict=True):
        if interval:
            axes.plot(interval, [place, place], color=GREY, linewidth=2, solid_capstyle="butt")
        axes.plot(value, place, "o", color=BLUE, markersize=5)
    if chance is not None:
        axes.axvline(chance, color=ORANGE, linewidth=1, linestyle="--")
        axes.text(chance, len(rows) - 0.35, "chance", color=ORANGE, fontsize=8, ha="center")
    axes.set_yticks(places, [name for name, _, _ in rows], fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)


def interval_chart(
    rows: Sequence[tuple[str, float, Sequence[float] | None]], label: str, chance: float | None = None
) -> str:
    """Return SVG of named values with their 95% intervals.

    Args:
        rows: (name, value, (low, high) or None).
        label: Label of the x axis, with its unit.
        chance: Draw a line at what guessing gives.
    """
    figure, axes = pyplot().subplots(figsize=(WIDTH, 0.9 + 0.24 * len(rows)))
    draw_bars(axes, rows, label, chance)
    return svg(figure)


def draw_calibration(axes: Axes, curve: Sequence[dict[str, float]]) -> None:
    """Accuracy against confidence; the diagonal is perfect calibration, a dot's area its share of tokens."""
    total = sum(point["count"] for point in curve)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    sizes = [12 + 300 * point["count"] / total for point in curve]
    axes.plot([p["confidence"] for p in curve], [p["accuracy"] for p in curve], color=BLUE, linewidth=1)
    axes.scatter([p["confidence"] for p in curve], [p["accuracy"] for p in curve], s=sizes, color=BLUE, alpha=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence (probability of the likeliest token)")
    axes.set_ylabel("share right")


def calibration(curve: Sequence[dict[str, float]]) -> str:
    """Return SVG of the reliability curve."""
    figure, axes = pyplot().subplots(figsize=(4.6, 3.6))
    draw_calibration(axes, curve)
    return svg(figure)


def domain_rows(results: dict[str, Any]) -> list[tuple[str, float, Sequence[float] | None]]:
    """Return the largest domains with bits per byte and interval, lowest first."""
    kept, _ = largest_domains(results.get("domains", {}))
    domains = [(n, f) for n, f in kept.items() if f.get("bits_per_byte") is not None]
    return [
        (n, f["bits_per_byte"], f.get("bits_per_byte_ci"))
        for n, f in sorted(domains, key=lambda d: d[1]["bits_per_byte"])
    ]


def paradigm_rows(figures: dict[str, Any]) -> list[tuple[str, float, Sequence[float] | None]]:
    """Paradigms with accuracy in per cent and interval, highest first."""
    ordered = sorted(figures["paradigms"].items(), key=lambda item: -item[1]["accuracy"])
    return [(n.replace("_", " "), 100 * f["accuracy"], [100 * b for b in f["accuracy_ci"]]) for n, f in ordered]


def write_evaluation_plots(results: dict[str, Any], output_dir: Path, log: Sequence[dict[str, Any]] = ()) -> Path:
    """evaluation_plots.png: loss curve, domains, paradigms and calibration, those that there are.

    Returns:
        The file.
    """
    plt = pyplot()
    # What there is to draw.
    jobs: list[Any] = []
    if log:
        jobs.append(("training", lambda axes: draw_loss(axes, log)))
    rows = domain_rows(results)
    if rows:
        jobs.append(("held-out text", lambda axes: draw_bars(axes, rows, "bits per byte", None)))
    for name, figures in results.get("minimal_pairs", {}).items():
        shown = paradigm_rows(figures)[:20]
        chance = 100 * figures.get("chance", 0.5)
        jobs.append((f"minimal pairs: {name}", lambda axes, s=shown, c=chance: draw_bars(axes, s, "% right", c)))
    curve = results.get("token_statistics", {}).get("calibration")
    if curve:
        jobs.append(("calibration", lambda axes: draw_calibration(axes, curve)))
    # Two in a row; a place that stays empty shows nothing.
    height = max(1, (len(jobs) + 1) // 2)
    figure, grid = plt.subplots(height, 2, figsize=(12, 4.2 * height), squeeze=False)
    for axes, job in zip(grid.flat, [*jobs, *[None] * (2 * height - len(jobs))], strict=True):
        if job is None:
            axes.axis("off")
        else:
            axes.set_title(job[0])
            job[1](axes)
    use_fonts(figure)
    figure.tight_layout()
    target = output_dir / EVALUATION_PLOTS
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return target
