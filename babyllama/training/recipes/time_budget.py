"""A training that is told how long it may take: the number of steps is fixed once, from steps that were timed.

The schedule needs to know its end (warm-up and decay are shares of the run), so the number cannot follow the clock
while the training goes on. A rehearsal computes a few steps of the real thing first: the same model, batch, optimizer
and compiled code, and the weights and random states are put back afterwards. So a run of N steps that a time budget
chose has the same bits as one that was told `training.max_steps: N`. The number is kept in each checkpoint, and a
resume takes it from there.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from babyllama.common import distributed
from babyllama.common.console import say, seconds_since_start
from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.common.units import human_seconds
from babyllama.config.run_layout import TRAINER_STATE
from babyllama.models.gpu import random_states, set_random_states, synchronizer
from babyllama.models.runtime import Runtime, dtype_of
from babyllama.training.arguments import count_steps
from babyllama.training.checkpoints import checkpoint_bytes
from babyllama.training.optim import build_optimizer
from babyllama.training.timing.step_graph import WARM_UP, Recorder, StepGraph

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from babyllama.config.schema import Config, TrainingConfig
    from babyllama.data.packing import PackedDataset
    from babyllama.training.arguments import StepCounts
    from babyllama.training.start import Start

UNTIMED, TIMED = 2, 4  # the first steps compile, fault pages in and fill caches
SHARE, TIMED_SECONDS = 0.05, 5.0  # of the budget, and at most, for more than TIMED steps: quick ones are timed often
# Steps of the training over timed ones; once it was 1.08, on a machine that slowed down after half a minute.
MARGIN = 1.04
DISK_RATE = 2e8  # bytes a second of a checkpoint with its checksums: 0.6 s for a 10M model's 116 MB
# Of a quick start that does not train the whole epoch: seconds of the command around its minutes of training, those of
# them that scoring and samples take after it (16 at 3,400 tokens a second in training, more on a slower machine),
# points of the held-out curve and checkpoints.
AROUND, AFTERWARDS, AFTERWARDS_RATE, POINTS = 50.0, 20.0, 3400, 4
FEWEST_TOKENS = 400_000  # of the quick start: a choice; 453k tokens gave 84% of the pairs (docs/experiments.md)


@dataclass(frozen=True)
class StepTimes:
    """Seconds of the parts of a training.

    Attributes:
        step: One optimizer step.
        evaluation: One point of the held-out curve.
        save: One checkpoint.
    """

    step: float
    evaluation: float
    save: float


def limit_of(config: Config) -> float | None:
    """Return the minutes that a training may take, None where its length is given otherwise.

    `training.max_minutes` fills the time; `training.quick_start_minutes` bounds a first try on the embedded corpus, and
    steps aside where a length is asked for.
    """
    training = config.training
    if training.max_minutes is not None:
        return training.max_minutes
    if config.data.train_path != "synthetic" or training.max_steps is not None or training.num_epochs > 1:
        return None
    return training.quick_start_minutes


def rehearse(
    model: PreTrainedModel,
    config: Config,
    runtime: Runtime,
    train_set: PackedDataset,
    valid_set: PackedDataset,
    *,
    curve_chunks: int,
    seconds: float,
    recorder: Recorder | None = None,
) -> StepTimes:
    """Time a few optimizer steps and an evaluation, and leave model and random states as they were.

    Args:
        model: Ready for training: attention, compiled layers and loss are installed.
        config: Run configuration.
        runtime: How the run computes.
        train_set: Packed training chunks; the first batch is computed again and again.
        valid_set: Packed held-out chunks.
        curve_chunks: Chunks of a point of the held-out curve.
        seconds: The budget; more than six steps are timed only within a twentieth of it.
        recorder: What records steps where the runtime says so; unset: CUDA.
    """
    cpu_state = torch.get_rng_state()
    gpu_states = random_states(runtime.device)
    model.to(runtime.device)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    training, processes = config.training, runtime.processes
    size = training.batch_size // (training.parts * processes)
    batches = [
        _batch(train_set, range(part * size, (part + 1) * size), runtime.device) for part in range(training.parts)
    ]

    # Steps: the untimed ones compile.
    step = _stepper(model, training, runtime, batches, recorder)
    for _ in range(UNTIMED + WARM_UP if runtime.graphs else UNTIMED):
        step()
    times = [step() for _ in range(TIMED)]
    while sum(times) + times[-1] < min(SHARE * seconds, TIMED_SECONDS):
        times.append(step())

    # One forward pass of the held-out curve; the whole of it is as many as it has batches.
    points = -(-min(curve_chunks, len(valid_set)) // (size * processes))
    evaluation = points * _timed(lambda: _forward(model, runtime, batches[0]), runtime.device)

    # As it was.
    model.load_state_dict(weights)
    model.zero_grad(set_to_none=True)
    torch.set_rng_state(cpu_state)
    set_random_states(runtime.device, gpu_states)
    return StepTimes(statistics.median(times), evaluation, checkpoint_bytes(model, training) / DISK_RATE)


def _batch(packed: PackedDataset, chunks: range, device: str) -> dict[str, Tensor]:
    batch = packed.__getitems__([number % len(packed) for number in chunks])
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _autocast(runtime: Runtime) -> torch.autocast:
    kind = runtime.device.split(":")[0]
    low = runtime.precision != "fp32"
    return torch.autocast(kind, dtype=dtype_of(runtime.precision) if low else None, enabled=low)


def _stepper(
    model: PreTrainedModel,
    training: TrainingConfig,
    runtime: Runtime,
    batches: list[dict[str, Tensor]],
    recorder: Recorder | None = None,
) -> Callable[[], float]:
    """Return a function that computes one optimizer step, recorded as the training's are, and returns its seconds."""
    # What a step needs.
    precision = dtype_of(runtime.muon_precision) if runtime.muon_precision else None
    optimizer = build_optimizer(model, training, precision)
    tokens = sum(batch["labels"].numel() for batch in batches)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    # Its passes, and the whole of it.
    def compute(batch: dict[str, Tensor], count: Tensor | int | None) -> Tensor:
        with _autocast(runtime):
            loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        return loss.detach()

    passes: Callable[[dict[str, Tensor], int], Tensor] = compute
    if runtime.graphs and len(batches) == 1:  # kernel by kernel a small model takes five times as long
        passes = partial(StepGraph(trained, recorder), compute)

    def step() -> None:
        for batch in batches:
            passes(batch, tokens)
        if training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return lambda: _timed(step, runtime.device)


