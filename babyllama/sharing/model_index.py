"""The `model-index` of a model card: evaluation_results.json in the form that the hub shows beside a model.

Every figure is taken over as it is, to the last digit, and its 95% interval stands in the metric's `args`, so that
whoever reads the card by machine gets what whoever reads the file gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "text-generation"
# key in evaluation_results.json, the hub's metric, what a reader sees
TEXT_METRICS = (
    ("perplexity", "perplexity", "perplexity per token"),
    ("bits_per_byte", "bits_per_byte", "bits per byte"),
    ("average_loss", "loss", "nats per token"),
)


def eval_results(results: dict[str, Any], corpus: str) -> list[EvalResult]:
    """Turn an evaluation into the hub's entries.

    Args:
        results: Content of evaluation_results.json.
        corpus: Name of the training text, for the entry of its held-out part.

    Returns:
        One entry a figure: held-out text, each set of minimal pairs, completion.
    """
    found = []
    # Text.
    if results.get("perplexity") is not None:
        own = results.get("eval_data") == "the run's held-out set"
        name = f"held-out text of {corpus}" if own else _names(results.get("eval_data"))
        args = {
            key: results[key] for key in ("num_documents", "total_tokens", "total_bytes", "window") if key in results
        }
        found += [
            _entry(results, key, ("held-out" if own else name, name), metric, label, args)
            for key, metric, label in TEXT_METRICS
        ]
    # Choices.
    for name, pairs in (results.get("minimal_pairs") or {}).items():
        args = {"num_pairs": pairs.get("num_pairs"), "ties": pairs.get("ties")}
        label = "accuracy, mean over paradigms"
        found.append(_entry(pairs, "accuracy", (name, f"minimal pairs: {name}"), "accuracy", label, args))
    completion = results.get("completion") or {}
    if completion.get("accuracy") is not None:
        args = {"num_items": completion.get("num_items")}
        dataset = ("completion", f"last words of held-out sentences of {corpus}")
        found.append(_entry(completion, "accuracy", dataset, "accuracy", "exact last word", args))
    return [entry for entry in found if entry.metric_value is not None]


def _entry(
    figures: dict[str, Any], key: str, dataset: tuple[str, str], metric: str, label: str, args: dict[str, Any]
) -> EvalResult:
    from huggingface_hub import EvalResult

    interval = figures.get(f"{key}_ci")
    spread = f" (95% interval {interval[0]:.4g} to {interval[1]:.4g})" if interval else ""
    known = {name: value for name, value in args.items() if value is not None}
    return EvalResult(
        task_type=TASK,
        dataset_type=dataset[0],
        dataset_name=dataset[1],
        metric_type=metric,
        metric_name=label + spread,
        metric_value=figures.get(key),
        metric_args=({"confidence_interval_95": list(interval)} if interval else {}) | known,
    )


def _names(paths: str | Sequence[str] | None) -> str:
    paths = [paths] if isinstance(paths, str) else list(paths or ["text"])
    return ", ".join(Path(str(path)).name for path in paths)
