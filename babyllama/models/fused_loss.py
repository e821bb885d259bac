"""The output head and its cross-entropy as one step that never stores all logits.

For 32 x 128 tokens and a vocabulary of 16,000 the logits are 65 million numbers (262 MB in float32), and the plain way
holds several copies of them: logits, log-probabilities, their gradient. Here an autograd function walks over about
1,024 rows at a time, computes the loss and both gradients of the rows in one pass, and keeps only d(hidden) and
d(weight). With T rows, width D and vocabulary V:

    logits = h W^T + b                      # (rows, V), float32 after the product
    loss   = sum over rows of logsumexp(logits) - logits[label]
    g      = softmax(logits) - onehot(label)        # d loss / d logits
    dh     = g W        dW = sum of g^T h        db = sum of g

The gradients are exact for the sum of the losses; `backward` multiplies them by the incoming gradient (1/tokens, an
fp16 loss scale, ...), so they stay float32 until then. Rows with label -100 count for nothing.

Why one function and not autograd: on 2 cores the head of a 10M Llama took 619 ms the plain way and 270 ms like this
(docs/performance.md). Shapes are static, a last short block is padded: a compiled function that meets a second size
becomes dynamic and half as fast.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

IGNORE = -100
BLOCK_ROWS = 1024  # 512 and 1,024 are equally fast on 2 cores, 2,048 leaves the cache
CUDA_BLOCK_ENTRIES = 2**28  # logits of a block on a GPU: 16,384 rows of 16,000, 0.5 GB in bf16; each block is launches
EAGER_BLOCK_ENTRIES = 2**26  # where they are not compiled: logits, powers and gradient in float32 are 20 bytes an entry
# Nearly all of softmax - onehot lies below fp16's normal range (6e-5): cast as it is, the median row of dW is off by
# 1.5% and the worst 1% by 6%; times 2^11 before the cast by 0.02% and 0.03%. Entries are at most 1, so none overflows.
FP16_LIFT = 2.0**11
CUDA_MULTIPLE = 64  # rows of the head's weight are filled up to: tensor cores want leading dimensions of 16 bytes


def _block(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return loss sum and gradients of one block of rows.

    Args:
        hidden: (R, D) in the compute precision.
        weight: (V, D) in the compute precision.
        bias: (V,) or None.
        labels: (R,), -100 where the row does not count.
        vocabulary: Number of rows of `weight` that are tokens; those behind them only fill it up.

    Returns:
        Sum of the losses, d(hidden) (R, D), d(weight) (V, D), d(bias) (V,) or None.
    """
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(accumulation_dtype(logits.dtype))  # (R, V)
    if vocabulary < weight.shape[0]:
        logits[:, vocabulary:] = -math.inf  # no probability, no gradient
    valid = (labels != IGNORE).unsqueeze(1)  # (R, 1)
    target = labels.clamp(min=0).unsqueeze(1)
    top = logits.amax(dim=1, keepdim=True)
    powers = torch.exp(logits - top)  # the only one an entry: 4.3 ms for 1,024 x 16,000, logsumexp's second made it 6.3
    total = powers.sum(dim=1, keepdim=True)
    losses = torch.where(valid, top + total.log() - logits.gather(1, target), 0.0)
    columns = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    hit = columns == labels.to(torch.int32).unsqueeze(1)  # (R, V); no column is -100
    g = powers * torch.where(valid, 1 / total, 0.0) - hit.to(logits.dtype)
    lift = FP16_LIFT if hidden.dtype == torch.float16 else 1.0
    g = (g if lift == 1.0 else g * lift).to(hidden.dtype)
    d_bias = g.to(logits.dtype).sum(0) if bias is not None else None
    d_hidden, d_weight = gradient_product(g, weight), gradient_product(g.t(), hidden)
    if lift == 1.0:
        return losses.sum(), d_hidden, d_weight, d_bias
    return losses.sum(), d_hidden / lift, d_weight / lift, None if d_bias is None else d_bias / lift


def gradient_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a product with a gradient by the logits; in float32 where it is fp16: lifted rows add up beyond 65,504."""
    if a.dtype != torch.float16:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def vocabulary_multiple(device: torch.device) -> int:
    """Return what the number of rows of the head's weight is filled up to inside its products: 1 on a CPU."""
    return CUDA_MULTIPLE if device.type == "cuda" else 1


