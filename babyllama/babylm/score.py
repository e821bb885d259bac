"""`main.py babylm score`: the model and all its checkpoints on every task whose data is there.

The official scripts ask the hub for a revision a checkpoint; on a local folder they would score the same weights 19
times. Here each checkpoint is loaded once and all its tasks are scored, each written as soon as it is done: a killed
command goes on where it stopped, and what was scored on the same weights, data and rules is not scored again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.babylm.data_folder import DataFolder, TaskData
from babyllama.babylm.rules import Rules
from babyllama.babylm.tasks import acquisition, reading, zero_shot
from babyllama.babylm.tasks.ranking import TextTooLong, encode_spans, rank_items
from babyllama.babylm.tree import MAIN, SCORE, Tree, fingerprint, read_predictions, write_predictions
from babyllama.common.console import progress, say
from babyllama.common.errors import ConfigError
from babyllama.common.files import write_json, write_text_atomic
from babyllama.common.units import human_seconds
from babyllama.config.run_layout import TRAINING_CONFIG

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

AOA_SCORE = "aoa_score.json"


@dataclass(frozen=True)
class Job:
    """One task of one checkpoint."""

    checkpoint: str
    data: TaskData
    key: str


@cache
def scoring_code() -> str:
    """Return SHA-256 of what makes predictions: results of other code, libraries or plugins are not kept."""
    from babyllama.evaluation.score_cache import scoring_version

    folder = Path(__file__).resolve().parent / "tasks"
    sources = b"\0".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return hashlib.sha256(sources + scoring_version().encode()).hexdigest()


def wanted_tasks(rules: Rules, names: str | None) -> set[str]:
    """Return names of the tasks to be scored.

    Args:
        rules: The year's rules.
        names: Comma-separated names; None: all.

    Raises:
        ConfigError: One is unknown or has to be fine-tuned.
    """
    known = [name for name, task in rules.tasks.items() if task.kind != "glue"]
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"--tasks {', '.join(unknown)}: unknown in the rules of {rules.year}; known: {', '.join(known)}"
        )
    return set(wanted)


def plan(tree: Tree, data: DataFolder, names: set[str], fast_only: bool, seed: int) -> tuple[list[Job], list[str]]:
    """Return everything that is to be scored, and lines for what has no data.

    Args:
        tree: The submission tree.
        data: The evaluation data.
        names: Tasks wanted.
        fast_only: Whether the full sets and the age of acquisition are left out.
        seed: Seed of ties.

    Raises:
        DataError: Data of a task is not complete.
    """
    from babyllama.evaluation.score_cache import checkpoint_content

    wanted: list[tuple[str, TaskData]] = []
    # Every checkpoint with every task, the final model with the whole sets.
    own = data.zero_shot(fast_only)
    wanted += [(MAIN, found) for found in own]
    aoa = None if fast_only else data.acquisition
    for name in tree.checkpoints():
        wanted += [(name, found) for found in data.zero_shot(True)]
        wanted += [(name, aoa)] if aoa else []
    wanted = [(name, found) for name, found in wanted if found.task.name in names]
    # Each set of data once: is it there, and is it what the rules say?
    distinct = list({found.name: found for _, found in wanted}.values())
    for found in distinct:
        if found.is_there:
            found.check()
    missing = [found.where_to_get() for found in distinct if not found.is_there]
    # A job's key holds all that its figures depend on.
    contents = {name: checkpoint_content(tree.folder(name)) for name, _ in wanted}
    digests = {found.name: found.digest() for found in distinct}
    jobs = [
        Job(name, found, fingerprint(contents[name], digests[found.name], _facts(data.rules, found, seed)))
        for name, found in wanted
        if found.is_there
    ]
    return jobs, missing


def _facts(rules: Rules, data: TaskData, seed: int) -> list[Any]:
    """Return what beside weights and data decides a task's predictions."""
    return [scoring_code(), rules.ties, asdict(data.task), data.fast, seed if rules.ties == "random" else None]


