"""`main.py babylm finetune`: the seven tasks, several seeds, told how long it takes before it starts.

The first seed's predictions go into the tree; the figure of every seed is kept, with an interval by Student's t where
there are several. A task that was fine-tuned from the same weights, data and recipe is not trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from babyllama.babylm.data_folder import DataFolder, TaskData
from babyllama.babylm.rules import Rules, Task
from babyllama.babylm.score import scoring_code
from babyllama.babylm.tasks import finetuning
from babyllama.babylm.tasks.finetuning import FineTuned, Recipe
from babyllama.babylm.tree import MAIN, Tree, fingerprint
from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.common.files import write_text_atomic
from babyllama.common.units import human_seconds
from babyllama.evaluation.intervals import wilson

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def wanted_tasks(rules: Rules, names: str | None) -> list[Task]:
    """Fine-tuning tasks to be run.

    Raises:
        ConfigError: One is unknown.
    """
    known = {name: task for name, task in rules.tasks.items() if task.kind == "glue"}
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"--tasks {', '.join(unknown)}: not fine-tuned; known: {', '.join(known)}")
    return [known[name] for name in wanted]


def seeds_of(text: str) -> list[int]:
    """Seeds from a comma-separated list, each once.

    Raises:
        ConfigError: One is not a number.
    """
    try:
        return list(dict.fromkeys(int(seed) for seed in text.split(",")))
    except ValueError:
        raise ConfigError(f"--seeds {text}: whole numbers with commas between them") from None


def fine_tune_all(
    tree: Tree, data: DataFolder, tasks: Sequence[Task], recipe: Recipe, seeds: Sequence[int], device: str
) -> list[str]:
    """Fine-tune the model on every task whose data is there.

    Args:
        tree: The submission tree.
        data: The evaluation data.
        tasks: Tasks wanted.
        recipe: How they are trained; its seed is replaced by each of `seeds`.
        seeds: Seeds; the first one's predictions go into the tree.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        Lines for the tasks without data.

    Raises:
        DataError: Data is not complete.
    """
    from babyllama.evaluation.score_cache import checkpoint_content
    from babyllama.models.loading import load_model, load_tokenizer_of
    from babyllama.models.runtime import resolve_device

    # 1. What is there, what is done.
    sources = [data.of(task, False) for task in tasks]
    missing = [source.where_to_get() for source in sources if not source.is_there]
    there = [source for source in sources if source.is_there]
    content = checkpoint_content(tree.run)
    keys = {source.task.name: _key(content, source, recipe, seeds) for source in there}
    left = [source for source in there if not _is_done(tree, source.task, keys[source.task.name])]
    if not left:
        return missing
    # 2. The model; pairs are cut to what it has positions for.
    model, tokenizer = load_model(tree.run, resolve_device(device)), load_tokenizer_of(tree.run)
    finetuning.require_pad(tokenizer)
    positions = getattr(model.config, "max_position_embeddings", None) or finetuning.MAX_TOKENS
    if positions < finetuning.MAX_TOKENS:
        say(f"note: the model has {positions} positions: pairs are cut to them, the official recipe cuts to 512")
        recipe = replace(recipe, max_tokens=positions)
    # 3. How long it will take, before it starts.
    for line in _estimates(model, tokenizer, left, recipe, len(seeds)):
        say(line)
    # 4. Task by task, each written as soon as it is done.
    for source in left:
        _fine_tune_task(tree, source, model, tokenizer, recipe, seeds, keys[source.task.name])
    return missing


def _key(content: str, source: TaskData, recipe: Recipe, seeds: Sequence[int]) -> str:
    return fingerprint(content, source.digest(), asdict(recipe), list(seeds), scoring_code())


def _is_done(tree: Tree, task: Task, key: str) -> bool:
    record = tree.score(MAIN, task, False)
    return record is not None and record.get("fingerprint") == key


def _estimates(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[TaskData],
    recipe: Recipe,
    seeds: int,
) -> list[str]:
    """Return a line a task and one for all, from a few timed steps."""
    total, lines = 0.0, []
    for source in sources:
        train, valid = source.examples
        seconds = seeds * finetuning.estimate_seconds(model, tokenizer, source.task.name, train, valid, recipe)
        total += seconds
        steps = finetuning.steps_of(source.task.name, recipe, len(train))
        lines.append(f"{source.task.name}: {steps:,} steps x {seeds} seeds, about {human_seconds(seconds)}")
    return [*lines, f"fine-tuning will take about {human_seconds(total)} in all on {model.device}"]


def _fine_tune_task(
    tree: Tree,
    source: TaskData,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    seeds: Sequence[int],
    key: str,
) -> None:
    name = source.task.name
    train, valid = source.examples
    results = []
    for seed in seeds:
        result = finetuning.fine_tune(model, tokenizer, name, train, valid, replace(recipe, seed=seed))
        results.append(result)
        say(f"{name} seed {seed}: {_line(result)}")
        if finetuning.one_class(result.predictions):
            why = "; the first position of a causal model has seen one token" if recipe.pooling == "first" else ""
            say(f"{name} seed {seed}: every prediction is class {result.predictions[0]}: nothing was learned{why}")
    facts = _facts(name, results, seeds, len(valid)) | {"fingerprint": key, "recipe": asdict(recipe)}
    tree.save(MAIN, source.task, False, finetuning.predictions(name, results[0].predictions), facts)
    folder = tree.predictions(MAIN, source.task, False).parent
    write_text_atomic(folder / "results.txt", finetuning.results_text(results[0]))


def _line(result: FineTuned) -> str:
    return (
        f"{100 * result.figure:.2f} (accuracy {100 * result.accuracy:.2f}) at epoch {result.best_epoch} "
        f"({human_seconds(result.seconds)})"
    )


def _facts(name: str, results: Sequence[FineTuned], seeds: Sequence[int], items: int) -> dict[str, Any]:
    """Content of score.json: the first seed's figure, all seeds', and their interval."""
    first = results[0]
    figures = [result.figure for result in results]
    right = round(first.accuracy * items)
    return {
        "schema_version": 1,
        "task": name,
        "figure": first.figure,
        "accuracy_ci": list(wilson(right, items)),
        "seeds": dict(zip(map(str, seeds), figures, strict=True)),
        "mean": sum(figures) / len(figures),
        "mean_ci": finetuning.spread(figures),
        "items": items,
        "seconds": round(sum(result.seconds for result in results), 2),
    }
