"""Knowledge distillation from an ensemble of teachers (Timiryasov and Tastet 2023, arXiv 2308.02019), chunked.

    loss = alpha * CE + (1 - alpha) * T^2 * KL(p || q)

CE is the cross-entropy of the student with the text, q the student's softmax(z / T), and p what the teachers expect:
with `combine: probabilities` the weighted mean of their softmax(z_k / T), with `logits` the softmax of the weighted
mean of their logits divided by T (what the paper's code does). `reduction: token` divides both sums by the number of
predicted tokens; `paper` divides the KL by the number of sequences, so that a token's KL weighs as much as
`seq_length` tokens' CE: with 128 tokens and alpha 0.5 the text itself is all but ignored.

Full-vocabulary distributions of a batch are never stored: as in `babyllama.loss`, a block of about 1,024 rows goes
through the heads of all teachers and of the student, its losses and gradients are taken, and only d(hidden) and
d(weight) stay. With z the student's logits the gradient is

    d loss / d z = alpha * (softmax(z) - onehot) + (1 - alpha) * T * (q - p)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from babyllama.loss import BLOCK_ROWS, IGNORE, scaled_gradients


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
        """The head in the precision it is multiplied in: once a batch, not once a block."""
        return Head(self.hidden.to(dtype), self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    def logits(self, rows: slice) -> Tensor:
        """(R, V) logits of some rows, in float32 or wider."""
        product = F.linear(self.hidden[rows], self.weight, self.bias)
        return product if product.dtype == torch.float64 else product.float()


@dataclass(frozen=True)
class Recipe:
    """How the losses are combined.

    Attributes:
        temperature: T, softens both sides.
        weights: Of the teachers, adding up to 1.
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


def teachers_expect(teachers: Sequence[Head], rows: slice, recipe: Recipe) -> Tensor:
    """(R, V) distribution of the ensemble at temperature T."""
    total: Tensor | None = None
    for head, weight in zip(teachers, recipe.weights, strict=True):
        logits = head.logits(rows)
        part = logits if recipe.combine == "logits" else torch.softmax(logits / recipe.temperature, dim=1)
        total = weight * part if total is None else total.add_(part, alpha=weight)
    assert total is not None
    return torch.softmax(total / recipe.temperature, dim=1) if recipe.combine == "logits" else total


def _block(
    logits: Tensor, labels: Tensor, expected: Tensor, temperature: float, ce_factor: Tensor, kl_factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed CE and KL of one block and the gradient of the combined loss by the logits (R, V)."""
    valid = labels != IGNORE
    target = labels.clamp(min=0).unsqueeze(1)
    log_q1 = torch.log_softmax(logits, dim=1)
    log_qt = torch.log_softmax(logits / temperature, dim=1)
    ce = -(log_q1.gather(1, target).squeeze(1) * valid).sum()
    kl = ((torch.xlogy(expected, expected) - expected * log_qt).sum(dim=1) * valid).sum()
    columns = torch.arange(logits.shape[1], device=logits.device)
    onehot = (columns.unsqueeze(0) == target).to(logits.dtype)
    gradient = ce_factor * (log_q1.exp() - onehot) + (kl_factor / temperature) * (log_qt.exp() - expected)
    return ce, kl, gradient * valid.unsqueeze(1)


@lru_cache
def _compiled_block() -> Callable[..., Any]:
    return torch.compile(_block, dynamic=False)


class _Distill(torch.autograd.Function):
    """The combined loss; gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        teachers: Sequence[Head],
        recipe: Recipe,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        student = Head(hidden, weight, bias).to(dtype)
        teachers = [teacher.to(dtype) for teacher in teachers]
        d_hidden = torch.empty(hidden.shape, dtype=wide, device=hidden.device)
        d_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        d_bias = None if bias is None else torch.zeros(bias.shape, dtype=wide, device=bias.device)
        ce = torch.zeros((), dtype=wide, device=hidden.device)
        kl = torch.zeros_like(ce)
        factors = [torch.as_tensor(f, dtype=wide, device=hidden.device) for f in (recipe.ce, recipe.kl)]
        block = _compiled_block() if recipe.compiled else _block
        for start in range(0, hidden.shape[0], BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            expected = teachers_expect(teachers, rows, recipe)
            logits = student.logits(rows)
            block_ce, block_kl, gradient = block(logits, labels[rows], expected, recipe.temperature, *factors)
            ce += block_ce
            kl += block_kl
            if d_bias is not None:
                d_bias += gradient.sum(0)
            low = gradient.to(dtype)
            d_hidden[rows] = (low @ student.weight).to(wide)
            d_weight += low.t() @ student.hidden[rows]
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(ce, kl)
        return factors[0] * ce + factors[1] * kl, ce, kl

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grad_output), None, None, None, None


def distillation_loss(
    student: Head, teachers: Sequence[Head], labels: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """The combined loss of a batch and its two parts.

    Multiplies in the autocast precision where autocast is on, else in that of the student's hidden states.

    Args:
        student: Takes the gradient.
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
