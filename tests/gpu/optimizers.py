"""Ten updates of AdamW and of Muon on the device, from equal gradients, against the formulas in float64 on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.gpu.heads import distance
from tests.gpu.rows import Report, Spec

UPDATES = 10
LIMITS = {"adamw": 1e-6, "muon": 2e-2}  # of the weights; of Muon's update, whose products may be bf16
SHAPES = ((192, 192), (768, 192), (192, 768), (192, 192))
QUICK_SHAPES = ((24, 24), (48, 24), (24, 48), (24, 24))


def optimizers(spec: Spec) -> Report:
    """Both optimizers as `build_optimizer` makes them."""
    report = Report()
    for name in LIMITS:
        weights, updated, exact = updates(spec, name)
        for before, found, wanted in zip(weights, updated, exact, strict=True):
            if name == "adamw":
                report.limit("adamw, of the weights", distance(found, wanted), LIMITS[name])
            else:
                moved, should = found.double().cpu() - before.double(), wanted - before.double()
                report.limit("muon, of the update", distance(moved, should), LIMITS[name])
    return report


def updates(spec: Spec, name: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights before, after on the device, after by the formulas."""
    from babyllama.config.schema import TrainingConfig
    from babyllama.training.optim import build_optimizer

    source = torch.Generator().manual_seed(3)
    shapes = QUICK_SHAPES if spec.quick else SHAPES
    weights = [torch.randn(shape, generator=source) * 0.02 for shape in shapes]
    gradients = [[torch.randn(shape, generator=source) * 0.01 for shape in shapes] for _ in range(UPDATES)]
    holder = torch.nn.Module()
    holder.norm = torch.nn.Parameter(torch.ones(4))  # AdamW's part of Muon, without gradients here
    holder.matrices = torch.nn.ParameterList([weight.clone() for weight in weights])
    holder.to(spec.device)
    training = TrainingConfig(optimizer=name, lr=1e-3, weight_decay=0.1)
    optimizer = build_optimizer(holder, training)
    for step in gradients:
        for parameter, gradient in zip(holder.matrices, step, strict=True):
            parameter.grad = gradient.to(spec.device)
        optimizer.step()
    by_formula = adamw_by_formula if name == "adamw" else muon_by_formula
    exact = [
        by_formula(weight.double(), [step[number].double() for step in gradients], training)
        for number, weight in enumerate(weights)
    ]
    return weights, [parameter.detach() for parameter in holder.matrices], exact


def adamw_by_formula(weight: Tensor, gradients: list[Tensor], training: object) -> Tensor:
    """Decoupled weight decay (arXiv 1711.05101, algorithm 2) with bias correction."""
    lr, beta1, beta2 = training.lr, training.adam_beta1, training.adam_beta2
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        weight = weight * (1 - lr * training.weight_decay)
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        denominator = (second / (1 - beta2**step)).sqrt() + training.adam_epsilon
        weight = weight - lr * first / (1 - beta1**step) / denominator
    return weight


def muon_by_formula(weight: Tensor, gradients: list[Tensor], training: object) -> Tensor:
    """Nesterov momentum 0.95, four Newton-Schulz steps, the update's size after arXiv 2502.16982."""
    from babyllama.training.optim import NEWTON_SCHULZ_STEPS

    a, b, c = 3.4445, -4.775, 2.0315
    buffer = torch.zeros_like(weight)
    scale = 0.2 * max(weight.shape) ** 0.5
    for gradient in gradients:
        buffer = 0.95 * buffer + 0.05 * gradient
        x = 0.95 * buffer + 0.05 * gradient
        x = x / x.norm()
        for _ in range(NEWTON_SCHULZ_STEPS):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        weight = weight * (1 - training.lr * training.weight_decay) - training.lr * scale * x
    return weight
