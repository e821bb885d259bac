"""What the rows were measured on: card, driver, versions, clocks, and the rates that this machine reaches now."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tests.gpu.rows import Report, Spec

CLOCKS = "clocks.sm,clocks.max.sm,clocks.mem,power.draw,temperature.gpu,driver_version"


def environment(spec: Spec) -> Report:
    """Facts and rates of the machine.

    Args:
        spec: The device and whether it is quick.
    """
    import torch

    figures: dict[str, Any] = {"device": spec.device, "python": platform.python_version()}
    figures |= {name: _version(name) for name in ("torch", "triton", "transformers", "accelerate")}
    figures["cores"] = os.cpu_count()
    figures["compiler"] = _has_compiler(spec.device)
    figures["gpus"] = torch.cuda.device_count() if spec.cuda else 0
    if spec.cuda:
        if not torch.cuda.is_available():
            return Report(figures, ["no CUDA GPU: torch.cuda.is_available() is false"])
        figures["card"] = torch.cuda.get_device_name()
        figures["memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
        figures |= _clocks()
    seconds = 0.2 if spec.quick else 2.0
    low = torch.bfloat16 if spec.cuda and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    low = torch.float16 if spec.cuda and low is torch.float32 else low
    size = 8192 if spec.cuda else 512 if spec.quick else 2048
    figures["product_dtype"] = str(low).removeprefix("torch.")
    figures["product_flops"] = product_rate(spec.device, low, size, seconds)
    figures["copy_bytes_per_second"] = copy_rate(spec.device, 2**31 if spec.cuda else 2**24, seconds)
    return Report(figures)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _has_compiler(device: str) -> bool:
    """Whether layers can be compiled for the device."""
    if device == "cpu":
        from babyllama.models.runtime import has_cpp_compiler

        return has_cpp_compiler()
    from torch.utils._triton import has_triton

    return has_triton() and any(shutil.which(name) for name in (os.environ.get("CC", ""), "gcc", "clang") if name)


def _clocks() -> dict[str, Any]:
    """Clocks, power and driver as nvidia-smi reads them; nothing is set."""
    command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [part.strip() for part in done.stdout.split("\n")[0].split(",")]
    return dict(zip(CLOCKS.split(","), values, strict=False))


def product_rate(device: str, dtype: Any, size: int, seconds: float) -> float:
    """FLOP/s of a square matrix product, the best of what fits into the time.

    Args:
        device: Where it is computed.
        dtype: Precision.
        size: Rows and columns.
        seconds: Time to measure in.
    """
    import torch

    a = torch.randn(size, size, device=device, dtype=dtype)
    best, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        for _ in range(4):
            a @ a
        wait(device)
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - begun))
    return best


def copy_rate(device: str, size: int, seconds: float) -> float:
    """Bytes read and written a second by a copy on the device.

    Args:
        device: Where.
        size: Bytes of the copied tensor.
        seconds: Time to measure in.
    """
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = max(best, 2 * size / (time.perf_counter() - begun))
    return best


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def environment_line(figures: dict[str, Any]) -> str:
    """The environment in one line of gpu.md."""
    parts = [str(figures.get("card") or f"{figures.get('cores')} CPU cores")]
    if figures.get("driver_version"):
        parts.append(f"driver {figures['driver_version']}")
    parts += [f"{name} {figures[name]}" for name in ("torch", "triton", "transformers") if figures.get(name)]
    if figures.get("product_flops"):
        parts.append(f"{figures['product_flops'] / 1e12:,.3g} TFLOP/s {figures['product_dtype']} product")
        parts.append(f"{figures['copy_bytes_per_second'] / 1e12:,.3g} TB/s copy")
    if figures.get("clocks.sm"):
        parts.append(f"SM clock {figures['clocks.sm']} of {figures.get('clocks.max.sm')}")
    return ", ".join(parts)
