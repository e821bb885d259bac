"""The fused head against float64: loss and gradients for every shape, vocabulary and precision that a run can meet.

Differences are norms of the difference over norms of the reference, because single entries near zero say nothing. The
device's memory is filled with NaN before each call: an output that the function forgets to write shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.gpu.rows import Report, Spec

LIMITS = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 1e-2, "fp16": 3e-3}
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def head(spec: Spec) -> Report:
    """Every case, compiled or not (`options.compiled`)."""
    report = Report()
    compiled = bool(spec.options.get("compiled"))
    precisions = [name for name in LIMITS if spec.cuda or name != "tf32"]
    if compiled:
        precisions = [name for name in precisions if name != "tf32"]  # the same graph as fp32
    for rows, vocabulary, with_bias in cases(spec, compiled):
        inputs = make_inputs(rows, 64 if spec.quick else 192, vocabulary, with_bias)
        exact = reference(*inputs)
        for precision in precisions:
            found = ours(inputs, spec.device, precision, compiled)
            for name, (value, wanted) in compare(found, exact).items():
                report.limit(f"{precision} {name}", distance(value, wanted), LIMITS[precision])
    report.notes.append(f"{vocabularies(spec)} tokens, rows {[rows for rows, _, _ in cases(spec, compiled)][:3]}")
    return report


def vocabularies(spec: Spec) -> tuple[int, int]:
    """A vocabulary that fills the card's tiles and one that does not."""
    return (512, 349) if spec.quick else (16_000, 9_803)


def cases(spec: Spec, compiled: bool) -> Iterator[tuple[int, int, bool]]:
    """Rows, vocabulary, bias. Compiled code is made anew for each, so fewer of them."""
    aligned, odd = vocabularies(spec)
    for vocabulary in (aligned, odd):
        for rows in (7, 1024, 4099 if not spec.quick else 1031):
            for with_bias in ([vocabulary == odd] if compiled else [False, True]):
                if not (compiled and rows == 1024):  # 4,099 rows are padded to blocks of 1,024
                    yield rows, vocabulary, with_bias


def make_inputs(
    rows: int, width: int, vocabulary: int, with_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Hidden states of norm-layer size, a head of initial size, labels with every eighth ignored."""
    source = torch.Generator().manual_seed(rows * 31 + vocabulary)
    hidden = torch.randn(rows, width, generator=source)
    weight = torch.randn(vocabulary, width, generator=source) * 0.05
    labels = torch.randint(0, vocabulary, (rows,), generator=source)
    labels[::8] = -100
    bias = torch.randn(vocabulary, generator=source) * 0.1 if with_bias else None
    return hidden, weight, labels, bias


def reference(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Loss sum and gradients by autograd in float64 on the CPU, a block of rows at a time."""
    h, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    b = None if bias is None else bias.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(h), 512):
        part = slice(start, start + 512)
        logits = torch.nn.functional.linear(h[part], w, b)
        loss = torch.nn.functional.cross_entropy(logits, labels[part], reduction="sum", ignore_index=-100)
        loss.backward()
        total += loss.detach()
    found = {"loss": total, "dh": h.grad, "dW": w.grad}
    return found | ({"db": b.grad} if b is not None else {})


def ours(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], device: str, precision: str, compiled: bool
) -> dict[str, Tensor]:
    """Loss sum and gradients of the fused head on the device, with an fp16 loss scale where training has one."""
    from babyllama.models.fused_loss import fused_linear_cross_entropy

    hidden, weight, labels, bias = (None if part is None else part.to(device, copy=True) for part in inputs)
    for tensor in (hidden, weight, bias):
        if tensor is not None:
            tensor.requires_grad_()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    dtype = DTYPES[precision]
    scale = 2.0**16 / len(labels) if precision == "fp16" else 1.0  # GradScaler's first scale over the tokens of a step
    poison(device, hidden.numel() * 4, weight.numel() * 4)
    try:
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            loss = fused_linear_cross_entropy(hidden, weight, labels, bias, compiled=compiled)
        (loss * scale).backward()
    finally:
        torch.set_float32_matmul_precision(before)
    found = {"loss": loss.detach(), "dh": hidden.grad / scale, "dW": weight.grad / scale}
    return found | ({"db": bias.grad / scale} if bias is not None else {})


def poison(device: str, *sizes: int) -> None:
    """Leave memory full of NaN behind for the next allocations of these sizes in bytes."""
    for size in sizes:
        torch.full((size // 4 + 1,), float("nan"), device=device)


def compare(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of found and exact by name."""
    assert set(found) == set(exact)
    return {name: (found[name], exact[name]) for name in exact}


def distance(found: Any, exact: Any) -> float:
    """Norm of the difference over the norm of the reference, in float64; NaN where one is in it."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    return float((found - exact).norm() / exact.norm().clamp(min=1e-300))