@torch.no_grad()
def _forward(model: torch.nn.Module, runtime: Runtime, batch: dict[str, Tensor]) -> None:
    with torch.compiler.set_stance("force_eager"), _autocast(runtime):
        model(**batch, num_items_in_batch=1)


def _timed(work: Callable[[], None], device: str) -> float:
    started = time.perf_counter()
    work()
    if wait := synchronizer(device):
        wait()
    return time.perf_counter() - started


def seconds_of(steps: int, times: StepTimes, config: Config, chunks: int, world_size: int = 1) -> float:
    """Return what a training of some steps takes, evaluations and checkpoints included (`steps_within`'s arguments)."""
    counts = count_steps(config, chunks, world_size)
    points, saves = math.ceil(steps / counts.eval_steps), math.ceil(steps / counts.save_steps)
    return steps * times.step + points * times.evaluation + saves * times.save


def steps_within(
    seconds: float,
    times: StepTimes,
    config: Config,
    chunks: int,
    world_size: int = 1,
    fixed: Callable[[Config, int], Config] | None = None,
) -> int:
    """Return the largest number of steps that fits, evaluations and checkpoints included; at least 1.

    Args:
        seconds: The budget.
        times: What the parts take.
        config: Run configuration; its intervals follow the number of steps.
        chunks: Training chunks of one epoch.
        world_size: Number of processes.
        fixed: Function that puts a number of steps into the configuration; None: `with_steps`.
    """
    fixed = fixed or with_steps

    def takes(steps: int) -> float:
        return seconds_of(steps, times, fixed(config, steps), chunks, world_size)

    low, high = 1, max(1, int(seconds / times.step)) + 1
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) <= seconds else (low, middle)
    return low


def with_steps(config: Config, steps: int) -> Config:
    """Return the configuration with a number of steps in the place of what decided it."""
    length = {"max_steps": steps, "max_minutes": None, "quick_start_minutes": None}
    return config.model_copy(update={"training": config.training.model_copy(update=length)})


