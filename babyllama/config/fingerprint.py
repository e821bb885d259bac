"""What makes two trainings the same: every key that changes the weights, the text and the tokenizer.

A resume with another fingerprint would be a third model that no config describes, so it is refused, naming what
differs. Only the length may grow: more epochs or steps.
"""

from __future__ import annotations

from typing import Any

from babyllama.common.errors import ConfigError
from babyllama.config.schema import Config

# Keys that do not change the weights of a run on one machine.
BOOKKEEPING = {
    "data": {"train_path", "eval_path", "cache_dir", "num_proc", "eval_samples", "tokenizer_path", "tokenizer_output"},
    "model": {"name"},
    "training": {
        "save_steps",
        "save_words",
        "eval_steps",
        "logging_steps",
        "save_total_limit",
        "dataloader_num_workers",
        "keep",
        "device",  # the runtime, saved with the checkpoint, says how it was computed
        "bf16",
        "fp16",
        "torch_compile",
        "attention",
        "threads",
        "keep_freed_memory",
        "tf32",
        "deterministic",
        "cuda_graphs",
        "slow_batch_size",  # batch_size counts, whichever of the two it became
        "quick_start",  # taken or dropped when the configuration is loaded
        "quick_start_minutes",  # the checkpoint has the number of steps
        "decay_from",  # the checkpoint's content counts (babyllama/training/recipes/cooldown.py)
        "fsdp",  # added below where it is on: its checkpoints are of another kind
    },
}
LATER = {"holdout_by", "test", "mix", "mix_temperature", "start_length", "start_share", "chunk_start"}
# Keys that runs made before they existed do not have: they count where they are not at their default.
ADDED = {
    "data": {"spelling", "reshuffle_documents", "segment_tokens", "segment_share", "input_noise", *LATER},
    "model": {"unique_layers"},
    "training": {
        "embedding_weight_decay",
        "cautious_weight_decay",
        "ema_decay",
        "average_epochs",
        "max_minutes",
        "patience",
    },
}
LENGTH = ("training.num_epochs", "training.max_steps", "training.max_minutes")


def training_fingerprint(config: Config, data_fingerprint: str, tokenizer_fingerprint: str) -> dict[str, Any]:
    """Flat `section.key` -> value of what counts, with the text's and the tokenizer's hashes."""
    plain = config.model_dump(mode="json")
    found = {
        f"{section}.{key}": value
        for section in ("data", "model", "training")
        for key, value in plain[section].items()
        if key not in BOOKKEEPING[section]
        and not (key in ADDED.get(section, ()) and value == _default(config, section, key))
    }
    sharded = {"training.fsdp": True} if config.training.fsdp else {}  # older runs' fingerprints do not have the key
    if config.training.patience:  # which points the curve has decides where the run ends
        points = {"training.eval_steps": config.training.eval_steps, "data.eval_samples": config.data.eval_samples}
        found |= points
    return {**found, **sharded, "data": data_fingerprint, "tokenizer": tokenizer_fingerprint}


def _default(config: Config, section: str, key: str) -> object:
    return type(getattr(config, section)).model_fields[key].default


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return one line a key that differs, the length's keys left out.

    >>> differences({"training.lr": 1.0, "training.max_steps": 1}, {"training.lr": 2.0, "training.max_steps": 2})
    ['training.lr: 1.0 -> 2.0']
    """
    keys = [key for key in {**old, **new} if key not in LENGTH and old.get(key) != new.get(key)]
    return [f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}" for key in keys]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."


def check_resume(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return lines about an allowed change of length.

    Raises:
        ConfigError: Something that changes the weights differs; each with both values.
    """
    found = differences(old, new)
    if found:
        raise ConfigError(
            ["this checkpoint belongs to another training; what differs:", *(f"  {line}" for line in found)]
        )
    changed = [key for key in LENGTH if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key)} -> {new.get(key)}; the schedule is stretched to the new length" for key in changed]
