"""The loss curve of a training that is going on, as SVG made of strings.

matplotlib takes 0.41 s of processor time to import and 0.06 s a figure; the page of a running training may cost 1% of
its time, which for 20 points in four minutes is 0.12 s a point, samples included. So the few lines that a curve needs
are drawn here (0.3 ms), in the colours of figures.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from babyllama.pages.figures import BLUE, GREY, ORANGE, points, short_count

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 14, 44  # room for numbers and names around the plot
MOST_POINTS = 400  # of a line; more than the plot has columns to show them


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between two values, their distance 1, 2 or 5 times a power of ten.

    >>> ticks(0, 10), ticks(3.1, 4.4)
    ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [3.2, 3.4, 3.6, 3.8, 4.0, 4.2, 4.4])
    """
    raw = (high - low) / about
    if not math.isfinite(raw) or raw <= 0:
        return [low]
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def light_loss_curve(log: Sequence[dict[str, Any]], best_step: int | None = None) -> str:
    """Return SVG of training and held-out loss against tokens seen; an empty text before there are two points.

    Args:
        log: Entries of log_history.jsonl.
        best_step: Step of the best point of the held-out curve, which is marked.
    """
    trained, held_out = points(log, "tokens", "loss"), points(log, "tokens", "valid_loss")
    xs, ys = trained[0] + held_out[0], trained[1] + held_out[1]
    if len(ys) < 2 or not all(map(math.isfinite, ys)):
        return ""
    far, low, high = max(xs) or 1.0, min(ys), max(ys)
    margin = 0.04 * max(high - low, 1e-3)
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / far
        return round(across, 1), round(TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low), 1)

    # Frame: numbers with their lines, and the names of the axes.
    parts = [f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss against tokens seen">']
    bottom = HEIGHT - BOTTOM
    for y in ticks(low, high):
        across, down = LEFT, place(0, y)[1]
        parts.append(f'<path d="M{across} {down}H{WIDTH - RIGHT}" stroke="#e4e8ed"/>')
        parts.append(f'<text x="{across - 6}" y="{down + 4}" text-anchor="end">{y:g}</text>')
    for x in ticks(0, far):
        across = place(x, low)[0]
        parts.append(f'<text x="{across}" y="{bottom + 18}" text-anchor="middle">{short_count(x)}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}" stroke="#99a1ab" fill="none"/>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">tokens seen</text>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle">loss</text>')

    # Lines: training thin and grey, held out with its points, the best of them marked.
    for (line_x, line_y), colour, width in ((trained, GREY, 1), (held_out, BLUE, 2)):
        every = -(-len(line_x) // MOST_POINTS) or 1
        kept = sorted({*range(0, len(line_x), every), len(line_x) - 1} - {-1})
        path = " ".join(f"{a},{b}" for a, b in (place(line_x[n], line_y[n]) for n in kept))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
    for entry in log:
        if entry.get("valid_loss") is not None:
            across, down = place(entry["tokens"], entry["valid_loss"])
            best = entry["step"] == best_step
            radius, fill = (5, ORANGE) if best else (2.5, BLUE)
            parts.append(f'<circle cx="{across}" cy="{down}" r="{radius}" fill="{fill}"/>')
    return "".join([*parts, _legend(best_step), "</svg>"])


def _legend(best_step: int | None) -> str:
    names = [("training", GREY), ("held out", BLUE)]
    names += [(f"best (step {best_step:,})", ORANGE)] if best_step is not None else []
    rows = (
        f'<path d="M{WIDTH - 150} {TOP + 8 + 18 * row}h18" stroke="{colour}" stroke-width="3"/>'
        f'<text x="{WIDTH - 126}" y="{TOP + 12 + 18 * row}">{name}</text>'
        for row, (name, colour) in enumerate(names)
    )
    return "".join(rows)
