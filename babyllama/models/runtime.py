"""How a run is computed: device, precision, attention, compiling, threads, allocator. Decided once, in one place.

The decision is printed in one line, saved with every checkpoint and used again on resume, because each part of it
changes the last bits of the weights. Every choice can be set in the config: `training.bf16`, `torch_compile`,
`attention`, `threads`, `keep_freed_memory`, `tf32`, `device`; `auto` picks what was measured to be fastest
(docs/performance.md).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama import SPINS
from babyllama.common import distributed
from babyllama.common.cache_folders import INDUCTOR, inductor_cache
from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.common.files import ON_WINDOWS
from babyllama.common.glibc_memory import keep_freed_memory
from babyllama.config.schema import Config, TrainingConfig
from babyllama.models.gpu import (
    compile_obstacle,
    compile_seconds,
    compiling_saves,
    compute_deterministically,
    pinned_gpu,
    step_is_recorded,
)

if TYPE_CHECKING:
    import torch

SHORT_SEQUENCE = 512  # on CPU in bf16, SDPA's backward took 50 ms a layer at 128 tokens, eager 13 ms
RECOMPUTE_FROM = 5e7  # parameters: at 97M recomputing saves 0.3 GB of 4.1 for nothing, at 10M it costs 1.5% of a step
# Whether compiling pays is decided from figures of a fast machine, where it pays latest (docs/performance.md).
COMPILE_SECONDS = 20.0  # cold compile of one decoder layer, its backward and the head's block: 17 s on 2 cores
COMPILE_GAIN = 0.29  # share of an eager step that compiling saves
# 6 x parameters x tokens a second of an eager step on one core: Zen 5 in bf16, Zen 3 (AVX2) in float32
CPU_FLOPS_PER_CORE = {"bf16": 2.5e11, "fp32": 6e10}

# What ONEDNN_MAX_CPU_ISA may say that leaves no bf16 matrix product (oneDNN's documentation, "CPU dispatcher control").
ONEDNN_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


@dataclass(frozen=True)
class Runtime:
    """One run's decisions; equal runtimes on one machine give equal bits.

    `muon_precision` is what Muon's iterations are computed in (None: the run has no Muon). Records from before it was a
    choice computed them in bf16, which is its default.
    """

    device: str
    precision: str
    attention: str
    compile: str
    threads: int
    processes: int = 1
    keep_freed_memory: bool = True
    tf32: bool = True
    muon_precision: str | None = "bf16"
    deterministic: bool = False
    graphs: bool = False

    def line(self) -> str:
        """Return the decision in one line for the terminal."""
        compiled = {"off": "not compiled", "layers": "layers compiled"}[self.compile]
        threads = f", {self.threads} threads{_waiting(self.threads)}" if self.device == "cpu" else ""
        several = f", {self.processes} processes" if self.processes > 1 else ""
        each = " each" if threads and several else ""
        off = "" if self.keep_freed_memory else ", freed memory given back"
        off += ", no TF32" if self.device.startswith("cuda") and not self.tf32 else ""
        off += ", deterministic" if self.deterministic else ""
        muon = f", Muon's iterations in {self.muon_precision}" if self.muon_precision else ""
        compiled += ", each step a CUDA graph" if self.graphs else ""
        chosen = f"{self.device}, {self.precision}{muon}, {self.attention} attention, {compiled}"
        return f"runtime: {chosen}{several}{threads}{each}{off}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for the checkpoint and training_metrics.json."""
        return asdict(self)

    def changes(self, other: Runtime) -> str:
        """What another decision does otherwise, e.g. `precision bf16 -> fp32, threads 4 -> 2`."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return ", ".join(f"{name.replace('_', ' ')} {old} -> {new}" for name, old, new in pairs if old != new)


def _waiting(threads: int) -> str:
    """How threads wait for each other, where that was set: by babyllama/__init__.py or by the user."""
    policy, spins = os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT")
    if threads == 1 or not (policy or spins):
        return ""
    if spins == SPINS:
        return f" that sleep after {int(SPINS):,} spins"
    return f" (GOMP_SPINCOUNT={spins})" if spins else f" (OMP_WAIT_POLICY={policy})"


def resolve_device(name: str) -> str:
    """`auto` -> cuda, mps or cpu; anything else is checked for being there.

    `cuda:N` is `cuda` where a training has made it this process's only GPU (`gpu.pin_gpu`).

    Raises:
        ConfigError: The device is unknown or absent.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.split(":")[0]
    if kind not in {"cpu", "cuda", "mps"}:
        raise ConfigError(f"training.device: {name!r} is not a device. Use auto, cpu, cuda, cuda:N or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"training.device: {name}: this machine or this torch has no CUDA GPU. Use --device cpu.")
    if name == pinned_gpu():
        return "cuda"
    if kind == "cuda" and ":" in name:
        index = name.split(":")[1]
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise ConfigError(f"training.device: {name}: there are {torch.cuda.device_count()} GPUs, counted from 0.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("training.device: mps: this machine has no Apple GPU. Use --device cpu.")
    return name


def decide(config: Config, *, total_steps: int, num_parameters: int) -> Runtime:
    """Decide for a whole run.

    Args:
        config: The run's configuration.
        total_steps: Optimizer steps of the whole run (not of what is left of it).
        num_parameters: Parameters of the model; with total_steps they estimate whether compiling pays.
    """
    import torch

    training = config.training
    # Device and precision.
    device = resolve_device(training.device)
    precision = _precision(training, device)
    # Compiling pays where the run is long.
    tokens = total_steps * training.batch_size * config.data.seq_length
    micro_steps = total_steps * training.parts
    flops = 6.0 * num_parameters * tokens
    if training.max_minutes is not None and device == "cpu":  # the number of steps is not known before it is timed
        flops = 60 * training.max_minutes * _cpu_rate(precision)
    size = RunSize(flops, micro_steps, config.model.n_layer)
    compiling = _compile(training, device, precision, size)
    # Attention depends on whether it is compiled.
    attention = training.attention
    if attention == "auto":
        attention = _attention(device, config.data.seq_length, compiling, num_parameters)
    threads = training.threads or distributed.threads_per_process() or torch.get_num_threads()
    return Runtime(
        device,
        precision,
        attention,
        compiling,
        threads,
        processes=distributed.world_size(),
        keep_freed_memory=training.keep_freed_memory,
        tf32=training.tf32,
        muon_precision=_muon_precision(device) if training.optimizer == "muon" else None,
        deterministic=training.deterministic,
        graphs=step_is_recorded(config, device, precision),
    )


def _muon_precision(device: str) -> str:
    import torch

    return "bf16" if fast_low_precision(device) == torch.bfloat16 else "fp32"


def dtype_of(precision: str) -> torch.dtype:
    """Return the torch type of `bf16`, `fp16` or `fp32`."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


@dataclass(frozen=True)
class RunSize:
    """What decides whether compiling a run pays.

    Attributes:
        flops: Model FLOPs of the whole run.
        micro_steps: Forward and backward passes.
        layers: Decoder layers.
    """

    flops: float
    micro_steps: int
    layers: int


def _precision(training: TrainingConfig, device: str) -> str:
    fp16, bf16, on_gpu = training.fp16, training.bf16, device.startswith("cuda")
    fast_bf16 = device != "mps" and _computes_bf16(device)
    if bf16 is True and not fast_bf16:
        hint = "auto for fp16" if on_gpu else "false for float32"
        say(f"bf16 is slow on this {device}: it has no bf16 matrix instructions (set training.bf16: {hint})")
    if on_gpu:
        if fp16 is not True and (bf16 is True or (bf16 == "auto" and fast_bf16)):
            return "bf16"
        return "fp16" if fp16 is True or (fp16 == "auto" and bf16 == "auto") else "fp32"
    if fp16 is True:  # what older configs of the field say; half precision needs a GPU
        chosen = "bf16" if fast_bf16 and bf16 is not False else "fp32"
        say(f"fp16 needs a CUDA GPU: this run computes in {chosen} on {device}")
        return chosen
    return "bf16" if bf16 is True or (bf16 == "auto" and fast_bf16) else "fp32"


def _attention(device: str, length: int, compiling: str, num_parameters: int) -> str:
    if device.startswith("cuda"):
        return "causal"
    if device != "cpu" or length > SHORT_SEQUENCE:
        return "sdpa"
    if compiling == "off":
        return "eager"
    return "recompute" if num_parameters >= RECOMPUTE_FROM else "plain"


def cpu_has_bf16() -> bool:
    """Return whether the processor multiplies bf16 matrices natively (AVX-512 BF16 or AMX).

    A lowered instruction set counts: `ATEN_CPU_CAPABILITY` (torch's kernels) and `ONEDNN_MAX_CPU_ISA` (oneDNN's matrix
    products) make this machine behave as an older one, and so do its decisions.
    """
    if os.environ.get("ATEN_CPU_CAPABILITY", "").lower() in {"avx2", "default"} or _onednn_lowered():
        return False
    return _processor_has_bf16()


@cache
def _processor_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False  # macOS and Windows: float32, which is fast there
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _onednn_lowered() -> bool:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return limit in ONEDNN_WITHOUT_BF16


def fast_low_precision(device: torch.device | str) -> torch.dtype:
    """Return bfloat16 where the device computes it quickly, else float32.

    Every part that may compute below float32 asks here. Without bf16 instructions a 1,024-wide product runs at
    0.89 GFLOP/s in bfloat16 and at 153 in float32 (2 cores with AVX2).
    """
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = kind == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_rate(precision: str) -> float:
    """FLOP/s of an eager step on all cores."""
    return CPU_FLOPS_PER_CORE["bf16" if precision == "bf16" else "fp32"] * (os.cpu_count() or 1)


def _compile(training: TrainingConfig, device: str, precision: str, size: RunSize) -> str:
    wanted = training.torch_compile
    if wanted is False or device == "mps":
        return "off"
    missing = compiler_missing(device)
    if missing:
        if wanted is True:
            say(f"torch_compile: {missing}: this run is not compiled")
        return "off"
    if wanted is True:
        return "layers"
    if device.startswith("cuda"):
        saved = compiling_saves(COMPILE_GAIN, size.micro_steps, size.layers, size.flops)
        return "layers" if saved > compile_seconds(inductor_cache(precision)) else "off"
    return "layers" if COMPILE_GAIN * size.flops / _cpu_rate(precision) > COMPILE_SECONDS else "off"


def compiler_missing(device: str) -> str | None:
    """Return what this machine lacks to compile for a device, None where nothing is missing."""
    if device.startswith("cuda"):
        return compile_obstacle()
    return None if has_cpp_compiler() else "no C++ compiler was found (install g++)"


def has_cpp_compiler() -> bool:
    """Return whether torch.compile finds a C++ compiler for CPU code; on Windows it takes Microsoft's or CXX."""
    names = [os.environ.get("CXX", ""), *(("cl",) if ON_WINDOWS else ("g++", "clang++"))]
    return any(name and shutil.which(name) for name in names)


def possible(runtime: Runtime) -> bool:
    """Return whether this machine can compute as another run did.

    The device and a compiler must be there, as many threads, and bf16 instructions where it computed in bf16: without
    them a product would be right and a hundred times slower.
    """
    try:
        resolve_device(runtime.device)
    except ConfigError:
        return False
    if "bf16" in (runtime.precision, runtime.muon_precision) and not _computes_bf16(runtime.device):
        return False
    compiler = runtime.compile == "off" or compiler_missing(runtime.device) is None
    return compiler and (runtime.device != "cpu" or runtime.threads <= (os.cpu_count() or 1))


def _computes_bf16(device: str) -> bool:
    """Whether bf16 is worth going on with: cards before Ampere only emulate it; MPS judges by being there."""
    return device == "mps" or str(fast_low_precision(device)) == "torch.bfloat16"


def reuse(saved: Runtime | None, decided: Runtime, training: TrainingConfig) -> Runtime:
    """Return how a resumed run is computed: as its checkpoint was, but for what is set or what this machine lacks.

    Args:
        saved: The checkpoint's runtime, None at step 0.
        decided: What would be decided anew.
        training: Says which keys are set (`auto` is not); a set one wins over the checkpoint, with a line.
    """
    if saved is None or saved == decided:
        return decided
    # What may differ without another curve, or is told.
    if saved.device.startswith("cuda") and decided.device.startswith("cuda"):
        saved = replace(saved, device=decided.device)  # another card of the same machine
    if saved.processes != decided.processes:
        change = f"{saved.processes} -> {decided.processes}"
        say(f"processes: {change}: sums are rounded otherwise, the resume is not bit-exact")
        saved = replace(saved, processes=decided.processes, threads=decided.threads)
    saved = replace(saved, graphs=saved.graphs and decided.graphs)  # not with several processes or parts; the same bits
    if training.device != "auto" and saved.device != decided.device:
        say(f"device: {saved.device} -> {decided.device}, as training.device says: the resume is not bit-exact")
        return decided
    if decided.muon_precision is None:  # older records name one for AdamW too
        saved = replace(saved, muon_precision=None)
    # What the user set otherwise.
    changed = _set_otherwise(saved, decided, training)
    if changed:
        chosen = replace(saved, **changed)
        say(f"{saved.changes(chosen)}, as set: the resume is not bit-exact")
        saved = chosen
    # What this machine lacks.
    asked = training.bf16 is True and saved.precision == decided.precision == "bf16"  # slow, as the user wants
    if not possible(replace(saved, precision="fp32") if asked else saved):
        change = saved.changes(decided)
        say(f"this machine cannot compute as the checkpoint did ({change}): the resume is not bit-exact")
        return decided
    if saved.device == "cpu" and decided.device != "cpu":
        say(f"this run began on the CPU and goes on there; --device {decided.device} moves it (not bit-exact)")
    return saved


def _set_otherwise(saved: Runtime, decided: Runtime, training: TrainingConfig) -> dict[str, Any]:
    """Fields in which a key that is set differs from the checkpoint."""
    is_set = {
        "precision": training.bf16 != "auto" or training.fp16 != "auto",
        "attention": training.attention != "auto",
        "compile": training.torch_compile != "auto",
        "deterministic": training.deterministic,
        "threads": training.threads is not None,
        "graphs": training.cuda_graphs != "auto",
    }
    return {k: getattr(decided, k) for k, given in is_set.items() if given and getattr(saved, k) != getattr(decided, k)}


def apply(runtime: Runtime) -> None:
    """Set what belongs to the process: threads, allocator, TF32, determinism, the inductor cache's folder.

    `gpu.restored_settings` around a training puts back what would reach the scores after it.
    """
    import torch

    torch.set_num_threads(runtime.threads)
    if runtime.keep_freed_memory and runtime.device == "cpu":  # beside a GPU each checkpoint's copy would stay resident
        keep_freed_memory()
    if runtime.device.startswith("cuda"):
        fast = runtime.tf32 and runtime.precision == "fp32"  # under autocast what stays in float32 is meant so
        torch.set_float32_matmul_precision("high" if fast else "highest")
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # sums of fp16 products in float32
    if runtime.deterministic:
        compute_deterministically()
    if runtime.compile != "off":
        os.environ[INDUCTOR] = str(inductor_cache(runtime.precision))
