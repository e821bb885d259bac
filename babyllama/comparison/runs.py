"""The runs of a comparison: each is loaded when it is first measured and let go where memory is short."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.command import distinct_names
from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.common.provenance import program
from babyllama.config.run_layout import RUN_FINGERPRINT, TRAINING_LOG

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from babyllama.comparison.differences import Group
    from evaluate import ModelEvaluator

# A seed's own: it may begin from weights of its seed, learn from teachers of its seed, and be computed in other parts.
OF_A_SEED = {
    *("training.seed", "training.gradient_accumulation_steps", "model.init_from", "model.init_from weights"),
    *("the trunk's checkpoint", "curriculum.model"),
}
COST_KEYS = ("train_seconds", "tokens_per_second", "peak_memory_bytes", "train_tokens", "train_words", "seed")


class BenchmarkRun:
    """One checkpoint under test: what a benchmark function is given.

    Args:
        path: The checkpoint's folder.
        name: Name of the run in tables.
        evaluator_of: Maker of a folder's ModelEvaluator (root module evaluate.py, which no room imports).

    Attributes:
        path: Folder of the checkpoint.
        name: Name of the run in tables.
        items: Per-item scores as the evaluator's sidecar has them.
        results: Figures by benchmark.
    """

    def __init__(self, path: Path, name: str, evaluator_of: Callable[[Path], ModelEvaluator]) -> None:
        self.path, self.name = path, name
        self._evaluator_of = evaluator_of
        self._evaluator: ModelEvaluator | None = None
        self.items: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}

    @property
    def evaluator(self) -> ModelEvaluator:
        """The run's ModelEvaluator, loaded at first use."""
        if self._evaluator is None:
            self._evaluator = self._evaluator_of(self.path)
        return self._evaluator

    @property
    def model(self) -> PreTrainedModel:
        """The model in evaluation mode."""
        return self.evaluator.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return self.evaluator.tokenizer

    @cached_property
    def training_metrics(self) -> dict[str, Any]:
        """training_metrics.json, empty for a foreign checkpoint."""
        return self.evaluator.training_metrics

    @cached_property
    def content(self) -> str:
        """SHA-256 of the checkpoint's files."""
        from babyllama.evaluation.score_cache import checkpoint_content

        return checkpoint_content(self.path)

    @cached_property
    def held_out_fingerprint(self) -> str:
        """Of the text it was held to during training.

        Raises:
            DataError: It is not a run of ours, or its text is gone.
        """
        from babyllama.data.documents import documents_fingerprint

        return self.training_metrics.get("held_out_fingerprint") or documents_fingerprint(self.evaluator.documents)

    def weight_bytes(self) -> int:
        """Return the bytes of the model's weights, which loads it."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def release(self) -> None:
        """Let go of the model's memory."""
        self._evaluator = None


def named_folders(checkpoints: Sequence[str | Path]) -> dict[str, Path]:
    """Return folders by their names; where a name occurs twice, as many of its parents' in front as tell them apart.

    Raises:
        ConfigError: There are none.
    """
    paths = list(dict.fromkeys(Path(path).expanduser().resolve() for path in checkpoints))
    if not paths:
        raise ConfigError(f"no runs to compare: give their folders, e.g. {program()} benchmark models/*")
    return distinct_names(paths)


def resolve_groups(groups: Mapping[str, Sequence[str]], runs: Sequence[BenchmarkRun]) -> dict[str, list[str]]:
    """Return groups by run names; a member may be given as a name, a folder or a glob."""
    names = {run.path: run.name for run in runs}
    found: dict[str, list[str]] = {}
    for group, members in groups.items():
        paths = {Path(p).expanduser().resolve() for m in members for p in glob.glob(m)}
        found[group] = [n for path, n in names.items() if path in paths or n in members]
    return found


def recipe_of(run: BenchmarkRun) -> dict[str, Any] | None:
    """Return what a run was trained with (its fingerprint) but for what a seed may have of its own; None: not ours."""
    try:
        found = dict(read_json(run.path / RUN_FINGERPRINT))
    except (OSError, ValueError, TypeError):
        return None
    return {key: value for key, value in found.items() if key not in OF_A_SEED and not key.startswith("teacher ")}


def groups_of(runs: Sequence[BenchmarkRun], given: Mapping[str, Sequence[str]]) -> tuple[list[Group], list[str]]:
    """Return the recipes of a comparison, and a line for each run that has a seed's name and another recipe.

    Args:
        runs: The compared runs.
        given: Recipe -> its runs, as the user names them.

    Raises:
        ConfigError: The user's groups contradict each other or name none of the runs.
    """
    from babyllama.comparison.differences import group_runs, not_seeds

    names, chosen = [run.name for run in runs], resolve_groups(given, runs)
    recipes = {run.name: recipe_of(run) for run in runs}
    groups = group_runs(names, chosen, recipes)
    grouped = {name for members in chosen.values() for name in members}
    return groups, not_seeds(groups, [name for name in names if name not in grouped], recipes)


def run_facts(run: BenchmarkRun, groups: Sequence[Any]) -> dict[str, Any]:
    """Return what benchmark_results.json says of one run.

    Args:
        run: After its benchmarks.
        groups: Result of `babyllama.comparison.differences.group_runs`; one of them holds the run.
    """
    from babyllama.data.tokenizer import tokenizer_fingerprint
    from babyllama.pages.run_page import read_log

    return {
        "path": str(run.path),
        "group": next(group.name for group in groups if run.name in group.runs),
        "type": run.model.config.model_type,
        "num_parameters": sum(p.numel() for p in run.model.parameters()),
        "tokenizer": tokenizer_fingerprint(run.tokenizer),
        "window": run.evaluator.window,
        "cost": {key: run.training_metrics.get(key) for key in COST_KEYS},
        "benchmarks": run.results,
        "log": [entry for entry in read_log(run.path / TRAINING_LOG) if "valid_loss" in entry],
    }
