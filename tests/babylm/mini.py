"""A challenge in miniature: a data folder under the official names, its rules, a run with checkpoints.

All items are made up. The rules are those of a year with the sizes of these items and a schedule of three checkpoints.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from babyllama.babylm.rules import load_rules
from babyllama.babylm.tasks.items import read_items
from tests.babylm.conftest import WORDS, made_items, write_jsonl
from tests.babylm.test_acquisition import write_aoa
from tests.babylm.test_reading import write_reading

FILES = {  # task -> the made items, file names
    "blimp": ("blimp", ["number"]),
    "blimp_supplement": ("supplement", ["turn_taking"]),
    "ewok": ("ewok", ["d"]),
    "entity_tracking": ("entity", ["regular", "ambiref", "move_contents"]),
    "comps": ("comps", ["comps_base", "comps_wugs"]),
    "global_piqa_parallel": ("piqa", ["eng_latn"]),
    "global_piqa_nonparallel": ("piqa2", ["eng_latn"]),
    "wug_adj": ("wug", ["wug_adj_nominalization"]),
    "wug_past": ("wug", ["wug_past_tense"]),
}
AOA_WORDS = ["dog", "cat", "house", "tree", "school"]


def items_of(kind: str) -> list[dict[str, Any]]:
    """Made items, those of Global PIQA also with two options."""
    if kind == "piqa2":
        return [{k: v for k, v in line.items() if k not in ("solution2", "solution3")} | {"label": n % 2}
                for n, line in enumerate(made_items("piqa"))]  # fmt: skip
    return made_items(kind)


def glue_lines(task: str, number: int) -> list[dict[str, Any]]:
    """Pairs of a fine-tuning task; the class can be read from the second text."""
    names = {"boolq": ("question", "passage"), "mnli": ("premise", "hypothesis"), "mrpc": ("sentence1", "sentence2"),
             "rte": ("sentence1", "sentence2"), "qqp": ("question1", "question2")}  # fmt: skip
    found = []
    for n in range(number):
        label, word = n % 2, WORDS[n % len(WORDS)]
        second = f"Yes, the {word} is here." if label else f"No {word} was seen at all today."
        first = f"Is a {word} here?"
        if task == "multirc":
            texts = {"question": first, "answer": word, "paragraph": second}
        elif task == "wsc":
            texts = {"span1_text": word, "span2_text": "it", "text": second}
        else:
            texts = dict(zip(names[task], (first, second), strict=True))
        found.append({**texts, "label": label, "idx": n})
    return found


def write_data(folder: Path, year: int, glue: bool = True) -> Path:
    """Write full_eval and fast_eval of a year's tasks."""
    for task in load_rules(year).tasks.values():
        for fast in (False, True):
            if fast and not task.fast:
                continue
            place = folder / ("fast_eval" if fast else "full_eval") / task.folder(fast)
            if task.kind == "reading":
                place.mkdir(parents=True, exist_ok=True)
                write_reading(place / "reading_data.csv", repeat=8)
            elif task.kind == "aoa":
                write_aoa(place, AOA_WORDS, [18, 20, 22, 24, 26])
            elif task.kind == "glue" and glue:
                write_jsonl(place / f"{task.name}.train.jsonl", glue_lines(task.name, 64))
                write_jsonl(place / f"{task.name}.valid.jsonl", glue_lines(task.name, 12))
            elif task.kind != "glue":
                kind, stems = FILES[task.name]
                lines = items_of(kind)
                if task.name == "ewok":
                    for domain in sorted({line["Domain"] for line in lines}):
                        write_jsonl(place / f"{domain}.jsonl", [line for line in lines if line["Domain"] == domain])
                elif task.name == "blimp":
                    for uid in sorted({line["UID"] for line in lines}):
                        write_jsonl(place / f"{uid}.jsonl", [line for line in lines if line["UID"] == uid])
                else:
                    for stem in stems[:1] if fast else stems:
                        write_jsonl(place / f"{stem}.jsonl", lines)
    return folder


def write_rules(path: Path, year: int, data: Path, milestones: list[str]) -> Path:
    """Rules of a year with the sizes of the data in miniature."""
    import yaml

    rules = load_rules(year)
    tasks: dict[str, Any] = {}
    for task in rules.tasks.values():
        if task.kind == "reading":
            tasks[task.name] = {"cells": {"reading": 112}, "fast_each": 112}
        elif task.kind == "aoa":
            tasks[task.name] = {"cells": {"aoa": 2 * len(AOA_WORDS)}}
        elif task.kind == "glue":
            tasks[task.name] = {"cells": {task.name: 12}}
        elif task.one_each:
            tasks[task.name] = {"one_each": len(WORDS)}
        else:
            sizes = {}
            for fast, key in ((False, "cells"), (True, "fast_cells")):
                if task.fast or not fast:
                    place = data / ("fast_eval" if fast else "full_eval") / task.folder(fast)
                    sizes[key] = dict(Counter(item.uid.lower() for item in read_items(task, place)))
            tasks[task.name] = sizes
    tracks = {"strict-small": {"words": "100k", "exposure": "1M", "milestones": milestones}}
    path.write_text(yaml.safe_dump({"base": year, "tasks": tasks, "tracks": tracks}), encoding="utf-8")
    return path


def write_run(folder: Path, model: Any, tokenizer: Any, names: list[str]) -> Path:
    """A model folder whose checkpoints differ a little from it, as those of a training do."""
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for number, name in enumerate([*names, ""]):
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.data += 0.02 * number * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        model.load_state_dict(weights)
    for number, name in enumerate(names):
        facts = {"name": name, "target": 1, "step": number, "words": 10_000 * (number + 1)}
        (folder / name / "milestone.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder
