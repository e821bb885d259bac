"""A corpus of distinct stories and a training of seconds, for tests that need a real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from babyllama.config.loading import load_config
from train import train

SUBJECTS = ("dog", "cat", "bird", "girl", "boy", "fox", "cow", "hen")
VERBS = ("sees", "likes", "follows", "finds", "hears", "leaves")


def story(number: int) -> str:
    """A document of its own for each number."""
    first, second = SUBJECTS[number % 8], SUBJECTS[(number // 8) % 8]
    return f"Story {number}: the {first} {VERBS[number % 6]} the {second}. " * 3


def write_corpus(folder: Path, numbers: range, name: str = "a.txt") -> Path:
    """A file of stories parted by end-of-text lines."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{story(number)}\n<|endoftext|>\n" for number in numbers)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def settings(folder: Path, output: Path, **more: Any) -> Any:
    """A tiny training of four steps."""
    values = {
        "model.type": "Llama",
        "model.name": "run",
        "model.hidden_size": 32,
        "model.n_layer": 1,
        "model.n_head": 2,
        "data.train_path": str(folder),
        "data.seq_length": 32,
        "data.vocab_size": 300,
        "training.max_steps": 4,
        "training.batch_size": 4,
        "training.device": "cpu",
        "logging.output_dir": str(output),
    }
    return load_config(None, [], values | {key.replace("__", "."): value for key, value in more.items()})


def trained_on(base: Path, numbers: range) -> tuple[Path, Path]:
    """A corpus of stories and the folder of a run on it, with a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BABYLLAMA_CACHE", str(base / "cache"))
        corpus = write_corpus(base / "corpus", numbers)
        return corpus, train(settings(corpus, base / "models")).run_dir
