"""The files of an evaluation: results, the scores of single items beside them, and the generated texts."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from babyllama.common.console import printable
from babyllama.common.files import atomic_path, read_json, to_json, write_json, write_text_atomic
from babyllama.config.run_layout import BABYLM_RESULTS, EVALUATION_ITEMS, EVALUATION_RESULTS, SAMPLES


def write_results(results: dict[str, Any], items: Iterable[dict[str, Any]], output: str | Path) -> Path:
    """Write evaluation_results.json, the items' sidecar and the samples.

    Args:
        results: Figures by task, as `ModelEvaluator.run` gives them.
        items: Scores of single documents and pairs.
        output: A folder, or a *.json file whose folder gets the rest.

    Returns:
        The results file.
    """
    target = Path(output).expanduser()
    if target.suffix != ".json":
        target = target / EVALUATION_RESULTS
    write_json(target, results)
    lines = "".join(to_json(item, indent=None) + "\n" for item in items)
    with atomic_path(target.parent / EVALUATION_ITEMS) as temporary:
        temporary.write_bytes(gzip.compress(lines.encode("utf-8"), mtime=0))
    samples = results.get("generation", {}).get("samples", [])
    if samples:
        blocks = [printable(sample["prompt"] + sample["completion"]) for sample in samples]
        write_text_atomic(target.parent / SAMPLES, "\n\n---\n\n".join(blocks) + "\n")
    return target


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
