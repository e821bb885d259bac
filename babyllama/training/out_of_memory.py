"""Out of memory: the same recipe in smaller parts.

`batch_size` stays; the micro-batch is halved and the accumulation doubled, so that the same model is trained. On a CUDA
GPU that is done by itself with a notice; on a CPU, where memory is usually taken by something else too, it is advised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from babyllama.common.console import say
from babyllama.common.distributed import world_size
from babyllama.common.errors import BabyLlamaError
from babyllama.config.schema import TrainingConfig
from babyllama.models.runtime import Runtime

if TYPE_CHECKING:
    from babyllama.training.start import Start

T = TypeVar("T")


class OutOfMemory(BabyLlamaError):
    """A step does not fit into memory; the message says which smaller parts would."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch could not get memory, on a GPU or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def free_gpu_memory() -> None:
    """Let go of what a failed step held."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def smaller_parts(training: TrainingConfig, world_size: int = 1) -> int | None:
    """Return the next larger accumulation that divides the batch, at least twice the present one; None at one sequence.

    >>> smaller_parts(TrainingConfig(batch_size=12, gradient_accumulation_steps=2))
    4
    >>> smaller_parts(TrainingConfig(batch_size=9, gradient_accumulation_steps=1))
    3
    """
    most = training.batch_size // world_size
    candidates = range(2 * training.gradient_accumulation_steps, most + 1)
    return next((parts for parts in candidates if training.batch_size % (parts * world_size) == 0), None)


def advice(training: TrainingConfig, world_size: int = 1) -> str:
    """Return what to set, as one sentence."""
    parts = smaller_parts(training, world_size)
    if parts is None:
        return "even one sequence at a time does not fit: a smaller model or data.seq_length is needed"
    micro = training.batch_size // (parts * world_size)
    return f"training.gradient_accumulation_steps: {parts} (micro-batches of {micro}) trains the same recipe"


def halves_by_itself(runtime: Runtime) -> bool:
    """On a GPU of one process; several processes would have to agree."""
    return runtime.device.startswith("cuda") and world_size() == 1


def train_within_memory(training: TrainingConfig, run_dir: Path, start: Start, attempt: Callable[[Start], T]) -> T:
    """Train; where a micro-batch does not fit into a GPU's memory, halve it, double the accumulation and go on.

    Args:
        training: Training section whose gradient_accumulation_steps is raised in place; the batch stays what it is.
        run_dir: The run folder; a further attempt goes on from its newest complete checkpoint.
        start: Where the first attempt starts; `attempt` notes its runtime there.
        attempt: Builds model and Trainer and trains to the end.

    Returns:
        What the attempt that fitted returned.

    Raises:
        OutOfMemory: On a CPU, or where one sequence does not fit; says what to set.
    """
    from babyllama.training.checkpoints import newest_complete

    while True:
        try:
            return attempt(start)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            device = start.runtime.device if start.runtime else training.device
            hint = advice(training, world_size())
            parts = smaller_parts(training, world_size())
            if parts is None or start.runtime is None or not halves_by_itself(start.runtime):
                raise OutOfMemory(f"out of memory on {device}: {hint}") from error
        say(f"out of memory on {device}: going on with {hint}")
        training.gradient_accumulation_steps = parts
        start.checkpoint = newest_complete(run_dir)
        free_gpu_memory()
