"""README.md of a run: a model card made from the facts that the run recorded (huggingface_hub's ModelCard)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.files import read_json, write_text_atomic
from babyllama.common.units import human_count, human_seconds
from babyllama.config.run_layout import MODEL_CONFIG, TRAINING_CONFIG, TRAINING_METRICS
from babyllama.pages.tables import largest_amounts

if TYPE_CHECKING:
    from babyllama.config.schema import Config

BODY = """
# {name}

A {model_type} language model of {parameters} parameters, {origin} with BabyLlama.

| | |
| --- | --- |
| parameters | {num_parameters:,} |
| vocabulary | {vocab_size:,} tokens, {tokenizer} |
| trained on | {train_words:,} words, {train_tokens:,} tokens, {num_epochs:g} epochs |
| steps | {global_step:,}, seed {seed} |
| time | {time}, {precision} on {device} |
| held-out bits per byte | {bits} |
| held-out perplexity | {perplexity} |

Perplexity and bits per byte: every held-out document alone, BOS as first context, every token of its text predicted
once, no end token, windows of {window} tokens.

## Limits

The context has {positions} positions, but the model was trained on {window} tokens at a time: positions beyond
{window} are untrained. Keep prompts and texts within {window} tokens, or fine-tune on longer ones.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

{plugins}model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50, do_sample=True)[0]))
```

{plugin_note}## Data

Training text: `{train_path}`. Data fingerprint `{data_fingerprint}`.{ledger} Add the
text's licence and yours to the head of this file before you publish the model.
"""


def write_model_card(run_dir: Path) -> Path:
    """Write README.md into a run folder from its config.json, training_config.yaml and training_metrics.json.

    Returns:
        The card's path.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from babyllama.config.loading import load_config

    metrics, model = read_json(run_dir / TRAINING_METRICS), read_json(run_dir / MODEL_CONFIG)
    config = load_config(run_dir / TRAINING_CONFIG)
    data = ModelCardData(
        library_name="transformers", pipeline_tag="text-generation", tags=["babyllama", model["model_type"]]
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n" + BODY.format(**_facts(metrics, model, config)))
    write_text_atomic(run_dir / "README.md", str(card))
    return run_dir / "README.md"


def _facts(metrics: dict[str, Any], model: dict[str, Any], config: Config) -> dict[str, Any]:
    interval = metrics.get("eval_bits_per_byte_ci")
    spread = f" (95% interval {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
    path = config.data.train_path
    return {
        # How the model is loaded, and the record's own figures.
        **_plugin_facts(model["model_type"], config),
        **{
            key: metrics[key]
            for key in ("train_words", "train_tokens", "num_epochs", "global_step", "seed", "num_parameters")
        },
        "name": metrics["name"],
        "model_type": model["model_type"],
        "parameters": human_count(metrics["num_parameters"]),
        "vocab_size": model["vocab_size"],
        # Where it comes from, and how it was computed and scored.
        "origin": origin_of(config.model.init_from, config.distillation.teachers if config.distillation else ()),
        "tokenizer": _tokenizer(config),
        "time": human_seconds(metrics["train_seconds"]),
        "precision": metrics["runtime"]["precision"],
        "device": metrics["runtime"]["device"],
        "bits": f"{metrics['eval_bits_per_byte']:.4f}{spread}",
        "perplexity": f"{metrics['eval_perplexity']:,.2f}",
        "window": config.data.seq_length,
        "positions": model.get("max_position_embeddings") or model.get("n_positions"),
        "train_path": path if path == "synthetic" or path.startswith("hf:") else Path(path).name,
        "data_fingerprint": metrics["data_fingerprint"],
        "ledger": _ledger(metrics.get("ledger")),
    }


def origin_of(init_from: str | None, teachers: Sequence[str] = ()) -> str:
    """Say where weights come from: random numbers or another checkpoint; and the teachers.

    Args:
        init_from: The checkpoint that a run began with.
        teachers: Folders of the teachers.

    >>> origin_of(None), origin_of("models/base", ["models/large"])
    ('trained from scratch', 'trained on from the checkpoint base and from the teachers large')
    """
    words = "trained from scratch" if init_from is None else f"trained on from the checkpoint {Path(init_from).name}"
    return words + (f" and from the teachers {', '.join(Path(path).name for path in teachers)}" if teachers else "")


def _tokenizer(config: Config) -> str:
    given = config.data.tokenizer_path
    if given is None:
        return "byte-level BPE trained on the training text"
    return f"the tokenizer `{Path(given).name}`"


def _ledger(ledger: dict[str, Any] | None) -> str:
    """Return words of the training text by domain, shown, and of teachers, as sentences."""
    if not ledger:
        return ""
    domains = ", ".join(f"{name} {words:,}" for name, words in largest_amounts(ledger["domains"]).items())
    raw = f" ({ledger['raw_words']:,} in the files as they are)" if ledger["raw_words"] is not None else ""
    text = f" Words trained on{raw}: {domains}. Words shown: {ledger['words_seen']:,} in {ledger['epochs']:g} epochs."
    for teacher in ledger["teachers"]:
        words = f"{teacher['words']:,} words" if teacher.get("known") else "a number of words that is not recorded"
        text += f" Teacher `{Path(teacher['path']).name}`, trained on {words}."
    return text


def _plugin_facts(model_type: str, config: Config) -> dict[str, str]:
    """Return how a model of the user's own class is loaded: only where its plugin was imported."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if model_type in CONFIG_MAPPING_NAMES:
        return {"plugins": "", "plugin_note": ""}
    from babyllama.plugins import plugin_hashes

    names = [Path(path).name for path in config.plugins]
    hashes = "".join(f"* `{name}`, SHA-256 `{value}`\n" for name, value in plugin_hashes(config.plugins).items())
    return {
        "plugins": f"from babyllama.plugins import load_plugins\n\nload_plugins({names})  # read them first\n",
        "plugin_note": "The model's class is not one of transformers': it is registered by a plugin, which the lines "
        "above import and\n`evaluate.py` takes as `--plugin FILE`. It was trained with\n\n" + hashes + "\n",
    }
