"""Small real trainings for tests: a corpus of two domains, its configuration, the weights that came out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from babyllama.config.schema import Config
from babyllama.data.documents import document_rule, split_lines

NAMES = ("The dog", "The cat", "A girl", "My brother", "The old man", "Anna")
VERBS = ("ran to", "looked at", "walked around", "sat beside", "jumped over")
PLACES = ("the river", "a tall tree", "the house", "the market", "our garden", "the red door")


def corpus(folder: Path, sentences: int = 1500) -> Path:
    """A small folder of text with a train and a dev file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{NAMES[i % 6]} {VERBS[(i * 7) % 5]} {PLACES[(i * 11) % 6]} and {VERBS[(i * 3) % 5]} {PLACES[(i // 2) % 6]}."
        for i in range(sentences)
    ]
    (folder / "small.train").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "small.dev").write_text("\n".join(lines[3::50]) + "\n", encoding="utf-8")
    return folder


def config_for(text: Path, out: Path, kind: str = "Llama", name: str = "run", **training: Any) -> Config:
    """A tiny model's configuration; 12 steps unless said otherwise."""
    recipe = {"lr": 3e-3, "batch_size": 8, "max_steps": 12, "save_steps": 4, "logging_steps": 2, "eval_steps": 6}
    return Config(
        model={"type": kind, "name": name, "hidden_size": 32, "n_layer": 2, "n_head": 2, "attn_pdrop": 0.1},
        data={"train_path": str(text), "vocab_size": 400, "seq_length": 32},
        training={**recipe, "device": "cpu", "torch_compile": False, "bf16": False, **training},
        logging={"output_dir": str(out)},
    )


def documents_in(text: str, domain: str = "default") -> list[str]:
    """The documents of a text, as a file of this domain is read."""
    lines = text.removesuffix("\n").split("\n")
    return list(split_lines(lines, document_rule(domain, lines)))


def weights(run: Path) -> str:
    """SHA-256 of a run's weights."""
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
