"""What a CUDA GPU needs and a CPU does not: one card a process, float32 that is float32, a compiler that is there.

Every function that decides answers from what torch says of the machine, so that all of it is tested without a card by
patched answers (tests/models/test_gpu.py); `python -m tests.gpu` shows it on one.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from babyllama.common import distributed
from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.config.schema import Config
from babyllama.models.architectures import TABLE

if TYPE_CHECKING:
    from torch import Tensor

# Whether compiling pays is decided from estimates for one H100 (docs/performance.md); auto means no more than that.
EAGER_FLOPS = 4e14  # model FLOP/s of an eager step that the card's arithmetic bounds
LAUNCHES_PER_LAYER, OTHER_LAUNCHES = 140, 300  # kernels of an eager forward and backward pass; head, clip, optimizer
LAUNCH_SECONDS = 6e-6
COLD_COMPILE_SECONDS, WARM_COMPILE_SECONDS = 25.0, 6.0

OUT_OF_MEMORY = (
    *("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "MPS backend out of memory"),
    *("CUDA error: out of m", "CUDA out of memory"),  # the driver's; torch's own, told again by its compiler
)

_pinned: str | None = None


def pin_gpu(name: str) -> str:
    """Make `cuda:N` this process's only GPU, under the name `cuda`.

    HuggingFace's Trainer trains on the first visible GPU (or on all of them), whatever device it is told. So the others
    are hidden by CUDA_VISIBLE_DEVICES, which counts only until CUDA is initialised.

    Args:
        name: Device as configured; anything but `cuda:N` comes back as it is.

    Raises:
        ConfigError: There is no such GPU, CUDA is initialised already, or this process has taken another one.
    """
    global _pinned
    # Nothing to hide, or not possible any more.
    if not name.startswith("cuda:") or name == _pinned:
        return "cuda" if name == _pinned else name
    if _pinned is not None:
        raise ConfigError(f"training.device: {name}: this process trains on {_pinned} already; start another one")
    index, count = name.split(":")[1], visible_gpus()
    if not index.isdigit() or int(index) >= count:
        raise ConfigError(f"training.device: {name}: there are {count} GPUs, counted from 0.")
    if count == 1:
        return "cuda"
    if cuda_initialized():
        raise ConfigError(_too_late(name, index))
    # Hide the others, and see whether the driver has listened.
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    given = [part for part in (before or "").split(",") if part]
    os.environ["CUDA_VISIBLE_DEVICES"] = given[int(index)] if int(index) < len(given) else index
    try:
        # More than one: the driver was asked before (torch.cuda.is_available does it).
        problem = None if initialize_cuda() == 1 else _too_late(name, index)
    except RuntimeError as error:  # a card in exclusive use, an unknown UUID
        problem = f"training.device: {name}: CUDA does not start on it: {str(error).splitlines()[0]}"
    if problem:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        raise ConfigError(problem)
    _pinned = name
    return "cuda"


def _too_late(name: str, index: str) -> str:
    return (
        f"training.device: {name}: CUDA is in use in this process already, so it can no longer be given one GPU. "
        f"Set CUDA_VISIBLE_DEVICES={index} before it starts, and training.device: cuda."
    )


def initialize_cuda() -> int:
    """Start CUDA and return how many GPUs this process really has, whatever the environment says."""
    import torch

    torch.cuda.init()
    return int(torch._C._cuda_getDeviceCount())


def pinned_gpu() -> str | None:
    """Return the `cuda:N` that `pin_gpu` made this process's only GPU, None where it has not."""
    return _pinned


def visible_gpus() -> int:
    """Return the number of CUDA GPUs; torch asks the driver's library, which does not initialise CUDA."""
    import torch

    return torch.cuda.device_count()


def cuda_initialized() -> bool:
    """Return whether CUDA is up in this process, after which hiding GPUs has no effect."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def synchronizer(device: str) -> Callable[[], None] | None:
    """Return what waits until a device has done all that was queued; None for a CPU, which queues nothing.

    Args:
        device: cpu, cuda, cuda:N or mps. Without waiting, the clock says how fast Python queues, not how long it takes.
    """
    import torch

    if device.startswith("cuda"):
        return partial(torch.cuda.synchronize, device)
    return torch.mps.synchronize if device.startswith("mps") else None


def random_states(device: str) -> list[Tensor]:
    """Return the states of a GPU's random generators, which dropout draws from; none for a CPU."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_rng_state_all()
    return [torch.mps.get_rng_state()] if device.startswith("mps") else []


