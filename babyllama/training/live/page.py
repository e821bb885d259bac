"""report.html while a training goes on: rewritten at points of the held-out curve, final when the run is.

The page is one file that a browser reads from the disk: it says how far the run is, draws the curve, shows what the
model writes at this moment, and loads itself again as long as the run goes on. It is written whole or not at all, so
after a kill -9 the last one stands there and says since when there was no news; a resume goes on with it.

Its updates may cost 1% of the training's time, and keep to that by themselves: what would exceed it is left out
(first the updates at log lines, then the samples, then the page of a point). What an update takes is measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common.console import say, warn
from babyllama.common.errors import Interrupted
from babyllama.common.files import to_json, write_text_atomic
from babyllama.common.units import human_count, human_seconds
from babyllama.config.run_layout import LIVE_SAMPLES, REPORT
from babyllama.models.fsdp import is_sharded
from babyllama.models.shared_layers import saved_parameters
from babyllama.pages.live_page import Live, write_live_page
from babyllama.pages.run_page import read_log
from babyllama.training.live.samples import SampleWriter

if TYPE_CHECKING:
    from pathlib import Path

    from babyllama.config.schema import Config
    from babyllama.data.documents import Document
    from babyllama.training.trainer import BabyTrainer

SHARE, SHARE_OF_LOG_LINES = 0.01, 0.004  # of the training's seconds
RECENT = 20  # log entries that the speed is taken from


class LivePage(TrainerCallback):
    """Rewrites the run's page while it trains (rank 0 only).

    Attributes:
        seconds: What the page and its samples have taken in this process.
    """

    def __init__(self, trainer: BabyTrainer, config: Config, run_dir: Path, documents: Sequence[Document]) -> None:
        """Prepare the page of a run.

        Args:
            trainer: Trainer whose model writes the samples.
            config: Run configuration.
            run_dir: Run folder, which gets report.html and the samples of each point.
            documents: Held-out documents, whose beginnings are the prompts.
        """
        self.trainer, self.config, self.run_dir = trainer, config, run_dir
        self.writer = SampleWriter(trainer.processing_class, documents, config.data.seq_length)
        self.seconds = 0.0
        self._began = time.perf_counter()
        self._page_seconds, self._sample_seconds = 0.05, self.writer.expected_seconds(trainer.model)
        self._samples: list[dict[str, Any]] = []
        self._broken = False  # the page could not be written: nothing more is tried

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the first page, and say where it is; a resumed run keeps the samples up to its checkpoint."""
        self._began = time.perf_counter()
        path = self.run_dir / LIVE_SAMPLES
        self._samples = [entry for entry in read_log(path) if entry["step"] <= state.global_step]
        self._write(state, "running")
        say(f"page: {self.run_dir / REPORT} (open it in a browser; it follows the training)")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Rewrite the page at a point of the held-out curve, with what the model writes now."""
        if self._fits(self._page_seconds + self._sample_seconds, SHARE):
            self._sample(state)
        if self._fits(self._page_seconds, SHARE):
            self._write(state, "running")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Rewrite the page at a log line where that is cheap; the points come with their own update."""
        if "valid_loss" not in (logs or {}) and self._fits(self._page_seconds, SHARE_OF_LOG_LINES):
            self._write(state, "running")
            self.trainer.clock.disturb()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Say that the last step is done; where a signal ended the training, `failed` says more."""
        self._write(state, "scoring")

    def failed(self, error: BaseException) -> None:
        """Say on the page what ended the training."""
        self._write(self.trainer.state, "stopped" if isinstance(error, Interrupted) else "failed", str(error))

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write the final page; an evaluation that follows puts its results and figures into it.

        Args:
            metrics: training_metrics.json, which is written already.
        """
        self._write(self.trainer.state, "finished")

    def _fits(self, seconds: float, share: float) -> bool:
        return self.seconds + seconds <= share * (time.perf_counter() - self._began)

    def _sample(self, state: TrainerState) -> None:
        """Let the model write, and keep it in the run folder; a model that cannot costs a line, not the run."""
        started = time.perf_counter()
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if self._broken or is_sharded(model):
            return
        try:
            written = self.writer.write(model)
        except Exception as error:  # a plugin's model may raise anything, and a sample is not worth a run
            warn(f"page: no samples ({type(error).__name__}: {error}); the training goes on without them")
            self._sample_seconds = float("inf")
            return
        entry = dict(state.log_history[-1]) if state.log_history else {}
        facts = {"step": state.global_step, "words": entry.get("words"), "valid_loss": entry.get("valid_loss")}
        self._samples.append({**facts, "samples": written})
        self._sample_seconds = time.perf_counter() - started
        self.seconds += self._sample_seconds

    def _write(self, state: TrainerState, stage: str, message: str = "") -> None:
        started = time.perf_counter()
        if self._broken:
            return
        try:
            if self._samples:
                lines = "".join(to_json(entry, indent=None) + "\n" for entry in self._samples)
                write_text_atomic(self.run_dir / LIVE_SAMPLES, lines)
            write_live_page(self.run_dir, self._live(state, stage, message), state.log_history)
        except OSError as error:
            self._broken = True
            warn(f"page: could not be written ({error}); the training goes on without it")
        self._page_seconds = time.perf_counter() - started
        self.seconds += self._page_seconds

    def _live(self, state: TrainerState, stage: str, message: str) -> Live:
        """What the page says beside the files of the run folder."""
        each = seconds_a_step(state.log_history)
        trainer = self.trainer
        return Live(
            name=str(self.config.model.name or self.run_dir.name),
            stage=stage,
            message=message,
            parameters=saved_parameters(trainer.model),
            text=self.config.data.train_path,
            share=state.global_step / max(state.max_steps, 1),
            seconds_to_next=None if each is None else state.eval_steps * each,
            best_step=trainer.best.best_step,
            notes=[trainer.patience.end.sentence()] if trainer.patience and trainer.patience.end else [],
            tiles=self._tiles(state, each if stage == "running" else None),
        )

    def _tiles(self, state: TrainerState, seconds_a_step: float | None) -> list[tuple[str, str, str]]:
        """The key figures; time left where the seconds of a step are given."""
        log, trainer = state.log_history, self.trainer
        point = next((entry for entry in reversed(log) if "valid_loss" in entry), None)
        speed = next((entry["tokens_per_second"] for entry in reversed(log) if "tokens_per_second" in entry), None)
        words = round((state.epoch or 0.0) * trainer.epoch_words)
        spent = human_seconds(trainer.clock.training_seconds())
        rate = f"{speed:,.0f} tokens/s" if speed else ""
        tiles = [
            ("step", f"{state.global_step:,}", f"of {state.max_steps:,}; epoch {state.epoch or 0.0:.2f}"),
            ("words seen", human_count(words), f"{words:,}"),
        ]
        if point is not None:
            bits, perplexity, loss = (point[f"valid_{name}"] for name in ("bits_per_byte", "perplexity", "loss"))
            tiles.append(("bits per byte", f"{bits:.3f}", f"held out, at step {point['step']:,}"))
            tiles.append(("perplexity", f"{perplexity:,.1f}", f"held out, loss {loss:.4f}"))
        if seconds_a_step is None:
            return [*tiles, ("trained for", spent, rate)]
        left = (state.max_steps - state.global_step) * seconds_a_step
        return [*tiles, ("time left", human_seconds(left), f"{spent} so far; {rate}".removesuffix("; "))]


def seconds_a_step(log: Sequence[dict[str, Any]]) -> float | None:
    """Return wall seconds of a step, evaluating and saving included, over the newest log entries; None without two.

    >>> seconds_a_step([{"step": 10, "seconds": 30.0}, {"step": 20, "seconds": 35.0}])
    0.5
    """
    timed = [(entry["step"], entry["seconds"]) for entry in log[-RECENT:] if "seconds" in entry and "step" in entry]
    steps = timed[-1][0] - timed[0][0] if timed else 0
    return (timed[-1][1] - timed[0][1]) / steps if steps > 0 else None