def score(
    tree: Tree, data: DataFolder, names: set[str], *, fast_only: bool, device: str, seed: int
) -> tuple[list[str], list[str]]:
    """Score what is not scored yet.

    Args:
        tree: The submission tree.
        data: The evaluation data.
        names: Tasks wanted.
        fast_only: Whether only the fast sets are scored.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: Seed of ties.

    Returns:
        Lines for the tasks that have no data, and lines for those that the model cannot be scored on.
    """
    # 1. What is to be done, and what of it is done.
    jobs, missing = plan(tree, data, names, fast_only, seed)
    left = [job for job in jobs if not _is_done(tree, job)]
    done = len(jobs) - len(left)
    say(f"{len(jobs):,} tasks of {1 + len(tree.checkpoints())} models to score" + (f", {done:,} are done" * bool(done)))
    # 2. Each checkpoint is loaded once; a task whose texts are too long for it does not keep the others waiting.
    failed: list[str] = []
    for name in dict.fromkeys(job.checkpoint for job in left):
        model, tokenizer = _load(tree.folder(name), device)
        for job in [job for job in left if job.checkpoint == name]:
            try:
                _score_task(tree, data.rules, job, model, tokenizer, seed)
            except TextTooLong as error:
                failed.append(f"{name}: {error}")
        del model
    # 3. The surprisals of all checkpoints become one file and one figure.
    if not fast_only and any(job.data.task.kind == "aoa" for job in jobs):
        write_acquisition(tree, data)
    return missing, failed


def _is_done(tree: Tree, job: Job) -> bool:
    record = tree.score(job.checkpoint, job.data.task, job.data.fast)
    return record is not None and record.get("fingerprint") == job.key


