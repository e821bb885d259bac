"""Out of memory: the same recipe in smaller parts.

`batch_size` stays; the micro-batch is halved and the accumulation doubled, so that the same model is trained. On a CUDA
GPU that is done by itself with a notice; on a CPU, where memory is usually taken by something else too, it is advised.
"""

from __future__ import annotations

from babyllama.common.distributed import world_size
from babyllama.common.errors import BabyLlamaError
from babyllama.config.schema import TrainingConfig
from babyllama.models.runtime import Runtime


class OutOfMemory(BabyLlamaError):
    """A step does not fit into memory; the message says which smaller parts would."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not get memory, on a GPU or on the CPU."""
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
    """The next larger accumulation that divides the batch, at least twice the present one; None at one sequence.

    >>> smaller_parts(TrainingConfig(batch_size=12, gradient_accumulation_steps=2))
    4
    >>> smaller_parts(TrainingConfig(batch_size=9, gradient_accumulation_steps=1))
    3
    """
    most = training.batch_size // world_size
    candidates = range(2 * training.gradient_accumulation_steps, most + 1)
    return next((parts for parts in candidates if training.batch_size % (parts * world_size) == 0), None)


def advice(training: TrainingConfig, world_size: int = 1) -> str:
    """What to set, as one sentence."""
    parts = smaller_parts(training, world_size)
    if parts is None:
        return "even one sequence at a time does not fit: a smaller model or data.seq_length is needed"
    micro = training.batch_size // (parts * world_size)
    return f"training.gradient_accumulation_steps: {parts} (micro-batches of {micro}) trains the same recipe"


def halves_by_itself(runtime: Runtime) -> bool:
    """On a GPU of one process; several processes would have to agree."""
    return runtime.device.startswith("cuda") and world_size() == 1