def _with_quick_steps(config: Config, steps: int) -> Config:
    """The same for part of the embedded corpus: intervals that are unset give few points, whose seconds go to steps."""
    spare = [name for name in ("eval_steps", "save_steps") if getattr(config.training, name) is None]
    intervals = dict.fromkeys(spare, -(-steps // POINTS))
    return with_steps(config.model_copy(update={"training": config.training.model_copy(update=intervals)}), steps)


def fix_length(
    model: PreTrainedModel,
    config: Config,
    runtime: Runtime,
    datasets: tuple[Any, Any],
    curve_chunks: int,
    start: Start | None = None,
) -> Config:
    """Return the configuration with its number of steps, measured where a time budget decides; say what it means.

    Args:
        model: Ready for training.
        config: Run configuration.
        runtime: How the run computes.
        datasets: Training chunks and held-out chunks.
        curve_chunks: Chunks of a point of the held-out curve.
        start: The number of steps that this run was given before, or the checkpoint where a longer run goes on, whose
            steps and seconds are counted.

    Raises:
        ConfigError: The model is sharded over GPUs, where no process holds one that could be timed.
    """
    minutes = limit_of(config)
    if minutes is None:
        return config
    quick = config.training.max_minutes is None
    train_set, valid_set = datasets
    processes = runtime.processes
    if start is not None and start.total_steps is not None:
        part = quick and start.total_steps < count_steps(config, len(train_set), processes).total_steps
        return (_with_quick_steps if part else with_steps)(config, start.total_steps)
    if config.training.fsdp:
        raise ConfigError("training.max_minutes: not with training.fsdp; give training.max_steps")

    # How long do the parts take? The slowest process decides.
    say("time budget: a few steps are timed first, then the training starts from the beginning")
    seconds = 60 * minutes
    times = rehearse(model, config, runtime, train_set, valid_set, curve_chunks=curve_chunks, seconds=seconds)
    waited = seconds_since_start()
    if distributed.is_initialized():
        mine = (times.step, times.evaluation, waited)
        step, evaluation, waited = (n / 1e6 for n in distributed.all_reduce_max(*(round(t * 1e6) for t in mine)))
        times = StepTimes(step, evaluation, times.save)

    # How many fit into what is left?
    done, spent = _progress(start.checkpoint if start else None)
    careful = StepTimes(times.step * MARGIN, times.evaluation, times.save)
    if quick:
        # The command's minutes count, too: it has read text, compiled and timed steps, and it will score.
        rate = config.training.batch_size * config.data.seq_length / times.step
        left = seconds + AROUND - waited - AFTERWARDS * max(1.0, AFTERWARDS_RATE / rate)
        left = min(seconds - spent, left)
        fitting = done + steps_within(max(left, 0.0), careful, config, len(train_set), processes, _with_quick_steps)
        return _quick_start(config, times, fitting, len(train_set), processes, seconds)
    fitting = done + steps_within(max(seconds - spent, 0.0), careful, config, len(train_set), processes)
    _tell_budget(minutes, times, fitting, count_steps(with_steps(config, 1), len(train_set), processes))
    return with_steps(config, fitting)


def _progress(checkpoint: Path | None) -> tuple[int, float]:
    """Steps and seconds of training behind a checkpoint."""
    if checkpoint is None:
        return 0, 0.0
    state = read_json(checkpoint / TRAINER_STATE)
    return state["global_step"], max((entry.get("seconds", 0.0) for entry in state["log_history"]), default=0.0)


def _tell_budget(minutes: float, times: StepTimes, steps: int, counts: StepCounts) -> None:
    passes = steps / counts.steps_per_epoch
    say(f"time budget: {minutes:g} minutes at {times.step:.3g} s a step are {steps:,} steps, {passes:.3g} epochs")
    if passes > 1:
        say(f"time budget: the text is over after {counts.steps_per_epoch:,} steps and is read again")


def _quick_start(config: Config, times: StepTimes, fitting: int, chunks: int, processes: int, seconds: float) -> Config:
    """The whole epoch where it fits; else what fits, never less than the pairs need, and what that leaves out."""
    whole = count_steps(config, chunks, processes).total_steps
    takes = seconds_of(whole, times, config, chunks, processes)
    fewest = -(-FEWEST_TOKENS // (config.training.batch_size * config.data.seq_length))
    steps = min(whole, max(fitting, fewest))
    if takes <= seconds or steps == whole:
        return config
    shortened = _with_quick_steps(config, steps)
    about = seconds_of(steps, times, shortened, chunks, processes)
    say(
        f"quick start: {times.step:.3g} s a step on this machine, so {steps:,} of {whole:,} steps are trained (about "
        f"{human_seconds(about)}). The embedded corpus shows more with --max-minutes {math.ceil(takes / 60)}: "
        "all of its text, and a model about 10% above its entropy."
    )
    return shortened
