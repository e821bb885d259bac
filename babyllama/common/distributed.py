"""Run one training in several processes: ranks, waiting for each other, deciding together, ending together.

`torchrun` and `accelerate launch` start the processes, HuggingFace's Trainer and accelerate run the training (DDP or
FSDP2), and nothing of that is made anew here. What they leave open is everything around the steps, where a process that
goes its own way leaves the others waiting for ever: text prepared once, a folder refused, a signal that arrives at one
process only, a loss that is not finite on one process only, a process that is killed. For those there is a group of its
own over gloo (on GPUs too), with a time-out long enough for preparing a large corpus: a dead process is noticed by its
closed connection, not by the time-out.

Without torchrun every function here returns its argument or does nothing: nothing is started, nothing is sent.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from babyllama.common.errors import BabyLlamaError, ConfigError

T = TypeVar("T")
WAIT = timedelta(days=7)  # rank 0 may prepare text or score for hours while the others wait
LAST_WORD = ".last_word"
CGROUP_OF_PROCESS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
CGROUP_1_FILES = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
_LOST = (
    *("closed by peer", "reset by peer", "broken pipe", "connection refused", "socket closed", "connection was closed"),
    *("nccl", "timed out waiting", "gloo", "process group", "processgroup"),
)

_group: Any = None


class LostProcess(BabyLlamaError):
    """Another process of this training is gone: nothing can be computed or saved any more."""


class FailedElsewhere(BabyLlamaError):
    """Another process of this training ended it and says why; this one ends with the same code and prints nothing."""

    def __init__(self, exit_code: int = 1) -> None:
        super().__init__("another process of this training says why it ended")
        self.exit_code = exit_code


# What accelerate reads of the environment and `accelerate launch` or another program may have left there: it would
# decide on precision, compiling, device and sharding, which are the configuration's. One such variable changed weights.
LAUNCHER_PREFIX = "ACCELERATE_"
LAUNCHER_NOTHING = {"", "0", "1", "no", "false", "none"}


def settle_environment() -> None:
    """Read what a launcher left in the environment, before anything else does.

    A RANK without a WORLD_SIZE is a leftover of another program: a single process ignores it and says so. So does it
    with accelerate's own variables.

    Raises:
        ConfigError: A value is no number.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    for name in names:
        value = os.environ.get(name, "0")
        if value.strip() and not value.strip().isdecimal():
            raise ConfigError(f"{name}={value!r} in the environment is no number: unset {name}, or start with torchrun")
    if os.environ.get("WORLD_SIZE", "").strip():
        return
    left = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith(LAUNCHER_PREFIX)}
    told = " ".join(f"{name}={value}" for name, value in left.items() if value.strip().lower() not in LAUNCHER_NOTHING)
    if told:
        print(f"{told} in the environment: ignored, the configuration decides (--set training.KEY=)", file=sys.stderr)
    found = {name: value for name in names if (value := os.environ.pop(name, "")).strip()}
    if any(int(value) for value in found.values()):
        told = " ".join(f"{name}={value}" for name, value in found.items())
        print(f"{told} in the environment without WORLD_SIZE: ignored, this is a single process", file=sys.stderr)


def world_size() -> int:
    """Return the number of processes of a distributed launch (torchrun, accelerate launch), else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes of the launch on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))


def rank() -> int:
    """Return the rank of this process."""
    value = os.environ.get("RANK", "")
    return int(value) if value.isdecimal() else 0  # `settle_environment` tells of one that is no number


def is_main_process() -> bool:
    """Return whether this process prints and writes: rank 0, or the only one."""
    return rank() == 0


def is_initialized() -> bool:
    """Return whether the process group is open."""
    return _group is not None


def available_cores() -> int:
    """Return the cores that this process may use: affinity counts and a container's quota, where the system tells."""
    cores = _cores_by_affinity()
    return min(cores, math.ceil(cpu_quota() or cores))


