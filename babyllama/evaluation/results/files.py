"""The files of an evaluation: results, the scores of single items beside them, and the generated texts.

Results are kept by task: what was measured earlier on the same weights stays until it is measured again. An hour of
minimal pairs must not go because perplexity is asked for afterwards. `measured` holds each task's command, date and
text. Where the weights changed, nothing of earlier is taken over.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from babyllama.common.console import printable, say
from babyllama.common.errors import ConfigError
from babyllama.common.files import atomic_path, read_json, to_json, write_json, write_text_atomic
from babyllama.config.run_layout import BABYLM_RESULTS, EVALUATION_ITEMS, EVALUATION_RESULTS, SAMPLES, TEST_RESULTS

CONTEXT = ("command", "created", "seed", "window", "stride", "device", "eval_data")  # how a task was measured


def mark_measured(results: dict[str, Any], tasks: Mapping[str, Sequence[str]]) -> None:
    """Note in results how each task was measured and under which keys its figures stand.

    Args:
        results: Results that begin with the head of an evaluation; they get `measured`.
        tasks: Task -> the keys of its figures.
    """
    how = {key: results[key] for key in CONTEXT if key in results}
    results["measured"] = {task: {**how, "keys": list(keys)} for task, keys in tasks.items()}


def merge_earlier(results: dict[str, Any], target: Path) -> list[str]:
    """Take over from an earlier results file the tasks that were not measured now, where the weights are the same.

    Args:
        results: New results with `weights` and `measured`; changed in place.
        target: The earlier file; absent: nothing is taken over; damaged: likewise, and a line says so.

    Returns:
        The tasks that were taken over.
    """
    try:
        earlier = dict(read_json(target))
        measured = {task: {**how, "keys": list(how["keys"])} for task, how in earlier["measured"].items()}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        say(f"{target}: damaged ({type(error).__name__}): what was measured earlier is not kept in it")
        return []
    if "weights" not in results or earlier.get("weights") != results["weights"]:
        return []
    kept = [task for task in measured if task not in results["measured"]]
    for task in kept:
        results |= {key: earlier[key] for key in measured[task]["keys"] if key in earlier}
        results["measured"][task] = measured[task]
    return kept


def results_file(checkpoint: Path, output: str | Path | None, split: str = "dev") -> Path:
    """Name the results file and make its folder, before anything is computed.

    Args:
        checkpoint: The checkpoint's folder, where results go by default.
        output: A folder, a *.json file, or None.
        split: `test` has a folder of its own by default, so that nothing that chooses among runs reads it.

    Raises:
        ConfigError: It is a file of another kind, or the folder cannot be made.
    """
    own = checkpoint / (TEST_RESULTS if split == "test" else "") / EVALUATION_RESULTS
    target = own if output is None else Path(output).expanduser()
    if target.suffix != ".json":
        if target.exists() and not target.is_dir():
            raise ConfigError(f"--output: {output}: a file; give a folder, or a name that ends in .json")
        target = target / EVALUATION_RESULTS
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output: {output}: its folder cannot be made: {error.strerror}") from None
    return target


def write_results(results: dict[str, Any], items: Iterable[dict[str, Any]], target: Path) -> Path:
    """Write evaluation_results.json, the items' sidecar and the samples, with what earlier tasks left.

    Args:
        results: Figures by task, as `ModelEvaluator.run` gives them; earlier tasks' are added.
        items: Scores of single documents and pairs.
        target: Results file, from `results_file`; its folder gets the rest.

    Returns:
        The results file.
    """
    kept = merge_earlier(results, target) if "measured" in results else []
    if kept:
        say(f"kept from earlier, of the same weights: {', '.join(kept)}")
    write_json(target, results)
    _write_items(target.parent / EVALUATION_ITEMS, items, kept)
    samples = results.get("generation", {}).get("samples", [])
    if samples:
        blocks = [printable(sample["prompt"] + sample["completion"]) for sample in samples]
        write_text_atomic(target.parent / SAMPLES, "\n\n---\n\n".join(blocks) + "\n")
    return target


def _write_items(path: Path, items: Iterable[Mapping[str, Any]], kept: Sequence[str]) -> None:
    """Write items as gzipped JSON lines, those of the kept tasks in front; says where those cannot be read."""
    earlier: list[dict[str, Any]] = []
    if kept and path.is_file():
        try:
            lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
            earlier = [item for line in lines if line and (item := json.loads(line)).get("task") in kept]
        except (OSError, EOFError, ValueError, AttributeError, zlib.error) as error:
            lost = f"the items of {', '.join(kept)} of earlier are lost: measure again what is to be compared"
            say(f"{path}: damaged ({type(error).__name__}): {lost}")
    text = "".join(to_json(item, indent=None) + "\n" for item in [*earlier, *items])
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode("utf-8", "backslashreplace"), mtime=0))


def babylm_figures(checkpoint: Path) -> dict[str, Any]:
    """Read what `main.py babylm score` left in a run folder.

    Args:
        checkpoint: The run folder.

    Returns:
        {"babylm": content of babylm_results.json} where it is of the weights that lie there now, else nothing.
    """
    from babyllama.evaluation.score_cache import checkpoint_content

    path = checkpoint / BABYLM_RESULTS
    found = read_json(path) if path.is_file() else {}
    return {"babylm": found} if found and found.get("weights") == checkpoint_content(checkpoint) else {}