def block_rows(device: torch.device, vocabulary: int, compiled: bool = True) -> int:
    """Return how many rows make a block: what a CPU's cache holds, on a GPU nearly always the whole micro-batch.

    >>> block_rows(torch.device("cpu"), 16_000), block_rows(torch.device("cuda"), 16_000)
    (1024, 16384)
    >>> block_rows(torch.device("cuda"), 16_000, compiled=False)
    4096
    """
    if device.type != "cuda":
        return BLOCK_ROWS
    entries = CUDA_BLOCK_ENTRIES if compiled else EAGER_BLOCK_ENTRIES
    return max(entries // vocabulary // BLOCK_ROWS, 1) * BLOCK_ROWS


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what sums are kept in: float32, or float64 where the computation is."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class FusedBlock:
    """The block function, plain or compiled once a process; both give the same numbers to rounding."""

    _compiled: Callable[..., Any] | None = None

    @classmethod
    def get(cls, compiled: bool) -> Callable[..., Any]:
        """Return the function to call."""
        if not compiled:
            return _block
        if cls._compiled is None:
            cls._compiled = torch.compile(_block, dynamic=False)
        return cls._compiled


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies of `hidden @ weight.T + bias` against labels; gradients computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        dtype: torch.dtype,
        fast: bool,
    ) -> Tensor:
        block = FusedBlock.get(fast)
        rows, sums = hidden.shape[0], accumulation_dtype(dtype)
        # Everything in the precision of the products, the vocabulary filled up for tensor cores.
        low_hidden, low_weight = hidden.to(dtype), weight.to(dtype)
        low_bias = None if bias is None else bias.to(dtype)
        vocabulary = weight.shape[0]
        missing = -vocabulary % vocabulary_multiple(hidden.device)
        if missing:  # a lowered vocabulary, 349 or 9,803: products two to four times slower on a GPU's tensor cores
            low_weight = F.pad(low_weight, (0, 0, 0, missing))
            low_bias = None if low_bias is None else F.pad(low_bias, (0, missing))
        d_hidden = torch.empty(rows, hidden.shape[1], dtype=sums, device=hidden.device)
        d_weight = torch.zeros_like(low_weight, dtype=sums)
        d_bias = None if low_bias is None else torch.zeros_like(low_bias, dtype=sums)
        total = torch.zeros((), dtype=sums, device=hidden.device)
        # Loss and gradients block by block: logits of one block exist at a time.
        size = block_rows(hidden.device, vocabulary, fast)
        for start in range(0, rows, size):
            end = min(start + size, rows)
            loss, dh, dw, db = block(low_hidden[start:end], low_weight, low_bias, labels[start:end], vocabulary)
            total += loss
            d_hidden[start:end] = dh
            d_weight += dw
            if d_bias is not None:
                d_bias += db
        ctx.save_for_backward(d_hidden, d_weight[:vocabulary], None if d_bias is None else d_bias[:vocabulary])
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled_gradients(ctx, grad_output), None, None, None


def scaled_gradients(ctx: FunctionCtx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients that a forward pass saved (hidden, weight, bias), float32 until they meet the incoming one."""
    d_hidden, d_weight, d_bias = ctx.saved_tensors
    hidden_dtype, weight_dtype = ctx.dtypes
    grad_bias = None if d_bias is None else (d_bias * grad_output).to(weight_dtype)
    return (d_hidden * grad_output).to(hidden_dtype), (d_weight * grad_output).to(weight_dtype), grad_bias


def _loss_only(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Return sum of the losses without gradients, block by block."""
    total = torch.zeros((), dtype=accumulation_dtype(hidden.dtype), device=hidden.device)
    size = block_rows(hidden.device, weight.shape[0], compiled=False)
    for start in range(0, hidden.shape[0], size):
        rows = slice(start, start + size)
        logits = F.linear(hidden[rows], weight, bias).to(total.dtype)
        total += F.cross_entropy(logits, labels[rows], reduction="sum", ignore_index=IGNORE)
    return total


def fused_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, *, compiled: bool = False
) -> Tensor:
    """Return sum of the cross-entropies (nats) of a linear head, logits never stored whole.

    Computes in the autocast precision where autocast is on, else in that of `hidden`; sums in float32 (float64
    throughout if `hidden` is float64).

    Args:
        hidden: (N, D) last hidden states.
        weight: (V, D) of the head.
        labels: (N,) target ids, -100 where a row does not count. Not shifted here.
        bias: (V,) of the head, or None.
        compiled: Run the block through torch.compile.

    Returns:
        A scalar: divide by the number of predicted tokens for the mean.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        if not torch.is_grad_enabled():
            low_bias = None if bias is None else bias.to(dtype)
            return _loss_only(hidden.to(dtype), weight.to(dtype), low_bias, labels)
        return _FusedLinearCrossEntropy.apply(*_pad_rows(hidden, labels, weight, bias, compiled), dtype, compiled)


def _pad_rows(
    hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, compiled: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Fill the last block (label -100) so that every block has one static size; fewer rows than one block stay."""
    size = block_rows(hidden.device, weight.shape[0], compiled)
    missing = -hidden.shape[0] % size if hidden.shape[0] > size else 0
    if missing:
        hidden = F.pad(hidden, (0, 0, 0, missing))
        labels = F.pad(labels, (0, missing), value=IGNORE)
    return hidden, weight, bias, labels


