"""Knowledge distillation from an ensemble of teachers (Timiryasov and Tastet 2023, arXiv 2308.02019), chunked.

    loss = alpha * CE + (1 - alpha) * T^2 * KL(p || q)

CE is the cross-entropy of the student with the text, q the student's softmax(z / T), and p what the teachers expect:
with `combine: probabilities` the weighted mean of their softmax(z_k / T), with `logits` the softmax of the weighted
mean of their logits divided by T (what the paper's code does). `reduction: token` divides both sums by the number of
predicted tokens; `paper` divides the KL by the number of sequences, so that a token's KL weighs as much as
`seq_length` tokens' CE: with 128 tokens and alpha 0.5 the text itself is all but ignored.

Full-vocabulary distributions of a batch are never stored: as in `babyllama.models.fused_loss`, a block of about
1,024 rows goes through the heads of all teachers and of the student, its losses and gradients are taken, and only
d(hidden) and d(weight) stay. With z the student's logits the gradient is

    d loss / d z = alpha * (softmax(z) - onehot) + (1 - alpha) * T * (q - p)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from babyllama.models.fused_loss import (
    BLOCK_ROWS,
    FP16_LIFT,
    IGNORE,
    accumulation_dtype,
    gradient_product,
    scaled_gradients,
)

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

TINY = 1e-30  # a probability of 0 times its logarithm is 0
_Rows = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Head:
    """An output head and the hidden states before it.

    Attributes:
        hidden: (N, D).
        weight: (V, D).
        bias: (V,) or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Head:
        """Return the head in the precision it is multiplied in: once a batch, not once a block."""
        return Head(self.hidden.to(dtype), self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    def rows(self, rows: slice) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what `_logits` multiplies for a block of rows."""
        return self.hidden[rows], self.weight, self.bias


@dataclass(frozen=True)
class LossWeights:
    """How the losses are combined.

    Attributes:
        temperature: T, softens both sides.
        weights: Weights of the teachers, adding up to 1.
        combine: `probabilities` or `logits`.
        ce: Factor of the summed cross-entropy: alpha / number of predicted tokens (a number or a scalar tensor).
        kl: Factor of the summed KL: (1 - alpha) * T^2 / tokens or sequences.
        compiled: Run the block's arithmetic through torch.compile.
    """

    temperature: float
    weights: tuple[float, ...]
    combine: str
    ce: Any
    kl: Any
    compiled: bool = False


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(R, V) logits in float32, in float64 where the head is."""
    product = F.linear(hidden, weight, bias)
    return product.to(accumulation_dtype(product.dtype))


def teachers_expect(logits: Sequence[Tensor], weights: Sequence[float], temperature: float, combine: str) -> Tensor:
    """(R, V) distribution of the ensemble at temperature T.

    >>> two = [torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]])]
    >>> teachers_expect(two, (0.5, 0.5), 1.0, "probabilities")
    tensor([[0.2500, 0.7500]])
    """
    if combine == "logits":
        logits, weights = [sum(w * z for w, z in zip(weights, logits, strict=True))], (1.0,)
    total: Any = 0.0
    for z, w in zip(logits, weights, strict=True):
        e = _numerators(z, 1 / temperature)
        total = total + e * (w / e.sum(dim=1, keepdim=True))
    return total


def _numerators(logits: Tensor, scale: float) -> Tensor:
    """exp(scale * (z - max z)). Products, not quotients: torch.softmax(z / T) divides each entry, 1.5 times as slow."""
    return torch.exp((logits - logits.amax(dim=1, keepdim=True)) * scale)


def _block(
    student: _Rows,
    teachers: Sequence[_Rows],
    labels: Tensor,
    ce_factor: Tensor,
    kl_factor: Tensor,
    temperature: float,
    weights: tuple[float, ...],
    combine: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Summed CE and KL of one block of rows, and its gradients.

    One function from the products to the products, so that compiling it leaves neither logits nor probabilities in
    memory in float32. Exponentials are what it spends its time on: with a whole T the student's softmax(z) is the T-th
    power of what softmax(z / T) has computed.

    Args:
        student: hidden (R, D), weight (V, D), bias (V,) or None, in the compute precision.
        teachers: The same of each teacher.
        labels: (R,), -100 where the row does not count.
        ce_factor: Factor of the summed cross-entropy in the loss.
        kl_factor: Factor of the summed KL in the loss.
        temperature: T.
        weights: Weights of the teachers.
        combine: `probabilities` or `logits`.

    Returns:
        CE, KL, d(hidden) (R, D), d(weight) (V, D), d(bias) (V,) or None.
    """
    hidden, weight, bias = student
    z = _logits(hidden, weight, bias)
    expected = teachers_expect([_logits(*teacher) for teacher in teachers], weights, temperature, combine)
    valid = (labels != IGNORE).unsqueeze(1)
    target = labels.clamp(min=0).unsqueeze(1)
    # Exponentials once, at the temperature; those without it are a power of them.
    z = z - z.amax(dim=1, keepdim=True)
    soft = torch.exp(z * (1 / temperature))
    plain = soft ** int(temperature) if float(temperature).is_integer() and temperature <= 8 else torch.exp(z)
    soft_sum, plain_sum = soft.sum(dim=1, keepdim=True), plain.sum(dim=1, keepdim=True)
    own = z.gather(1, target)
    # The two losses.
    ce = torch.where(valid, plain_sum.log() - own, 0.0).sum()
    surprise = (expected * (expected.clamp(min=TINY).log() - z * (1 / temperature))).sum(dim=1, keepdim=True)
    kl = torch.where(valid, surprise + soft_sum.log(), 0.0).sum()
    # Their gradient by the logits, in one expression.
    ce_row = torch.where(valid, ce_factor, 0.0)  # (R, 1)
    kl_row = torch.where(valid, kl_factor * (1 / temperature), 0.0)
    columns = torch.arange(z.shape[1], device=z.device)
    gradient = plain * (ce_row / plain_sum) + soft * (kl_row / soft_sum) - expected * kl_row
    gradient = torch.where(columns.unsqueeze(0) == target, gradient - ce_row, gradient)
    d_bias = None if bias is None else gradient.sum(0)
    if hidden.dtype != torch.float16:
        low = gradient.to(hidden.dtype)
        return ce, kl, low @ weight, low.t() @ hidden, d_bias
    # The factors hold 1 / tokens: in fp16 nearly all entries would be 0 (fused_loss.FP16_LIFT says what is lost).
    lift = FP16_LIFT / (ce_factor + kl_factor)
    low = (gradient * lift).to(hidden.dtype)
    return ce, kl, gradient_product(low, weight) / lift, gradient_product(low.t(), hidden) / lift, d_bias


def _on_device(factor: Tensor | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a factor as a scalar there; a number is filled in by the device, where copying it would wait for a GPU."""
    if isinstance(factor, Tensor):
        return factor.to(device, dtype)
    return torch.full((), factor, dtype=dtype, device=device)


@lru_cache
def _compiled_block() -> Callable[..., Any]:
    return torch.compile(_block, dynamic=False)


class _Distill(torch.autograd.Function):
    """The combined loss; gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        teachers: Sequence[Head],
        recipe: LossWeights,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums = accumulation_dtype(hidden.dtype)
        student = Head(hidden, weight, bias).to(dtype)
        teachers = [teacher.to(dtype) for teacher in teachers]
        # Sums are kept wide.
        d_hidden = torch.empty(hidden.shape, dtype=sums, device=hidden.device)
        d_weight = torch.zeros(weight.shape, dtype=sums, device=weight.device)
        d_bias = None if bias is None else torch.zeros(bias.shape, dtype=sums, device=bias.device)
        ce = torch.zeros((), dtype=sums, device=hidden.device)
        kl = torch.zeros_like(ce)
        factors = [_on_device(f, sums, hidden.device) for f in (recipe.ce, recipe.kl)]
        block = _compiled_block() if recipe.compiled else _block
        # Losses and gradients block by block.
        for start in range(0, hidden.shape[0], BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            given = student.rows(rows), [teacher.rows(rows) for teacher in teachers], labels[rows], *factors
            block_ce, block_kl, dh, dw, db = block(*given, recipe.temperature, recipe.weights, recipe.combine)
            ce += block_ce
            kl += block_kl
            d_hidden[rows] = dh
            d_weight += dw
            if d_bias is not None:
                d_bias += db
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(ce, kl)
        return factors[0] * ce + factors[1] * kl, ce, kl

    @staticmethod
    def backward(ctx: FunctionCtx, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grad_output), None, None, None, None


def distillation_loss(
    student: Head, teachers: Sequence[Head], labels: Tensor, recipe: LossWeights
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the combined loss of a batch and its two parts.

    Multiplies in the autocast precision where autocast is on, else in that of the student's hidden states.

    Args:
        student: Student, which takes the gradient.
        teachers: Frozen; the same vocabulary.
        labels: (N,) target ids, -100 where a row does not count. Not shifted here.
        recipe: Factors, temperature, weights.

    Returns:
        The loss to minimise; the summed cross-entropy and the summed KL (nats, at temperature T, without T^2), both
        without gradient.
    """
    device = student.hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else student.hidden.dtype
    with torch.autocast(device, enabled=False):
        return _Distill.apply(student.hidden, student.weight, student.bias, labels, teachers, recipe, dtype)
