"""The page of a run while it trains: run_page.py's template with a head that says how far it is.

A page on the disk (file://) may not read other files, so the page loads itself again as a whole, in the place where the
reader was, as long as there is news to expect. A page that was not rewritten for long says since when: its process was
killed, the machine sleeps, or a point of the curve takes longer than the ones before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babyllama.common.files import read_json, write_text_atomic
from babyllama.config.run_layout import REPORT, TRAINING_CONFIG, TRAINING_METRICS
from babyllama.pages.light_curve import light_loss_curve
from babyllama.pages.run_page import learning, render

HEADLINES = {
    "running": "Training",
    "scoring": "Trained to the end; the held-out text is being scored",
    "stopped": "Stopped",
    "failed": "Ended by an error",
    "finished": "",
}
SILENT, SILENT_AT_FIRST = 60, 900  # seconds without news before the page says so; compiling and timing come first
FOLLOWED = 600  # seconds for which a finished training's page is loaded again: an evaluation may follow


@dataclass(frozen=True)
class Live:
    """What is known of a training that goes on, or has just ended.

    Attributes:
        name: Name of the run.
        stage: running, scoring, stopped, failed or finished.
        message: What ended it, where it did not end well.
        parameters: Number of parameters.
        text: `data.train_path`.
        share: Share of the steps that is done.
        seconds_to_next: Seconds between points of the held-out curve; None before steps were timed.
        best_step: Step of the best point of the held-out curve.
        tiles: Key figures: (name, value, what it is).
        notes: Sentences about what the run decided, e.g. that it ends early.
    """

    name: str
    stage: str
    message: str
    parameters: int
    text: str
    share: float
    seconds_to_next: float | None
    best_step: int | None
    tiles: Sequence[tuple[str, str, str]]
    notes: Sequence[str] = ()

    def clock(self) -> dict[str, Any]:
        """Return what the page's script goes by: when it was written, how often it is loaded, when it is silent."""
        next_point = self.seconds_to_next
        ended = self.stage in {"stopped", "failed", "finished"}
        return {
            "written": round(time.time(), 1),
            "written_text": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "every": 10 if next_point is None else round(min(max(next_point / 4, 3), 20)),
            "silent": SILENT_AT_FIRST if next_point is None else round(max(SILENT, 3 * next_point)),
            "ended": ended,
            "until": FOLLOWED if ended else None,
            "headline": HEADLINES[self.stage],
        }


def write_live_page(run_dir: Path, live: Live, log: Sequence[dict[str, Any]]) -> Path:
    """Write report.html of a run that trains, or has just ended.

    Args:
        run_dir: Run folder.
        live: State of the training.
        log: Entries of log_history.jsonl so far.

    Returns:
        The page's path.
    """
    finished = live.stage == "finished"
    metrics = read_json(run_dir / TRAINING_METRICS) if finished else {}
    config = run_dir / TRAINING_CONFIG
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    curve = light_loss_curve(log, live.best_step)
    page = render({}, metrics, [], text, learning(run_dir), live=live, drawn={"loss": curve} if curve else {})
    write_text_atomic(run_dir / REPORT, page)
    return run_dir / REPORT