def shift_labels(labels: Tensor) -> Tensor:
    """Labels moved one to the left, so that position t is scored against token t + 1; the last position is -100."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE)  # (B, T): keeps B*T rows, a multiple of the block


def install_loss(model: nn.Module, compute: Callable[..., Tensor], *, training_only: bool = False) -> None:
    """Make `model(input_ids, labels=...)` answer with a loss of ours; other calls go to the forward that was there.

    It lives in the model's own forward (not beside it), so that DDP and FSDP, which wrap `forward`, see it.

    Args:
        model: A causal language model; changed in place.
        compute: `compute(model, input_ids, attention_mask, targets, count) -> loss`: targets (B*T,) are shifted labels,
            count is what to divide by: the Trainer's `num_items_in_batch` (gradient accumulation), else the tokens
            predicted.
        training_only: Leave calls without gradients to the forward that was there.
    """
    from transformers.modeling_outputs import CausalLMOutputWithPast

    plain_forward = model.forward

    def forward(
        self: nn.Module,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        if labels is None or (training_only and not torch.is_grad_enabled()):
            given = {} if labels is None else {"labels": labels, "num_items_in_batch": num_items_in_batch}
            return plain_forward(input_ids=input_ids, attention_mask=attention_mask, **given, **kwargs)
        targets = shift_labels(labels).reshape(-1)
        count = num_items_in_batch if num_items_in_batch is not None else (targets != IGNORE).sum().clamp(min=1)
        return CausalLMOutputWithPast(loss=compute(self, input_ids, attention_mask, targets, count))

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]


def install_fused_loss(model: nn.Module, *, compiled: bool = False) -> None:
    """Make `model(input_ids, labels=...)` use the fused head; without labels the model answers as before.

    GPT-2's own loss divides by T instead of T - 1 tokens (its `loss_type` is unset); here all models divide by the
    number of tokens predicted, or by `num_items_in_batch` where the Trainer gives it.

    Args:
        model: A causal language model for which `structure.is_backbone_and_head` holds; changed in place.
        compiled: Run the head's block through torch.compile.
    """

    def compute(
        owner: nn.Module, input_ids: Tensor, attention_mask: Tensor | None, targets: Tensor, count: Tensor | int
    ) -> Tensor:
        hidden = owner.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]  # (B, T, D)
        return owner.get_output_embeddings()(hidden.reshape(-1, hidden.shape[-1]), targets) / count

    _install_head(model.get_output_embeddings(), compiled)
    install_loss(model, compute)


def _install_head(head: nn.Linear, compiled: bool) -> None:
    """Make `head(hidden, targets)` answer with the sum of the losses; `head(hidden)` still gives logits.

    The loss goes through the head's own call, because FSDP gathers a module's sharded weight when it is called: read
    from outside, `head.weight` is a shard.
    """

    def forward(self: nn.Linear, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            return F.linear(hidden, self.weight, self.bias)
        return fused_linear_cross_entropy(hidden, self.weight, targets, self.bias, compiled=compiled)

    head.forward = types.MethodType(forward, head)  # type: ignore[method-assign]