def _cores_by_affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Return how many cores' time a container or a service may use (`docker run --cpus`), None without a limit.

    Linux keeps it in control groups: in version 2 in `cpu.max` of the group and of those around it, in version 1 in a
    file that a container sees at the top. Neither affinity nor torch's number of threads knows of it: on 64 cores a
    container with one would start 64 threads that wait for each other.
    """
    try:
        lines = CGROUP_OF_PROCESS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    own = PurePosixPath(next((line[3:] for line in lines if line.startswith("0::")), "/"))
    limits = [CGROUPS / str(group).lstrip("/") / "cpu.max" for group in (own, *own.parents)]
    found = []
    for path in limits:
        with suppress(OSError, ValueError):  # no such group here, or "max"
            quota, period = path.read_text(encoding="ascii").split()
            found.append(int(quota) / int(period))
    with suppress(OSError, ValueError):
        quota, period = ((CGROUPS / "cpu" / name).read_text(encoding="ascii") for name in CGROUP_1_FILES)
        found += [int(quota) / int(period)] if int(quota) > 0 else []
    return min(found, default=None)


def limit_threads() -> None:
    """Tell OpenMP a container's quota, before torch is loaded; what the user or a launcher set stays."""
    cores = available_cores()
    if cores < _cores_by_affinity() and local_world_size() == 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def threads_per_process() -> int | None:
    """Threads of one of several processes on a machine; None where torch's own number is right.

    torchrun and accelerate set OMP_NUM_THREADS to 1 where it is unset, which leaves all other cores idle: 1 is taken
    for theirs and not for the user's, any other number for the user's.
    """
    if local_world_size() == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return None
    return max(1, available_cores() // local_world_size())


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Open the process group for one training and close it on success only.

    After an error, closing would wait for ranks that may be dead.

    Args:
        device: Resolved device: `cpu` connects over gloo, `cuda` over nccl.

    Raises:
        ConfigError: The device cannot be shared like this, or the processes do not find each other.
    """
    if world_size() == 1:
        yield
        return
    _join(device)
    yield
    _leave()  # after an error the others may be gone, and leaving would wait for them: the process's end closes all


def _join(device: str) -> None:
    import torch.distributed as dist

    global _group
    _check_device(device)
    try:
        if not dist.is_initialized():
            dist.init_process_group(backend="gloo" if device == "cpu" else "cuda:nccl,cpu:gloo")
        _group = dist.new_group(backend="gloo", timeout=WAIT)
    except (ValueError, RuntimeError) as error:  # DistError is a RuntimeError
        first = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"WORLD_SIZE is {world_size()}, but the processes do not find each other ({first}). "
            f"Start them with torchrun --nproc-per-node {world_size()}, or unset WORLD_SIZE."
        ) from error


def _check_device(device: str) -> None:
    import torch

    if device == "cpu":
        return
    if not device.startswith("cuda"):
        raise ConfigError(f"training.device: {device}: several processes need CUDA GPUs or the CPU (--device cpu).")
    if device != "cuda":
        raise ConfigError(f"training.device: {device}: with several processes each takes its own GPU: --device cuda.")
    found = torch.cuda.device_count()
    if local_world_size() > found:
        raise ConfigError(
            f"{local_world_size()} processes on this machine, {found} GPUs: --nproc-per-node {found}, or --device cpu"
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def _leave() -> None:
    import torch.distributed as dist

    global _group
    _group = None
    if dist.is_initialized():
        dist.destroy_process_group()


def all_reduce_max(*numbers: int) -> tuple[int, ...]:
    """Return the largest of each number over all ranks; all wait here for each other."""
    if _group is None:
        return numbers
    import torch
    import torch.distributed as dist

    found = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=_group)
    return tuple(found.tolist())


def barrier() -> None:
    """Wait until every process is here."""
    all_reduce_max(0)


def all_reduce_sum(*numbers: float) -> tuple[float, ...]:
    """Return the sum of each number over all ranks, in float64 and in the order of the ranks: equal everywhere."""
    if _group is None:
        return numbers
    return tuple(sum(column) for column in zip(*gather(numbers), strict=True))


def gather(value: T) -> list[T]:
    """Return every rank's value, in the order of the ranks."""
    if _group is None:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, group=_group)
    return found


def broadcast(value: T) -> T:
    """Return rank 0's value on every rank."""
    if _group is None:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, group=_group)
    return box[0]


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Run a block on every rank; if one fails, all stop: the first failing rank raises its error, others are silent.

    Raises:
        FailedElsewhere: In the processes that had no error, or not the first; with the first one's exit code.
    """
    if _group is None:
        yield
        return
    problem: Exception | None = None
    try:
        yield
    except Exception as error:  # raised again below, once the others know
        problem = error
    codes = gather(None if problem is None else getattr(problem, "exit_code", 1))
    failed = [number for number, code in enumerate(codes) if code is not None]
    if not failed:
        return
    if problem is not None and rank() == failed[0]:
        raise problem
    raise FailedElsewhere(codes[failed[0]] or 1)


def on_rank_zero(function: Callable[[], T]) -> T:
    """Run a function on rank 0 and return its result on every rank; its error ends all."""
    found: Any = None
    with raise_on_all_ranks():
        if rank() == 0:
            found = function()
    return broadcast(found)


def rank_zero_first(function: Callable[[], T]) -> T:
    """Run a function on every rank, on rank 0 first, so that the others find its result in a cache."""
    found: Any = None
    for turn in (True, False):
        with raise_on_all_ranks():
            if (rank() == 0) == turn:
                found = function()
    return found


def is_lost(error: BaseException) -> bool:
    """Return whether an error, or what caused it, is that of a connection to a process that is gone."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RuntimeError | OSError) and any(text in str(seen).lower() for text in _LOST):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def report_once(folder: Path, resume: Callable[[], str]) -> Iterator[None]:
    """Run the training loop; if it fails, exactly one rank prints why: the first to create the file `.last_word`.

    Args:
        folder: The run folder, which all processes see.
        resume: Function that gives the line's end where a process was lost: the last whole checkpoint and the command.

    Raises:
        LostProcess: Another process is gone.
        FailedElsewhere: Another process said already why.
    """
    if _group is None:
        yield
        return
    try:
        yield
    except Exception as error:
        said: Exception = error
        if not isinstance(error, BabyLlamaError) and is_lost(error):
            said = lost_process(resume())
        if not claim_report(folder):
            raise FailedElsewhere(getattr(said, "exit_code", 1)) from error
        raise said from error


def lost_process(advice: str) -> LostProcess:
    """Return the error of a process that is left.

    Args:
        advice: The last whole checkpoint and the command to go on with.
    """
    return LostProcess(
        f"another process of this training is gone (killed, or out of memory): nothing was saved. {advice}"
    )


def claim_report(folder: Path) -> bool:
    """Return whether this rank is the first to report the end: only one can create the file."""
    try:
        os.close(os.open(folder / LAST_WORD, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except OSError:
        return True  # the disk is full or gone: rather said twice than not at all
    return True


def clear_report_mark(folder: Path) -> None:
    """Remove the mark of an earlier launch."""
    (folder / LAST_WORD).unlink(missing_ok=True)
