"""Optimizers and schedules: AdamW, Muon with AdamW for the rest, and automatic lengths of warm-up and decay.

Muon (Jordan et al. 2024, github.com/KellerJordan/Muon) replaces the momentum of a hidden matrix by the nearest
orthogonal matrix, found with four Newton-Schulz steps; `match_rms_adamw` (arXiv 2502.16982) scales it so that
AdamW's learning rates and weight decay carry over. It is for matrices inside the network: embeddings, head, norms and
biases stay with AdamW, under a learning rate of their own. *Cautious* weight decay (after arXiv 2411.16085; Muon's
form is nanochat's) shrinks an entry only where the update shrinks it, too, so that decay never works against the
update. The Trainer knows one optimizer, so `MuonAdamW` presents the two as one: one list of parameter groups for the
schedule, one state dict for the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from babyllama.config.schema import TrainingConfig
from babyllama.models.runtime import fast_low_precision
from babyllama.training.recipes.cooldown import cooldown_schedule

NEWTON_SCHULZ_STEPS = 4  # torch's five end no better (1.9041 against 1.9028 bits per byte), three worse (1.9133)


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with the same state and, under `match_rms_adamw`, the only scale here, the same update.

    Matrices of one shape are orthogonalised together.

    On 2 cores a step on the 42 matrices of a 10M Llama took 70 ms one by one and 52 ms stacked with fused
    multiply-and-add (docs/experiments.md).

    `precision` is what the iterations are computed in, a part of the run's decision (`Runtime.muon_precision`); None
    asks the device.
    """

    precision: torch.dtype | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Return one step: momentum, orthogonalisation by shape, decoupled weight decay, update."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[nn.Parameter]) -> None:
        momentum, lr = group["momentum"], float(group["lr"])
        grads = [p.grad for p in params]
        # Momentum.
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        updates = torch._foreach_lerp(grads, buffers, momentum) if group["nesterov"] else buffers
        # Weight decay: here, or below only where the update shrinks a weight.
        cautious = group.get("cautious", False)
        if not cautious:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        # Matrices of one shape are orthogonalised together.
        for (rows, columns, _), members in _by_shape(params).items():
            stacked = torch.stack([_whole(updates[i], self.precision) for i in members])  # (N, rows, columns)
            constants = group["ns_coefficients"], group["ns_steps"], group["eps"]
            orthogonal = orthogonalize(stacked, *constants, precision=self.precision)
            scale = 0.2 * max(rows, columns) ** 0.5  # arXiv 2502.16982: the size of AdamW's updates
            if orthogonal.is_cuda and not cautious and not hasattr(params[members[0]], "full_tensor"):
                # One launch for all matrices of a shape instead of one each: 42 in llama-10M.
                torch._foreach_add_([params[i] for i in members], list(orthogonal.float().unbind()), alpha=-lr * scale)
                continue
            for i, matrix in zip(members, orthogonal, strict=True):
                update = _shared_out(matrix, params[i])
                if cautious:
                    decay_where_shrinking(params[i], update, lr * group["weight_decay"])
                params[i].add_(update, alpha=-lr * scale)


def decay_where_shrinking(parameter: Tensor, update: Tensor, share: float) -> None:
    """Take `share` of each entry away where `update`, which is about to be subtracted, has the entry's own sign.

    Args:
        parameter: Changed in place.
        update: What is subtracted afterwards, in any positive scale; of the parameter's shape.
        share: Learning rate times weight decay.
    """
    parameter.sub_(parameter * (parameter * update > 0), alpha=share)


class CautiousAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` whose weight decay is cautious; a group's decay stands under `cautious_decay`.

    An update of Adam has the sign of its first moment, so the moment of the coming step decides before that step.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        groups = [{**group, "cautious_decay": group["weight_decay"], "weight_decay": 0.0} for group in groups]
        super().__init__(groups, **options)
        self._step_supports_amp_scaling = False  # fp16: gradients must be unscaled when the moment is looked at

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step: decay where the update will shrink the entry, then AdamW's update."""
        for group in self.param_groups:
            share = float(group["lr"]) * group["cautious_decay"]
            for parameter in group["params"] if share else ():
                if parameter.grad is not None:
                    moment = self.state.get(parameter, {}).get("exp_avg", torch.zeros_like(parameter))
                    decay_where_shrinking(parameter, moment.lerp(parameter.grad, 1 - group["betas"][0]), share)
        return super().step(closure)


def _whole(update: Tensor, precision: torch.dtype | None) -> Tensor:
    """Gather a matrix that FSDP shards, since its orthogonal neighbour cannot be found from a part of it.

    It is gathered in the precision that `orthogonalize` computes in: in bfloat16, half the bytes and the same numbers.
    """
    if not hasattr(update, "full_tensor"):
        return update
    return update.to(precision or fast_low_precision(update.device)).full_tensor()


def _shared_out(update: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of an update that every process has whole."""
    if not hasattr(like, "full_tensor"):
        return update
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(update, like.device_mesh, like.placements, src_data_rank=None)


def _by_shape(params: list[nn.Parameter]) -> dict[tuple[Any, ...], list[int]]:
    """Return indices of the matrices that are alike."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for index, parameter in enumerate(params):
        found.setdefault((*parameter.shape, parameter.device), []).append(index)
    return found


def orthogonalize(
    matrices: Tensor,
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
    *,
    precision: torch.dtype | None = None,
) -> Tensor:
    """Push all singular values of each matrix towards 1 with Newton-Schulz iterations.

    They run in bfloat16 where the device multiplies it quickly and in float32 elsewhere: on a processor of 2 cores
    without bf16 instructions the 42 matrices of llama-10M take 0.144 s in float32 and 4.16 s in bfloat16.

    Args:
        matrices: (N, m, n).
        coefficients: a, b, c of X <- a X + (b A + c A A) X with A = X X^T; from the other side where m > n.
        steps: Iterations.
        eps: Lower bound of the norm divided by.
        precision: Type that the iterations are computed in; None: what the device multiplies quickly.

    Returns:
        (N, m, n) in the precision computed in. Singular values of at least 0.5% of the matrix's norm come out between
        0.65 and 1.21 after four steps; each step lets smaller ones grow about 3.4 times.
    """
    a, b, c = coefficients
    x = matrices.to(precision or fast_low_precision(matrices.device))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    tall = x.shape[1] > x.shape[2]
    for _ in range(steps):
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, polynomial, beta=a) if tall else torch.baddbmm(x, polynomial, x, beta=a)
    return x


class MuonAdamW(torch.optim.Optimizer):
    """Muon and `torch.optim.AdamW` behind one face.

    The two share one state and the group dicts with it, so that its state dict is of the kind that every optimizer has:
    torch's distributed checkpoints (FSDP) read and write no other.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.parts = [muon, adamw]
        groups = [*muon.param_groups, *adamw.param_groups]
        super().__init__([parameter for group in groups for parameter in group["params"]], {})
        self.param_groups = groups
        self._share()

    def _share(self) -> None:
        """Give the parts our groups and our state: a schedule that sets `lr` here sets it there."""
        count = len(self.parts[0].param_groups)
        self.parts[0].param_groups, self.parts[1].param_groups = self.param_groups[:count], self.param_groups[count:]
        for part in self.parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Return one step of both parts."""
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of both parts."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both parts; older checkpoints hold a state dict for each."""
        super().load_state_dict(_joined(state_dict) if "muon" in state_dict else state_dict)
        self._share()


def _joined(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the state dicts of Muon and AdamW as one: AdamW's parameters are numbered on from Muon's."""
    muon, adamw = parts["muon"], parts["adamw"]
    first = sum(len(group["params"]) for group in muon["param_groups"])
    groups = [{**group, "params": [first + number for number in group["params"]]} for group in adamw["param_groups"]]
    state = {**muon["state"], **{first + number: value for number, value in adamw["state"].items()}}
    return {"state": state, "param_groups": [*muon["param_groups"], *groups]}


def embeddings_and_head(model: nn.Module) -> set[int]:
    """Identities (`id`) of the parameters of the embeddings and of the head."""
    found = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return found if head is None else found | {id(p) for p in head.parameters()}


def hidden_matrices(model: nn.Module) -> set[str]:
    """Return names of the parameters that Muon takes: 2-D, trained, neither embedding nor head."""
    outside = embeddings_and_head(model)
    return {n for n, p in model.named_parameters() if p.ndim == 2 and p.requires_grad and id(p) not in outside}


def _decay_groups(
    named: Iterable[tuple[str, nn.Parameter]], weight_decay: float, apart: set[int], embedding_decay: float | None
) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not; `apart` has a decay of its own where one is set. No group is empty."""
    named = list(named)
    chosen = apart if embedding_decay is not None else set()
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2 and id(p) not in chosen], "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim >= 2 and id(p) in chosen], "weight_decay": embedding_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    model: nn.Module, training: TrainingConfig, muon_precision: torch.dtype | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer that the config names.

    Args:
        model: Model whose trained parameters are taken; tied weights once.
        training: lr, muon_adamw_lr, the keys of weight decay and AdamW's constants are read.
        muon_precision: Type of Muon's iterations; None: what the device multiplies quickly.

    Returns:
        AdamW (fused where the device has it), its cautious form, or MuonAdamW.
    """
    # AdamW for everything.
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    adam = {"betas": (training.adam_beta1, training.adam_beta2), "eps": training.adam_epsilon, "fused": _fused(named)}
    decay = training.weight_decay, embeddings_and_head(model), training.embedding_weight_decay
    kind = CautiousAdamW if training.cautious_weight_decay else torch.optim.AdamW
    if training.optimizer == "adamw":
        return kind(_decay_groups(named, *decay), lr=training.lr, **adam)
    # Muon for the hidden matrices, AdamW for the rest.
    hidden = hidden_matrices(model)
    muon = BatchedMuon(
        [p for n, p in named if n in hidden],
        lr=training.lr,
        weight_decay=training.weight_decay,
        momentum=0.95,
        nesterov=True,
        adjust_lr_fn="match_rms_adamw",
        ns_steps=NEWTON_SCHULZ_STEPS,
    )
    muon.precision = muon_precision
    if training.cautious_weight_decay:
        muon.param_groups[0]["cautious"] = True
    rest = _decay_groups([(n, p) for n, p in named if n not in hidden], *decay)
    adamw = kind(rest, lr=training.muon_adamw_lr or training.lr, **adam)
    return MuonAdamW(muon, adamw)


def _fused(named: list[tuple[str, nn.Parameter]]) -> bool:
    """Whether the fused kernels can be used: on CPU, CUDA and MPS, for floating point; else the plain loop is taken."""
    return all(p.device.type in {"cpu", "cuda", "mps"} and p.is_floating_point() for _, p in named)


def warmup_length(training: TrainingConfig, total_steps: int) -> tuple[int, str | None]:
    """Warm-up in steps, and the line to print where it had to be shortened to fit the run.

    >>> warmup_length(TrainingConfig(warmup_steps=0.05), 200)
    (10, None)
    >>> warmup_length(TrainingConfig(warmup_steps=300), 200)[0]
    20
    """
    asked = training.warmup_steps
    steps = round(asked * total_steps) if asked < 1 else int(asked)
    if steps < total_steps:
        return steps, None
    shorter = max(1, total_steps // 10) if total_steps > 1 else 0
    return shorter, f"warm-up of {steps:,} steps is longer than the run of {total_steps:,}: shortened to {shorter:,}"


def schedule_arguments(training: TrainingConfig, total_steps: int) -> dict[str, Any]:
    """`lr_scheduler_type`, `lr_scheduler_kwargs` and `warmup_steps` for HF TrainingArguments."""
    if training.decay_from:
        return cooldown_schedule(training.decay_from, total_steps)
    warmup, _ = warmup_length(training, total_steps)
    if training.lr_scheduler == "wsd":
        decay = min(max(1, round(training.decay_fraction * total_steps)), total_steps - warmup)
        kwargs = {"num_decay_steps": decay, "decay_type": "linear", "min_lr_ratio": 0.0}
        return {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": kwargs, "warmup_steps": warmup}
    names = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
    return {"lr_scheduler_type": names[training.lr_scheduler], "warmup_steps": warmup}
