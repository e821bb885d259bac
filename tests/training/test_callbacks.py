"""The clock of steps, on a CPU and where the CPU runs ahead of a GPU; the collector of cycles."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest

from babyllama.config.schema import TrainingConfig
from babyllama.models.gpu import restored_settings
from babyllama.training.callbacks import CollectSeldom
from babyllama.training.timing import clock as timing_clock
from babyllama.training.timing.clock import SlowSteps, StepClock, WidenIntervals

NOTHING: tuple[Any, Any, Any] = (None, None, None)


class QueuedGpu:
    """A GPU whose steps take 0.1 s and are queued in 1 ms each; the clock is simulated."""

    STEP, QUEUEING = 0.1, 0.001

    def __init__(self) -> None:
        self.now, self.busy_until = 0.0, 0.0

    def queue_step(self) -> None:
        self.now += self.QUEUEING
        self.busy_until = max(self.busy_until, self.now) + self.STEP

    def wait(self) -> None:
        self.now = max(self.now, self.busy_until)


def run(clock: StepClock, gpu: QueuedGpu, steps: int, log_every: int, save_at: int = 0) -> None:
    for step in range(1, steps + 1):
        clock.on_step_begin(*NOTHING)
        gpu.queue_step()
        if step % log_every == 0:
            gpu.wait()  # the Trainer reads the loss
            clock.read()
        if step == save_at:
            gpu.wait()
            gpu.now += 5.0
            clock.on_save(*NOTHING)


def test_on_a_gpu_the_rate_is_taken_between_moments_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = QueuedGpu()
    monkeypatch.setattr(timing_clock.time, "perf_counter", lambda: gpu.now)
    clock = StepClock(gpu.wait)
    run(clock, gpu, steps=40, log_every=10, save_at=25)
    assert clock.median_step() == pytest.approx(0.1, rel=0.02)
    assert all(seconds == pytest.approx(0.1, rel=0.02) for seconds in clock.steps)
    assert len(clock.steps) == 6 + 10 + 5 + 10  # 4 to 10, 11 to 20, 26 to 30 after the save, 31 to 40


def test_timing_the_starts_there_would_have_said_a_hundred_times_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = QueuedGpu()
    monkeypatch.setattr(timing_clock.time, "perf_counter", lambda: gpu.now)
    clock = StepClock()
    run(clock, gpu, steps=40, log_every=1000)
    assert clock.median_step() == pytest.approx(0.001)


def test_the_collector_rests_in_a_training_and_comes_back() -> None:
    assert gc.isenabled()
    with restored_settings():
        watcher = CollectSeldom()
        watcher.on_train_begin(*NOTHING)
        assert not gc.isenabled()
        watcher.on_evaluate(*NOTHING)
        watcher.on_save(*NOTHING)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def widened(training: TrainingConfig, steps: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Saving and evaluation intervals after an evaluation of 0.9 s and a save of 1.5 s; steps take 0.1 s."""
    now = [0.0]
    monkeypatch.setattr(timing_clock.time, "perf_counter", lambda: now[0])
    clock = StepClock()
    clock.steps = [0.1] * steps
    state = SimpleNamespace(save_steps=50, eval_steps=25)
    intervals = WidenIntervals(clock, training, logging_steps=10)
    intervals.evaluated(0.9)
    intervals.saving()
    now[0] = 1.5
    intervals.on_step_begin(None, state, None)
    return state.save_steps, state.eval_steps


def test_evaluating_and_saving_stay_below_three_percent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert widened(TrainingConfig(), 20, monkeypatch) == (500, 300)
    said = capsys.readouterr().out
    assert "every 300 steps, not every 25" in said
    assert "every 500 steps, not every 50" in said


def test_intervals_that_are_set_and_unknown_speeds_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert widened(TrainingConfig(save_steps=50, eval_steps=25), 20, monkeypatch) == (50, 25)
    assert widened(TrainingConfig(save_steps=50), 20, monkeypatch) == (50, 300)
    assert widened(TrainingConfig(), 19, monkeypatch) == (50, 25)


def test_intervals_are_never_made_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StepClock()
    clock.steps = [10.0] * 20
    state = SimpleNamespace(save_steps=50, eval_steps=25)
    intervals = WidenIntervals(clock, TrainingConfig(), logging_steps=10)
    intervals.evaluated(0.9)
    intervals.on_step_begin(None, state, None)
    assert (state.save_steps, state.eval_steps) == (50, 25)


def _timed_run(monkeypatch: pytest.MonkeyPatch, seconds: list[float], evaluate_at: set[int] = frozenset()) -> None:
    """A run on a CPU whose steps take these seconds; an evaluation takes a minute."""
    now = [0.0]
    monkeypatch.setattr(timing_clock.time, "perf_counter", lambda: now[0])
    clock = StepClock()
    slow = SlowSteps(clock)
    for number, length in enumerate(seconds, 1):
        clock.on_step_begin(*NOTHING)
        now[0] += length
        slow.on_step_end(None, SimpleNamespace(global_step=number), None)  # type: ignore[arg-type]
        if number in evaluate_at:
            now[0] += 60.0
            clock.disturb()


def test_steps_that_suddenly_take_twice_as_long_are_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _timed_run(monkeypatch, [0.3] * 40 + [0.7] * 40 + [3.0] * 40)
    told = capsys.readouterr().out
    assert told.count("is another program busy") == 1
    assert "steps take 0.7 s, before 0.3 s" in told


@pytest.mark.parametrize(
    "seconds",
    [[9.0, 9.0, 9.0] + [0.3] * 60, [0.3, 0.3, 0.3, 2.0] * 20, [0.3 + 0.01 * n for n in range(60)], [0.3] * 12 + [0.9]],
    ids=["compiling", "one of four", "slowly", "too early"],
)
def test_compiling_outliers_evaluations_and_slow_drift_are_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: list[float]
) -> None:
    _timed_run(monkeypatch, seconds, evaluate_at=set(range(5, 60, 2)))
    assert not capsys.readouterr().out
