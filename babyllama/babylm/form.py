"""The leaderboard's form, filled in from the run record, as text to copy and as JSON.

What a record cannot know (licence of the text, description, hours of development) is marked TO FILL IN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babyllama.babylm import ledger as ledgers
from babyllama.babylm.submission import filled_checkpoints
from babyllama.babylm.tree import COLLATED, Tree
from babyllama.common.files import read_json, write_json, write_text_atomic
from babyllama.common.units import human_count
from babyllama.config.run_layout import MODEL_CONFIG, TRAINING_CONFIG, TRAINING_METRICS
from babyllama.pages.tables import largest_amounts
from babyllama.training.word_ledger import LEDGER, OWN_TEXT

FORM = "submission_form"
OPEN = "TO FILL IN"


def fields(tree: Tree) -> dict[str, Any]:
    """Fields of the form in its order.

    Args:
        tree: The submission tree; its run folder gives the record, where there is one.
    """
    model = read_json(tree.run / MODEL_CONFIG)
    metrics = read_json(tree.run / TRAINING_METRICS) if (tree.run / TRAINING_METRICS).is_file() else {}
    # What the run and its record say; OPEN is for the team to fill in.
    found: dict[str, Any] = {
        "model name": tree.root.name,
        "revision": "main",
        "Hugging Face repository": OPEN,
        "track": tree.track.name,
        "results file": COLLATED,
        "model type": "Decoder only",
        "approach": OPEN,
        "architecture": model.get("model_type"),
        **_recipe(tree.run),
        "attention heads": model.get("num_attention_heads") or model.get("n_head"),
        "layers": model.get("num_hidden_layers") or model.get("n_layer"),
        "vocabulary": model.get("vocab_size"),
        "maximum length": model.get("max_position_embeddings") or model.get("n_positions"),
        "parameters": metrics.get("num_parameters"),
        **_cost(metrics),
        "GPU hours of development": OPEN,
        "human annotation": OPEN,
        "genre of the text": OPEN,
        "augmentation": OPEN,
        "description": OPEN,
        **_text(metrics.get(LEDGER)),
        "languages": "English",
    }
    # What a reader should know of the checkpoints: repeated ones, and ones below their name.
    filled = filled_checkpoints(tree)
    if filled:
        copies = ", ".join(f"{name} = {source}" for name, source in filled.items())
        found["repeated checkpoints"] = f"not reached in training, predictions repeated: {copies}"
    true = {name: tree.words(name) for name in tree.checkpoints()}
    odd = {name: words for name, words in true.items() if words and words < _nominal(tree, name)}
    if odd:
        found["checkpoints below their name"] = ", ".join(f"{name}: {words:,} words" for name, words in odd.items())
    return found


def _nominal(tree: Tree, name: str) -> int:
    return tree.track.targets[tree.track.checkpoints.index(name)]


def _recipe(run: Path) -> dict[str, Any]:
    """Return what training_config.yaml says, TO FILL IN where the run is not ours."""
    names = ("base model", "optimizer", "learning rate", "scheduler", "batch size", "epochs", "seed", "length trained")
    if not (run / TRAINING_CONFIG).is_file():
        return dict.fromkeys(names, OPEN)
    from babyllama.config.loading import load_config

    config = load_config(run / TRAINING_CONFIG)
    training = config.training
    values = (
        config.model.init_from or "none (random weights)",
        f"{training.optimizer}, betas {training.adam_beta1:g} {training.adam_beta2:g}, decay {training.weight_decay:g}",
        training.lr,
        training.lr_scheduler,
        f"{training.batch_size} sequences",
        training.num_epochs,
        training.seed,
        f"{config.data.seq_length} tokens",
    )
    return dict(zip(names, values, strict=True))


def _cost(metrics: dict[str, Any]) -> dict[str, Any]:
    """Time and operations; six operations a parameter outside the embeddings, a token (Kaplan et al. 2020)."""
    if not metrics:
        return {"GPU hours of training": OPEN, "FLOPs": OPEN}
    hours = metrics["train_seconds"] / 3600
    on_gpu = str(metrics["runtime"]["device"]).startswith("cuda")
    operations = 6 * metrics["num_parameters_without_embeddings"] * metrics["train_tokens"]
    return {
        "GPU hours of training": f"{hours:.2f}" if on_gpu else f"0 ({hours:.2f} hours on a CPU)",
        "FLOPs": f"{operations:.2e} (6 x parameters without embeddings x tokens)",
    }


def _text(ledger: dict[str, Any] | None) -> dict[str, Any]:
    """Return the ledger's fields."""
    if not ledger:
        return dict.fromkeys(
            ("training data", "data size (million words)", "words seen", "teachers", "tokenizer"), OPEN
        )
    words = ledger["raw_words"] or ledger["words"]
    names = ", ".join(f"{name} ({human_count(count)})" for name, count in largest_amounts(ledger["domains"]).items())
    teachers = ", ".join(teacher["path"] for teacher in ledger["teachers"]) or "none"
    return {
        "training data": names,
        "data size (million words)": round(words / 1e6, 3),
        "words seen": ledger["words_seen"],
        "teachers": teachers,
        "tokenizer": f"{_tokenizer_kind(ledger)}, trained on {ledger['tokenizer']['text']}",
        "preprocessing": "cleaning by domain, documents joined and cut to the trained length",
    }


def _tokenizer_kind(ledger: dict[str, Any]) -> str:
    """Name the kind of a tokenizer: ours is known, a given one is not."""
    return "byte-level BPE" if ledger["tokenizer"]["text"] == OWN_TEXT else "a given tokenizer"


def write_form(tree: Tree) -> Path:
    """Write submission_form.md and .json beside the collated file.

    Returns:
        Path of the Markdown file.
    """
    found = fields(tree)
    write_json(tree.root / f"{FORM}.json", found)
    lines = [f"# Submission form: {tree.root.name} (BabyLM {tree.rules.year}, {tree.track.name})", ""]
    lines += [f"* {name}: {value}" for name, value in found.items()]
    metrics = tree.run / TRAINING_METRICS
    ledger = read_json(metrics).get(LEDGER) if metrics.is_file() else None
    if ledger:
        lines += ["", "## Word ledger", ""] + [f"* {what}: {amount}" for what, amount in ledgers.rows(ledger)]
        broken = ledgers.problems(ledger, tree.track)
        lines += ["", "## Against the budget", ""] + [f"* {line}" for line in broken or ["within the track's budget"]]
    open_fields = [name for name, value in found.items() if value == OPEN]
    lines += ["", f"To fill in by hand: {', '.join(open_fields)}.", ""]
    write_text_atomic(tree.root / f"{FORM}.md", "\n".join(lines))
    return tree.root / f"{FORM}.md"