def _load(folder: Path, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    from babyllama.common.glibc_memory import keep_freed_memory
    from babyllama.models.loading import load_model, load_tokenizer_of
    from babyllama.models.runtime import resolve_device

    keep_freed_memory()
    return load_model(folder, resolve_device(device)), load_tokenizer_of(folder)


def _score_task(
    tree: Tree, rules: Rules, job: Job, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    started = time.perf_counter()
    task, fast = job.data.task, job.data.fast
    bar = partial(progress, description=f"{job.checkpoint} {job.data.name}")
    facts: dict[str, Any] = {"schema_version": 1, "task": task.name, "fast": fast, "fingerprint": job.key}
    # Predictions and figures by the task's kind.
    if task.kind == "reading":
        pred, before = reading.surprisals(model, tokenizer, job.data.reading, bar)
        found: Any = reading.predictions(pred, before)
        cells = reading.figures(job.data.reading, pred, before)
        facts |= {"cells": cells, "figure": sum(cells.values()) / 2, "items": len(pred)}
        write_reading_extras(tree.predictions(job.checkpoint, task, fast).parent, job.data.reading, pred, before, cells)
    elif task.kind == "aoa":
        values = acquisition.surprisals(model, tokenizer, job.data.occurrences, bar)
        words = tree.track.targets[tree.track.checkpoints.index(job.checkpoint)]
        found = acquisition.entries(job.checkpoint, words, job.data.occurrences, values)
        facts |= {"items": len(found), "words": tree.words(job.checkpoint)}
    else:
        found, more = _choices(rules, job.data, model, tokenizer, seed, bar)
        facts |= more
        report = zero_shot.report(task, more["cells"], more["figure"])
        write_text_atomic(tree.predictions(job.checkpoint, task, fast).parent / "best_temperature_report.txt", report)
    # The score is written last: it says that the predictions are complete.
    facts["seconds"] = round(time.perf_counter() - started, 2)
    tree.save(job.checkpoint, task, fast, found, facts)
    say(_line(job, facts))


def _choices(
    rules: Rules,
    data: TaskData,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    bar: Callable[..., Iterable[Any]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Predictions and figures of a choice task."""
    items, task = data.items, data.task
    mean = task.kind == "global_piqa"
    choices = rank_items(model, tokenizer, items, ties=rules.ties, mean=mean, seed=seed, name=data.name, progress=bar)
    found = zero_shot.predictions(task, items, choices)
    cells = zero_shot.cell_figures(task, items, found)
    if mean:  # one key an item: the cells of the report are of no use
        cells = {task.name: sum(cells.values()) / len(cells)}
    ties = sum(choice.tied for choice in choices)
    longest = _longest(tokenizer, [sentence for item in items for sentence in item.sentences])
    facts = {"cells": cells, "figure": zero_shot.task_figure(task, cells), "items": len(items), "ties": ties}
    return found, {**facts, "longest": longest}


def _longest(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> int:
    """Return tokens of the text with the most characters."""
    text = max(texts, key=len)
    return len(encode_spans(tokenizer, [(text, text)])[0].ids)


def _line(job: Job, facts: dict[str, Any]) -> str:
    text = f"{job.checkpoint} {job.data.name}: "
    if job.data.task.kind == "aoa":
        text += f"{facts['items']:,} surprisals"
    elif job.data.task.kind == "reading":
        text += f"eye tracking {100 * facts['cells']['rt']:.2f}, self-paced {100 * facts['cells']['spr']:.2f}"
    else:
        text += f"{100 * facts['figure']:.2f} over {facts['items']:,} items"
        text += f", {facts['ties']:,} ties" if facts["ties"] else ""
    return f"{text} ({human_seconds(facts['seconds'])})"


def write_reading_extras(
    folder: Path, data: reading.ReadingData, pred: np.ndarray, before: np.ndarray, cells: dict[str, float]
) -> None:
    """Write prediction.jsonl and report.txt beside the predictions of the reading task."""
    rows = zip(data.words, pred.tolist(), before.tolist(), strict=True)
    keys = ("Index", "Sentence", "Word", "Logprob", "Prev_Logprob")
    lines = [json.dumps(dict(zip(keys, (n, *pair, p, b), strict=True))) for n, (pair, p, b) in enumerate(rows)]
    write_text_atomic(folder / "prediction.jsonl", "\n".join(lines) + "\n")
    write_text_atomic(folder / "report.txt", reading.report(cells))


def write_acquisition(tree: Tree, data: DataFolder, fill: dict[str, str] | None = None) -> dict[str, Any] | None:
    """Assemble surprisal.json from the checkpoints' surprisals and, where the children's shares are there, the figure.

    Args:
        tree: The submission tree.
        data: The evaluation data.
        fill: Missing checkpoint -> name of the one whose surprisals stand in for it (`--fill-missing`).

    Returns:
        Facts of the figure (aoa, p_value, num_words, filled), None where a checkpoint or the shares are missing.
    """
    from babyllama.models.loading import load_tokenizer_of

    task = next(task for task in data.rules.tasks.values() if task.kind == "aoa")
    # Surprisals of all checkpoints, a repeated one's under the name that it stands for.
    results: list[dict[str, Any]] = []
    for name, words in zip(tree.track.checkpoints, tree.track.targets, strict=True):
        path = tree.predictions((fill or {}).get(name, name), task, False)
        if path.is_file():
            found = read_predictions(path)
            results += [entry | {"step": name, "word_count": words} for entry in found]
    target = tree.predictions(MAIN, task, False)
    content = acquisition.assemble(tree.root.name, results, len(tree.track.checkpoints))
    complete = content["metadata"]["completed_steps"] == len(tree.track.checkpoints)
    write_predictions(target, content)
    if not complete or not data.human_shares.is_file():
        (target.parent / AOA_SCORE).unlink(missing_ok=True)
        (target.parent / SCORE).unlink(missing_ok=True)
        return None
    # The figure needs every checkpoint and the children's shares.
    tokenizer = load_tokenizer_of(tree.run)
    found = acquisition.figure(results, acquisition.read_human(data.human_shares), tokenizer, data.rules.aoa_fit)
    write_json(target.parent / AOA_SCORE, {"aoa": found["aoa"]})
    facts = {"schema_version": 1, "task": task.name, "figure": found["aoa"], "filled": fill or {}, **found}
    write_json(target.parent / SCORE, facts)
    return facts


def beyond_training(tree: Tree) -> list[str]:
    """Return lines for the tasks whose texts are longer than what the model was trained on at a time."""
    from babyllama.config.loading import load_config

    path = tree.run / TRAINING_CONFIG
    if not path.is_file():
        return []
    length = load_config(path).data.seq_length
    longer = {}
    for task in tree.rules.tasks.values():
        for fast in (False, True):
            record = tree.score(MAIN, task, fast) if task.fast or not fast else None
            if record and record.get("longest", 0) > length:
                longer[task.name] = max(record["longest"], longer.get(task.name, 0))
    return [
        f"{name}: texts of up to {tokens:,} tokens, the model was trained on {length:,} at a time: positions beyond "
        "are untrained (data.seq_length)"
        for name, tokens in longer.items()
    ]
