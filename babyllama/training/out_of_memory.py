"""Out of memory: the same recipe in smaller parts. Cannot be compiled: the same recipe eagerly.

`batch_size` stays; the micro-batch is halved and the accumulation doubled, so that the same model is trained. On a CUDA
GPU that is done by itself with a notice; on a CPU, where memory is usually taken by something else too, it is advised.
A compiler that is there and fails all the same costs its speed and not the run, on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from babyllama.common.console import say
from babyllama.common.distributed import world_size
from babyllama.common.errors import BabyLlamaError
from babyllama.config.schema import TrainingConfig
from babyllama.models.gpu import free_gpu_memory, is_compile_error, is_out_of_memory
from babyllama.models.runtime import Runtime

if TYPE_CHECKING:
    from babyllama.training.start import Start

T = TypeVar("T")


class OutOfMemory(BabyLlamaError):
    """A step does not fit into memory; the message says which smaller parts would."""


def smaller_parts(training: TrainingConfig, world_size: int = 1) -> int | None:
    """Return the next larger accumulation that divides the batch, at least twice the present one; None at one sequence.

    >>> smaller_parts(TrainingConfig(batch_size=12, gradient_accumulation_steps=2))
    4
    >>> smaller_parts(TrainingConfig(batch_size=9, gradient_accumulation_steps=1))
    3
    """
    most = training.batch_size // world_size
    candidates = range(2 * training.parts, most + 1)
    return next((parts for parts in candidates if training.batch_size % (parts * world_size) == 0), None)


def advice(training: TrainingConfig, world_size: int = 1) -> str:
    """Return what to set, as one sentence."""
    parts = smaller_parts(training, world_size)
    if parts is None:
        return "even one sequence at a time does not fit: a smaller model or data.seq_length is needed"
    micro = training.batch_size // (parts * world_size)
    return f"training.gradient_accumulation_steps: {parts} (micro-batches of {micro}) trains the same recipe"


def halves_by_itself(runtime: Runtime) -> bool:
    """On a CUDA GPU of one process; several processes would have to agree."""
    return runtime.device.startswith("cuda") and world_size() == 1


def train_within_memory(training: TrainingConfig, run_dir: Path, start: Start, attempt: Callable[[Start], T]) -> T:
    """Train; go on with half the micro-batch where it does not fit into a GPU's memory, eagerly where compiling fails.

    Args:
        training: Changed in place: a higher gradient_accumulation_steps for the same batch, or no torch_compile.
        run_dir: The run folder; what a failed attempt left half-written there is set aside.
        start: Where an attempt starts; `attempt` notes there its runtime and, where it fails, its last checkpoint.
        attempt: Builds model and Trainer and trains to the end.

    Returns:
        What the attempt that fitted returned.

    Raises:
        OutOfMemory: On a CPU, or where one sequence does not fit; says what to set.
    """
    from babyllama.training.checkpoints import set_incomplete_aside

    while True:
        try:
            return attempt(start)
        except Exception as error:
            if not go_on_eagerly(error, training, start):
                go_on_smaller(error, training, start)
        set_incomplete_aside(run_dir)
        free_gpu_memory()


def go_on_eagerly(error: Exception, training: TrainingConfig, start: Start) -> bool:
    """Switch compiling off where compiling is what failed, with a line.

    Args:
        error: What ended the attempt.
        training: Recipe whose torch_compile becomes false, since what is set wins over what a checkpoint says.
        start: Start with the attempt's runtime.

    Returns:
        Whether it was that; several processes would have to agree, so theirs is not mended.
    """
    runtime = start.runtime
    if runtime is None or runtime.compile == "off" or runtime.processes > 1 or not is_compile_error(error):
        return False
    first = str(error).strip().split("\n")[0]
    say(f"compiling failed ({type(error).__name__}: {first[:200]}): going on without compiling")
    training.torch_compile = False
    start.runtime = replace(runtime, compile="off")
    return True


def go_on_smaller(error: Exception, training: TrainingConfig, start: Start) -> None:
    """Raise the accumulation where a GPU's memory was too small, with a line.

    Raises:
        OutOfMemory: On a CPU, or where one sequence does not fit; says what to set.
        Exception: `error`, where it is another one.
    """
    if not is_out_of_memory(error):
        raise error
    device = start.runtime.device if start.runtime else training.device
    hint = advice(training, world_size())
    parts = smaller_parts(training, world_size())
    if parts is None or start.runtime is None or not halves_by_itself(start.runtime):
        raise OutOfMemory(f"out of memory on {device}: {hint}") from error
    say(f"out of memory on {device}: going on with {hint}")
    training.gradient_accumulation_steps = parts
