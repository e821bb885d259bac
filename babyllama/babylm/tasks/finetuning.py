"""Fine-tuning on seven GLUE and SuperGLUE tasks with the challenge's recipe.

A pair of texts is encoded in the tokenizer's own pair form, truncated to 512 tokens; a head (layer norm without
weights, linear, GELU, layer norm, dropout 0.1, linear) reads the last hidden state of one position. All weights are
trained: AdamW 3e-5 with weight decay 0.01, linear warm-up over 6% of the steps, cosine to a tenth, batches of 32 (16
for boolq and multirc), 10 epochs (wsc 30), float32, no clipping, the last partial batch dropped. The best epoch on the
validation set by F1 (mrpc, qqp) or accuracy gives the predictions, which are on that same set.

Pooling: 2026 pads on the left and reads the last position. 2025 read the first position, where a causal model has seen
one token: every task fell to its majority class (issue 38 of the 2025 pipeline); "first" keeps it for comparison.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.common.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = {"mnli": 3}
F1_TASKS = ("mrpc", "qqp")
MAX_TOKENS = 512
PAIRS = {
    "boolq": ("{question}", "{passage}"),
    "mnli": ("{premise}", "{hypothesis}"),
    "mrpc": ("{sentence1}", "{sentence2}"),
    "rte": ("{sentence1}", "{sentence2}"),
    "qqp": ("{question1}", "{question2}"),
    "multirc": ("Question: {question} Answer: {answer}", "{paragraph}"),
    "wsc": ('Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """A pair of texts with its class."""

    first: str
    second: str
    label: int


@dataclass(frozen=True)
class Recipe:
    """How a task is fine-tuned.

    Attributes:
        lr: Peak learning rate.
        batch_size: Examples of a step; None: 16 for boolq and multirc, else 32.
        epochs: Passes over the training set; None: 30 for wsc, else 10.
        pooling: "last" (2026) or "first" (2025).
        seed: Seed of head, dropout and order.
        max_tokens: Tokens of a pair; longer ones are cut.
        valid_batch: Examples of a forward pass in validation.
    """

    lr: float = 3e-5
    batch_size: int | None = None
    epochs: int | None = None
    pooling: str = "last"
    seed: int = 42
    max_tokens: int = MAX_TOKENS
    valid_batch: int = 64

    def of(self, task: str) -> tuple[int, int]:
        """Batch size and epochs of a task."""
        batch = self.batch_size or (16 if task in ("boolq", "multirc") else 32)
        return batch, self.epochs or (30 if task == "wsc" else 10)


@dataclass
class FineTuned:
    """Result of one fine-tuning.

    Attributes:
        predictions: (N,) class of each validation example.
        figure: F1 or accuracy of these.
        accuracy: Accuracy of these.
        best_epoch: Epoch they are from, counted from 1.
        seconds: Time taken.
    """

    predictions: list[int]
    figure: float
    accuracy: float
    best_epoch: int
    seconds: float


def read_examples(task: str, path: Path) -> list[Example]:
    """Read a *.jsonl of a task.

    Raises:
        DataError: The file or a key is missing; names the line.
    """
    # Read the lines.
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    found = []
    first, second = PAIRS[task]
    # Make each an example, or name the line that is none.
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            label = int(record["label"])
            if not 0 <= label < LABELS.get(task, 2):
                raise ValueError(f"label {label}")
            found.append(Example(first.format_map(record), second.format_map(record), label))
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{path}: line {number}: not an example of {task}: {type(error).__name__}: {error}"
            ) from None
    if not found:
        raise DataError(f"{path}: no example in it")
    return found


def figure_of(task: str, predicted: Sequence[int], labels: Sequence[int]) -> float:
    """F1 of class 1 for mrpc and qqp, accuracy for the others; a fraction."""
    if task in F1_TASKS:
        return f1_score(predicted, labels)
    return sum(p == y for p, y in zip(predicted, labels, strict=True)) / len(labels)


def f1_score(predicted: Sequence[int], labels: Sequence[int]) -> float:
    """2 TP / (2 TP + FP + FN) for class 1, 0 where that is 0/0.

    >>> f1_score([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    both = sum(p == y == 1 for p, y in zip(predicted, labels, strict=True))
    either = sum(p == 1 for p in predicted) + sum(y == 1 for y in labels)
    return 2 * both / either if either else 0.0


def build_classifier(model: PreTrainedModel, labels: int, pooling: str) -> nn.Module:
    """Put a fresh classification head on a model's backbone.

    Args:
        model: A causal language model; its weights are trained in place, so pass a copy.
        labels: Number of classes.
        pooling: "last" or "first" position.
    """
    from torch import nn

    hidden = model.get_input_embeddings().weight.shape[1]
    backbone = model.base_model

    # The head is the challenge's own: two layers with norms, on one position's state.
    class Classifier(nn.Module):
        """Backbone, one position's hidden state, head."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            size = getattr(model.config, "hidden_size", hidden)
            self.head = nn.Sequential(
                nn.LayerNorm(size, 1e-5, elementwise_affine=False),
                nn.Linear(size, size),
                nn.GELU(),
                nn.LayerNorm(size, 1e-5, elementwise_affine=False),
                nn.Dropout(0.1),
                nn.Linear(size, labels),
            )

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:  # (B, T) -> (B, labels)
            # Padding in front must not move the text's positions: GPT-2 has learned them.
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            states = self.backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)[0]
            return self.head(states[:, -1] if pooling == "last" else states[:, 0])

    return Classifier().to(next(model.parameters()).device)


def encode(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], pooling: str, max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of a batch of pairs, (B, T) each, padded on the side that the pooling needs."""
    tokenizer.padding_side = "left" if pooling == "last" else "right"
    texts = [(example.first, example.second) for example in examples]
    found = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=max_tokens)
    return found["input_ids"], found["attention_mask"]


def schedule(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to a tenth.

    >>> [round(schedule(s, 2, 10), 3) for s in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.55, 0.1]
    """
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.1, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def steps_of(task: str, recipe: Recipe, train: int) -> int:
    """Optimizer steps of a fine-tuning, the last partial batch of an epoch dropped."""
    batch, epochs = recipe.of(task)
    return train // batch * epochs


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    train: Sequence[Example],
    valid: Sequence[Example],
    recipe: Recipe,
) -> FineTuned:
    """Fine-tune a copy of a model on a task and predict its validation set.

    Args:
        model: A causal language model; it is not changed.
        tokenizer: Tokenizer of the model, with a pad token.
        task: Name of the task.
        train: Training examples.
        valid: Validation examples, which are predicted as well.
        recipe: How it is trained.

    Raises:
        DataError: There are fewer training examples than a batch holds.
    """
    import torch
    import torch.nn.functional as F

    batch, epochs = recipe.of(task)
    if len(train) < batch:
        raise DataError(f"{task}: {len(train)} training examples are less than a batch of {batch}")
    started = time.perf_counter()
    # 1. The head is drawn from the recipe's seed.
    torch.manual_seed(recipe.seed)
    order = np.random.default_rng(recipe.seed)
    network = build_classifier(copy.deepcopy(model), LABELS.get(task, 2), recipe.pooling)
    device = next(network.parameters()).device
    # 2. Optimizer and schedule.
    total = steps_of(task, recipe, len(train))
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    warmup = int(0.06 * total)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, warmup, total))
    best: FineTuned | None = None
    labels = [example.label for example in valid]
    # 3. Epochs, each followed by a validation; the best one so far keeps its predictions.
    for epoch in range(1, epochs + 1):
        network.train()
        shuffled = order.permutation(len(train))
        for chosen in _batches(shuffled, batch):
            examples = [train[i] for i in chosen]
            ids, mask = encode(tokenizer, examples, recipe.pooling, recipe.max_tokens)
            wanted = torch.tensor([example.label for example in examples], device=device)
            loss = F.cross_entropy(network(ids.to(device), mask.to(device)), wanted)
            loss.backward()
            optimizer.step()
            rates.step()
            optimizer.zero_grad(set_to_none=True)
        predicted = predict(network, tokenizer, valid, recipe)
        figure = figure_of(task, predicted, labels)
        if best is None or figure > best.figure:
            accuracy = sum(p == y for p, y in zip(predicted, labels, strict=True)) / len(labels)
            best = FineTuned(predicted, figure, accuracy, epoch, 0.0)
    best.seconds = time.perf_counter() - started
    return best


def _batches(order: np.ndarray, size: int) -> Iterator[list[int]]:
    """Yield whole batches of an order; what is left over is dropped."""
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size].tolist()


def predict(
    network: nn.Module, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], recipe: Recipe
) -> list[int]:
    """Likeliest class of each example; batches of like length, so that little padding is computed."""
    import torch

    network.eval()
    device = next(network.parameters()).device
    order = sorted(range(len(examples)), key=lambda n: -len(examples[n].first) - len(examples[n].second))
    found = [0] * len(examples)
    with torch.inference_mode():
        for start in range(0, len(order), recipe.valid_batch):
            chosen = order[start : start + recipe.valid_batch]
            ids, mask = encode(tokenizer, [examples[n] for n in chosen], recipe.pooling, recipe.max_tokens)
            classes = network(ids.to(device), mask.to(device)).argmax(dim=-1).tolist()
            for number, value in zip(chosen, classes, strict=True):
                found[number] = value
    return found


def estimate_seconds(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    train: Sequence[Example],
    valid: Sequence[Example],
    recipe: Recipe,
) -> float:
    """Seconds that a fine-tuning will take, from three training steps and one validation batch (the first left out)."""
    batch, epochs = recipe.of(task)
    few = list(train[: 3 * batch]) if len(train) >= 3 * batch else list(train)
    middle = sorted(valid, key=lambda e: len(e.first) + len(e.second))[len(valid) // 2 :][: recipe.valid_batch]
    short = Recipe(**{**vars(recipe), "epochs": 1, "batch_size": batch})
    fine_tune(model, tokenizer, task, few[:batch], middle[:1], short)  # the first step pays for allocations
    steps = max(1, len(few) // batch)
    trained = fine_tune(model, tokenizer, task, few, middle[:1], short).seconds / steps
    begun = time.perf_counter()
    predict(build_classifier(copy.deepcopy(model), LABELS.get(task, 2), recipe.pooling), tokenizer, middle, recipe)
    validated = (time.perf_counter() - begun) / len(middle) * len(valid)
    return trained * steps_of(task, recipe, len(train)) + validated * epochs


def predictions(task: str, predicted: Sequence[int]) -> dict[str, Any]:
    """Content of predictions.json."""
    return {task: {"predictions": [{"id": f"{task}_{n}", "pred": int(p)} for n, p in enumerate(predicted)]}}


def results_text(result: FineTuned) -> str:
    """Return text of results.txt."""
    return f"accuracy: {result.accuracy}\nfigure: {result.figure}\nbest_epoch: {result.best_epoch}\n"


def one_class(predicted: Sequence[int]) -> bool:
    """Return whether all predictions are the same class: the sign that a position without the text was read."""
    return len(set(predicted)) == 1


def require_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a pad token of its own.

    Raises:
        DataError: It has none.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise DataError("fine-tuning pads its batches: this tokenizer has neither a pad nor an EOS token")
        tokenizer.pad_token = tokenizer.eos_token


def spread(figures: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of the mean over seeds by Student's t, None for one seed.

    >>> spread([0.5])
    >>> [round(x, 3) for x in spread([0.5, 0.6, 0.7])]
    [0.352, 0.848]
    """
    if len(figures) < 2:
        return None
    from scipy.stats import t

    values = np.asarray(figures, dtype=np.float64)
    half = float(t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half
