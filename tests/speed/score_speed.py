"""Score minimal pairs and a text with ours and with lm-evaluation-harness, in turn, and compare item by item.

    python -m tests.speed.score_speed models/Llama-10M --pairs data/blimp --harness-python ~/lmeval/bin/python

The harness (`pip install lm_eval`) stands in an environment of its own: its Python is given. Both score the same files
of pairs (a task of its own over local JSONL, `target_delimiter: ""`) and the same held-out documents
(`loglikelihood_rolling`, the run's window). Printed: choices that differ, the largest difference of a score, the
difference of the text's total, and seconds of each, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HARNESS = """
import json, sys, time
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
spec = json.loads(sys.argv[1])
started = time.perf_counter()
found = simple_evaluate(model="hf", model_args=spec["model_args"], tasks=[spec["task"]], batch_size=spec["batch_size"],
                        device="cpu", task_manager=TaskManager(include_path=spec["folder"], include_defaults=False),
                        log_samples=True, bootstrap_iters=0)
seconds = time.perf_counter() - started
rows = [[s["doc"].get("UID"), str(s["doc"].get("pairID")), s["resps"]] for s in found["samples"][spec["task"]]]
json.dump({"seconds": seconds, "rows": rows}, open(spec["output"], "w"))
"""
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {files}}}}}
test_split: test
doc_to_text: ""
num_fewshot: 0
"""
PAIRS = """output_type: multiple_choice
doc_to_target: 0
doc_to_choice: "{{[sentence_good, sentence_bad]}}"
target_delimiter: ""
metric_list: [{metric: acc}]
"""
TEXT = """output_type: loglikelihood_rolling
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
"""


def write_task(folder: Path, name: str, files: Sequence[Path], what: str) -> None:
    """A task of the harness over local JSONL files."""
    listed = json.dumps([str(file) for file in files])
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, files=listed) + what, encoding="utf-8")


def harness(python: str, checkpoint: Path, task: str, folder: Path, model_args: str, batch_size: int) -> dict[str, Any]:
    """Run one task of the harness in its own process; its seconds leave the imports out."""
    output = folder / f"{task}.out.json"
    spec = {
        "model_args": f"pretrained={checkpoint},dtype=float32{model_args}",
        "task": task,
        "folder": str(folder),
        "output": str(output),
        "batch_size": batch_size,
    }
    subprocess.run([python, "-c", HARNESS, json.dumps(spec)], check=True, stdout=subprocess.DEVNULL)
    return json.loads(output.read_text(encoding="utf-8"))


def ours(checkpoint: Path, folder: Path, screen: bool) -> tuple[float, list[dict[str, Any]]]:
    """Seconds (loading included, as in the harness) and items of our own scoring."""
    from evaluate import ModelEvaluator

    started = time.perf_counter()
    evaluator = ModelEvaluator(checkpoint, "cpu", minimal_pairs=[str(folder)], screen_pairs=screen)
    evaluator.evaluate_minimal_pairs()
    return time.perf_counter() - started, evaluator.items


def compare_pairs(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Alternate harness, ours and ours screened over the same pairs."""
    files = sorted(args.pairs.glob("*.jsonl"))[: args.paradigms]
    chosen = folder / "pairs"
    chosen.mkdir()
    for file in files:
        (chosen / file.name).write_bytes(file.read_bytes())
    write_task(folder, "pairs", [chosen / file.name for file in files], PAIRS)
    seconds: dict[str, list[float]] = {"harness": [], "ours": [], "screened": []}
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        theirs = harness(args.harness_python, args.checkpoint, "pairs", folder, "", args.batch_size)
        seconds["harness"].append(theirs["seconds"])
        for name, screen in (("ours", False), ("screened", True)):
            spent, items = ours(args.checkpoint, chosen, screen)
            seconds[name].append(spent)
            found[name] = items
    scores = {(uid, pair): [r[0][0] for r in resps] for uid, pair, resps in theirs["rows"]}
    differing, largest = 0, 0.0
    for item in found["ours"]:
        good, bad = scores[item["uid"], item["pair_id"]]
        differing += (good > bad) != item["correct"]
        largest = max(largest, abs(good - item["good"]), abs(bad - item["bad"]))
    changed = sum(a["correct"] != b["correct"] for a, b in zip(found["ours"], found["screened"], strict=True))
    figures = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "paradigms": len(files),
        "pairs": len(found["ours"]),
        "choices_that_differ_from_the_harness": differing,
        "largest_difference_of_a_score": largest,
        "choices_changed_by_screening": changed,
        "seconds": figures,
        "ours_to_harness": figures["ours"] / figures["harness"],
        "screened_to_harness": figures["screened"] / figures["harness"],
    }


def compare_text(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The held-out documents' total, by the harness's rolling log-likelihood and by ours."""
    from evaluate import ModelEvaluator

    evaluator = ModelEvaluator(args.checkpoint, "cpu")
    documents = evaluator.documents[: args.documents]
    (folder / "text.jsonl").write_text(
        "".join(json.dumps({"text": d.text}) + "\n" for d in documents), encoding="utf-8"
    )
    write_task(folder, "text", [folder / "text.jsonl"], TEXT)
    theirs = harness(
        args.harness_python,
        args.checkpoint,
        "text",
        folder,
        f",max_length={evaluator.window},add_bos_token=False",
        args.batch_size,
    )
    total = sum(float(r[0][0] if isinstance(r[0], list) else r[0]) for _, _, r in theirs["rows"])
    started = time.perf_counter()
    figures = evaluator.calculate_perplexity(documents)
    return {
        "documents": len(documents),
        "harness_nats": -total,
        "our_nats": figures["average_loss"] * figures["total_tokens"],
        "relative_difference": abs(-total / (figures["average_loss"] * figures["total_tokens"]) - 1),
        "seconds": {"harness": theirs["seconds"], "ours": time.perf_counter() - started},
    }


def main() -> int:
    """Print the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=lambda text: Path(text).resolve())
    parser.add_argument("--pairs", type=Path, required=True, help="folder of *.jsonl pairs")
    parser.add_argument("--harness-python", default=sys.executable, help="a Python that has lm_eval")
    parser.add_argument("--paradigms", type=int, default=67)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {"text": compare_text(args, folder)} if args.documents else {}
        found["pairs"] = compare_pairs(args, folder)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
