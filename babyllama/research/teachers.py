"""Teachers beside a training: loading and checking them, and putting their part of the loss into the student's forward.

Like the fused head, the loss lives in the student's own forward, so that DDP and FSDP see it. Teachers are frozen, in
evaluation mode, on the student's device, and are not parts of the student: they are neither trained nor saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from babyllama.common.console import say
from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.config.schema import Config
from babyllama.data.tokenizer import tokenizer_fingerprint
from babyllama.models.compiled_layers import prepare_layers
from babyllama.models.fused_loss import IGNORE, install_loss
from babyllama.models.loading import load_model, load_tokenizer_of
from babyllama.models.runtime import Runtime
from babyllama.models.structure import backbone_and_head, is_backbone_and_head
from babyllama.research.distillation import Head, LossWeights, distillation_loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_teachers(config: Config, tokenizer: PreTrainedTokenizerBase, device: str) -> list[nn.Module]:
    """Return the configured teachers, frozen.

    Args:
        config: Run configuration with a `distillation` section.
        tokenizer: The student's.
        device: Where the student trains.

    Raises:
        ConfigError: One is missing, has another tokenizer or fewer positions; names it.
    """
    assert config.distillation is not None
    wanted = tokenizer_fingerprint(tokenizer)
    teachers = []
    for path in config.distillation.teachers:
        place = f"distillation.teachers: {path}"
        # Load it with its tokenizer.
        try:
            model = load_model(path)
            own = load_tokenizer_of(path)
        except CheckpointError as error:
            raise ConfigError(f"distillation.teachers: {error}") from error
        # Can the student learn from it: tokens, head, positions?
        if tokenizer_fingerprint(own) != wanted:
            raise ConfigError(
                f"{place}: its tokenizer is not the student's: train teachers and student on the same text, or with "
                "one data.tokenizer_path"
            )
        if backbone_and_head(model) is None:
            raise ConfigError(f"{place}: not a model with a plain linear head over its hidden states")
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and positions < config.data.seq_length:
            raise ConfigError(f"{place}: {positions} positions, data.seq_length is {config.data.seq_length}")
        teachers.append(model.requires_grad_(False).to(device))
    return teachers


def teacher_contents(config: Config) -> dict[str, str]:
    """Return SHA-256 of each teacher's files under its place: part of a run's fingerprint."""
    from babyllama.evaluation.score_cache import checkpoint_content

    paths = config.distillation.teachers if config.distillation else []
    return {f"teacher {number}": checkpoint_content(Path(path).expanduser()) for number, path in enumerate(paths, 1)}


def add_distillation(
    model: nn.Module, config: Config, tokenizer: PreTrainedTokenizerBase, runtime: Runtime
) -> DistillationSums:
    """Load the teachers, compute them as the student is computed, and put their loss into its forward.

    Args:
        model: The student, with the fused loss installed.
        config: Run configuration with a `distillation` section.
        tokenizer: The student's.
        runtime: The student's.

    Raises:
        ConfigError: The student has no plain head, or a teacher cannot be used.
    """
    if not is_backbone_and_head(model):
        raise ConfigError(f"model.type: {config.model.type}: no plain linear head, which distillation needs")
    assert config.distillation is not None
    teachers = load_teachers(config, tokenizer, runtime.device)
    compiled = runtime.compile == "layers"
    for teacher in teachers:
        prepare_layers(teacher, runtime)
        keep_in_low_precision(teacher, runtime.precision)
    say(f"teachers: {', '.join(config.distillation.teachers)}")
    return install_distillation(model, teachers, config, compiled=compiled)


def keep_in_low_precision(teacher: nn.Module, precision: str) -> None:
    """Hold a frozen model's matrices as autocast would round them each step: the same numbers, less memory and time.

    Norms, biases and a head that is also the input embedding stay as they are: autocast computes with them in float32.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    embedding = teacher.get_input_embeddings().weight  # type: ignore[operator]
    for module in teacher.modules() if dtype is not None else ():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear | Conv1D) and weight is not embedding:
            module.weight = nn.Parameter(weight.to(dtype), requires_grad=False)


class DistillationSums:
    """Sums of the two losses since they were last read; tensors, so that a GPU need not wait."""

    def __init__(self) -> None:
        self.ce: Any = 0.0
        self.kl: Any = 0.0
        self.tokens: Any = 0

    def add(self, ce: Tensor, kl: Tensor, tokens: Tensor) -> None:
        """Add a micro-batch's."""
        self.ce, self.kl, self.tokens = self.ce + ce.detach(), self.kl + kl.detach(), self.tokens + tokens

    def read(self) -> dict[str, float]:
        """Means per predicted token (nats; the KL at temperature T, without T^2) since the last reading."""
        if not self.tokens:
            return {}
        found = {"ce_loss": float(self.ce / self.tokens), "kl_loss": float(self.kl / self.tokens)}
        self.__init__()  # type: ignore[misc]
        return found


def install_distillation(
    model: nn.Module, teachers: Sequence[nn.Module], config: Config, *, compiled: bool = False
) -> DistillationSums:
    """Make `model(input_ids, labels=...)` in training give the distillation loss; everything else stays as it was.

    Args:
        model: The student, with the fused loss installed; changed in place.
        teachers: Result of `load_teachers`.
        config: Run configuration with a `distillation` section.
        compiled: Run the block's arithmetic through torch.compile.

    Returns:
        The running sums of both losses.
    """
    options = config.distillation
    assert options is not None
    # Teachers' shares of the expectation.
    weights = options.weights or [1.0] * len(teachers)
    shares = tuple(weight / sum(weights) for weight in weights)
    sums = DistillationSums()

    def compute(
        owner: nn.Module, input_ids: Tensor, attention_mask: Tensor | None, targets: Tensor, count: Tensor | int
    ) -> Tensor:
        kl_count = count if options.reduction == "token" else config.training.batch_size
        recipe = LossWeights(
            temperature=options.temperature,
            weights=shares,
            combine=options.combine,
            ce=options.alpha / count,
            kl=(1 - options.alpha) * options.temperature**2 / kl_count,
            compiled=compiled,
        )
        # Hidden states of all, then both losses in blocks.
        student = _head(owner, input_ids, attention_mask)
        with torch.no_grad():
            heads = [_head(teacher, input_ids, attention_mask) for teacher in teachers]
        loss, ce, kl = distillation_loss(student, heads, targets, recipe)
        sums.add(ce, kl, (targets != IGNORE).sum())
        return loss

    install_loss(model, compute, training_only=True)
    return sums


def _head(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None) -> Head:
    hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]  # (B, T, D)
    head = model.get_output_embeddings()
    return Head(hidden.reshape(-1, hidden.shape[-1]), head.weight, head.bias)