def set_random_states(device: str, states: list[Tensor]) -> None:
    """Put back what `random_states` returned for the device."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.set_rng_state_all(states)
    elif device.startswith("mps"):
        torch.mps.set_rng_state(states[0])


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute what is inside in its tensors' precision, whatever a training has set before: no autocast, no TF32.

    TF32 is switched off for matrix products; convolutions, of which our models have none, have a switch of their own.
    TF32 keeps 10 bits of a product's factors (relative errors about 3e-4); a score has to agree to 1e-6 between two
    commands, one of which has trained in the same process. Also a decorator: `@full_float32()`.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with ExitStack() as off:
            for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
                off.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def restored_settings() -> Iterator[None]:
    """Put back, when a training is left, what it set for the process: TF32, determinism, fp16 sums, the collector."""
    import torch

    precision = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    reductions = torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    inductor = _inductor_deterministic()
    collects = gc.isenabled()
    try:
        yield
    finally:
        if collects and not gc.isenabled():
            gc.enable()
            gc.unfreeze()
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = reductions
        if inductor is not None:
            _set_inductor_deterministic(inductor)


def compute_deterministically() -> None:
    """Make CUDA's sums come out alike in every run: deterministic kernels, cuBLAS's fixed workspace, no timed choices.

    Flash attention's backward pass adds atomically beyond one key block, cuBLAS splits sums by free workspace, and
    Inductor picks reductions by timing them: each changes last bits from run to run.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that writes every new tensor twice
    if _inductor_deterministic() is not None:
        _set_inductor_deterministic(True)


def _inductor_deterministic() -> bool | None:
    """Inductor's own switch, None where this torch has none (2.11) or Inductor is not loaded."""
    config = sys.modules.get("torch._inductor.config")
    return getattr(config, "deterministic", None)


def _set_inductor_deterministic(value: bool) -> None:
    import torch._inductor.config as config

    config.deterministic = value


def compile_obstacle() -> str | None:
    """Return what torch.compile lacks for a CUDA GPU on this machine, None where nothing is missing.

    Inductor writes Triton kernels, and Triton builds its launcher in C at run time: it needs Triton (there is none for
    Windows), a card that Triton supports, a C compiler and Python's headers (slim images have neither).
    """
    from torch.utils._triton import has_triton

    if not has_triton():
        return "Triton is not there, or does not support this GPU (pip install triton)"
    if not any(name and shutil.which(name) for name in (os.environ.get("CC", ""), "gcc", "clang")):
        return "no C compiler was found (install gcc)"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python.h was not found (install python3-dev)"
    return None


def compiling_saves(gain: float, micro_steps: int, layers: int, total_flops: float) -> float:
    """Estimate the seconds that compiling saves in a whole run.

    An eager step takes what its arithmetic takes, or what launching its kernels takes, whichever is longer: llama-10M
    with 4,096 tokens is 0.4 ms of the one and 7 ms of the other.

    Args:
        gain: Share of an eager step that compiling saves.
        micro_steps: Forward and backward passes of the run.
        layers: Decoder layers.
        total_flops: Model FLOPs of the run.

    >>> round(compiling_saves(0.3, 10_000, layers=6, total_flops=0.0), 1)
    20.5
    """
    launching = micro_steps * (LAUNCHES_PER_LAYER * layers + OTHER_LAUNCHES) * LAUNCH_SECONDS
    return gain * max(total_flops / EAGER_FLOPS, launching)


def compile_seconds(cache: Path) -> float:
    """Estimate how long compiling takes, by whether the cache of compiled code holds anything.

    Args:
        cache: Inductor's cache folder.
    """
    warm = cache.is_dir() and any(cache.iterdir())
    return WARM_COMPILE_SECONDS if warm else COLD_COMPILE_SECONDS


def step_is_recorded(config: Config, device: str, precision: str) -> bool:
    """Return whether a step is replayed as a CUDA graph: one process, one part a step, no fp16, no teachers."""
    wanted = config.training.cuda_graphs
    possible = device.startswith("cuda") and distributed.world_size() == 1 and precision != "fp16"
    possible = possible and config.training.parts == 1 and config.distillation is None
    if wanted is True and not possible:
        say(
            "cuda_graphs: only on one CUDA GPU, in bf16 or fp32, with the batch in one part and without teachers: "
            "steps are not recorded"
        )
    return possible and (wanted is True or (wanted == "auto" and config.model.type in TABLE))


def free_bytes(device: str) -> int | None:
    """Return the free memory of a GPU, or of the machine for other devices; None where the system does not say."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch could not get memory, on a GPU or on the CPU.

    cuBLAS, a driver that runs out below torch's allocator and Apple's GPUs say so in words of their own.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(part in text for part in OUT_OF_MEMORY)


def is_compile_error(error: BaseException) -> bool:
    """Return whether an error, or what caused it, comes from torch's compiler or from Triton."""
    seen: BaseException | None = error
    chain = []
    while seen is not None:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    compilers = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")
    compiling = any(type(link).__module__.startswith(compilers) for link in chain)
    return compiling and not any(map(is_out_of_memory, chain))


def free_gpu_memory() -> None:
    """Let go of what a failed step held: tensors in cycles, cached blocks, compiled graphs, the peak's mark."""
    import torch

    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.unfreeze()  # a training freezes what it begins with (callbacks.CollectSeldom): model, moments and teachers
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
