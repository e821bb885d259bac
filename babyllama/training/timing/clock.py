"""The clock of a training's steps, and the callbacks that read it.

Each is a HuggingFace `TrainerCallback` and does one thing. None of them reads a tensor in a step.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common.console import say
from babyllama.common.units import human_seconds
from babyllama.config.schema import TrainingConfig

WARMUP_STEPS_UNTIMED = 3  # the first steps compile, fault pages in and fill caches


class StepClock(TrainerCallback):
    """Times steps; compiling, evaluation and saving are left out.

    On a CPU from one step's start to the next. On a GPU Python only queues a step and runs ahead, so that the starts
    say how fast it queues: there the clock is read where the loss is logged, which waits for the GPU, and the seconds
    since the last such moment are divided by the steps between.

    Args:
        wait: Function that waits until the GPU has done what was queued; None on a CPU.
    """

    def __init__(self, wait: Callable[[], Any] | None = None) -> None:
        self.wait = wait
        self._counted = 0
        self.steps: list[float] = []
        self.recent: list[float] = []
        self.before = 0.0
        self._started: float | None = None
        self._running_since: float | None = None
        self._elapsed = 0.0
        self._seen = 0

    def training_seconds(self) -> float:
        """Wall seconds of training, evaluation and saving since the run began, resumed parts included."""
        running = 0.0 if self._running_since is None else time.perf_counter() - self._running_since
        return self.before + self._elapsed + running

    def disturb(self) -> None:
        """Something else than training runs inside the step that is being timed: do not count it."""
        self._started = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the wall clock; a resumed run goes on from where its log ends."""
        self.before = max((entry.get("seconds", 0.0) for entry in state.log_history), default=0.0)
        self._running_since = time.perf_counter()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop the wall clock."""
        if self._running_since is not None:
            self._elapsed += time.perf_counter() - self._running_since
            self._running_since = None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A step ends where the next begins."""
        self._counted += 1
        if self.wait is not None:
            if self._started is None and self._seen > WARMUP_STEPS_UNTIMED:
                self.wait()
                self._started, self._counted = time.perf_counter(), 1
            self._seen += 1
            return
        now = time.perf_counter()
        if self._started is not None and self._seen > WARMUP_STEPS_UNTIMED:
            self.steps.append(now - self._started)
            self.recent.append(now - self._started)
        self._started = now
        self._seen += 1

    def read(self) -> None:
        """Take the time at a log line, whose reading of the loss has waited for the GPU; on a CPU nothing is due."""
        if self.wait is None or self._started is None:
            return
        now = time.perf_counter()
        each = (now - self._started) / self._counted
        self.steps += [each] * self._counted
        self.recent += [each] * self._counted
        self._started, self._counted = now, 0

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Saving is not part of a step."""
        self.disturb()

    def median_step(self) -> float | None:
        """Return median seconds of one optimizer step, None before the first timed one."""
        return statistics.median(self.steps) if self.steps else None


class SlowSteps(TrainerCallback):
    """Tells once when steps suddenly take twice as long as before: another program wants the same cores, or heat.

    Args:
        clock: Clock of the steps; what it leaves out (compiling, evaluating, saving) is never taken for slowness.
    """

    RECENT, USUAL, FACTOR = 8, 100, 2.0  # steps compared, steps compared with

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self._told = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Compare the last steps with those before them, every few steps."""
        steps = self.clock.steps
        if self._told or state.global_step % (self.RECENT // 2) or len(steps) < 2 * self.RECENT:
            return
        usual = statistics.median(steps[-self.RECENT - self.USUAL : -self.RECENT])
        recent = statistics.median(steps[-self.RECENT :])
        if recent > self.FACTOR * usual:
            self._told = True
            say(
                f"steps take {recent:.3g} s, before {usual:.3g} s: is another program busy, the machine hot, or on "
                "battery? The training goes on, only slower. Ctrl-C keeps a checkpoint, "
                "--resume_from_checkpoint goes on from it."
            )


class WidenIntervals(TrainerCallback):
    """Evaluates and saves less often where each would take more than 3% of the time.

    Intervals are planned in steps: 20 evaluations and 10 saves a run. An epoch of llama-10M is seconds on a GPU, and
    ten saves with their hashes cost as much again. What the first evaluation and the first save took decides how far
    apart the next ones are; the last step is evaluated and saved in any case. An interval that is set stays as it is.

    Args:
        clock: Clock of the steps.
        training: Recipe; its save_steps and eval_steps are not touched where they are set.
        logging_steps: Steps between log lines; an interval stays a multiple of them, so that a resume logs alike.
    """

    SHARE, TIMED_STEPS = 0.03, 20

    def __init__(self, clock: StepClock, training: TrainingConfig, logging_steps: int) -> None:
        self.clock, self.logging_steps = clock, logging_steps
        self.free = {name for name in ("save_steps", "eval_steps") if getattr(training, name) is None}
        self.free -= {"eval_steps"} if training.patience else set()  # points are counted: no clock may move them
        self._seconds: dict[str, float] = {}
        self._saving_since: float | None = None

    def evaluated(self, seconds: float) -> None:
        """Note what an evaluation took."""
        self._note("eval_steps", seconds)

    def saving(self) -> None:
        """Note that a save begins; it ends where the next step begins, manifest and rotation included."""
        self._saving_since = time.perf_counter()

    def _note(self, name: str, seconds: float) -> None:
        if name in self.free:
            self._seconds[name] = seconds

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Widen what was measured, once steps are timed as well."""
        if self._saving_since is not None:
            self._note("save_steps", time.perf_counter() - self._saving_since)
            self._saving_since = None
        if not self._seconds or len(self.clock.steps) < self.TIMED_STEPS:
            return
        step = self.clock.median_step() or 0.0
        for name, seconds in self._seconds.items():
            wanted = math.ceil(seconds / (self.SHARE * step) / self.logging_steps) * self.logging_steps
            if wanted > getattr(state, name):
                what, planned = "evaluating" if name == "eval_steps" else "saving", getattr(state, name)
                say(f"{what} takes {human_seconds(seconds)}: every {wanted:,} steps, not every {planned:,}")
                setattr(state, name, wanted)
        self._seconds.clear()
