"""Folders that transformers 4 reads as we do: what version 5 writes under new names is written under the old ones too.

Version 5 names every fast tokenizer `TokenizersBackend`, a class that version 4 does not know, and puts the rotary
embedding's base and scaling into `rope_parameters`, which version 4 ignores: it then takes a base of 10,000. Evaluation
pipelines pin versions 4 (BabyLM's: 4.51.3). The entries stand beside the new ones; version 5 reads the new ones.

Version 4's fast tokenizers also give `token_type_ids` unless told not to. GPT-2 adds the embedding of token 0 for each
of them: `model(**tokenizer(text))` would put `<pad>` onto every position (0.3 nats a token on a tiny model).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babyllama.common.files import read_json, write_json
from babyllama.config.run_layout import MODEL_CONFIG, TOKENIZER, TOKENIZER_CONFIG

INPUTS = ["input_ids", "attention_mask"]
NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def write_old_names(folder: Path) -> None:
    """Add the old names to a saved model folder; what is not there is left alone.

    Args:
        folder: A folder that `save_pretrained` of a model, a tokenizer or both has written.
    """
    tokenizer = folder / TOKENIZER_CONFIG
    if tokenizer.is_file() and (folder / TOKENIZER).is_file():
        found = read_json(tokenizer)
        if found.get("tokenizer_class") in (None, NEW_CLASS, OLD_CLASS):
            write_json(tokenizer, {"model_input_names": INPUTS, **found, "tokenizer_class": OLD_CLASS})
    model = folder / MODEL_CONFIG
    if model.is_file():
        found = read_json(model)
        old = old_rope(found.get("rope_parameters"))
        if old and not old.items() <= found.items():
            write_json(model, found | old)


def old_rope(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Entries of version 4 for the rotary embedding.

    >>> old_rope({"rope_type": "default", "rope_theta": 10000.0})
    {'rope_theta': 10000.0, 'rope_scaling': None}
    >>> old_rope({"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0})
    {'rope_theta': 500.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}}
    >>> old_rope(None)
    {}
    """
    if not isinstance(parameters, dict) or "rope_theta" not in parameters:
        return {}
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    default = scaling.get("rope_type", "default") == "default"
    return {"rope_theta": parameters["rope_theta"], "rope_scaling": None if default else scaling}
