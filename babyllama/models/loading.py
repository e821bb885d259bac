"""Loading any local causal language model, ours or not, without running anything that lies in its folder.

Only safetensors weights are read, never a pickle; remote code is off; nothing is fetched. A checkpoint whose weights
do not cover the model (a missing head would be filled with random numbers) is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.errors import CheckpointError
from babyllama.common.files import read_json
from babyllama.config.run_layout import MODEL_CONFIG, TRAINING_CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEVER_SAVED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids", "embed_positions")


def _require(folder: Path) -> None:
    if not folder.exists():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: a file, not a checkpoint folder")
    if not (folder / MODEL_CONFIG).is_file():
        inside = sorted(path.name for path in folder.glob("checkpoint-*"))
        hint = f"; did you mean {folder / inside[-1]}?" if inside else ""
        raise CheckpointError(f"{folder}: no config.json: not a model folder{hint}")
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for path in folder.glob("*.bin")]
        why = f"only {', '.join(pickles)}, which may run code when loaded" if pickles else "no weights"
        raise CheckpointError(f"{folder}: {why}: model.safetensors is needed")


def _require_architecture(folder: Path) -> None:
    """A model class of a plugin's is known only where the user names the plugin: nothing in a folder is ever run.

    Raises:
        CheckpointError: transformers does not know the class; names the plugins of the run that made it.
    """
    from transformers import CONFIG_MAPPING

    try:
        kind = read_json(folder / MODEL_CONFIG).get("model_type")
    except (ValueError, AttributeError):
        return  # a damaged config.json: the loader says so
    if kind is None or kind in CONFIG_MAPPING:
        return
    named = " ".join(f"--plugin {path}" for path in plugins_of(folder)) or "--plugin FILE"
    raise CheckpointError(
        f"{folder}: its architecture {kind!r} comes from a plugin; a checkpoint never runs code by itself: "
        f"read that file, then add {named}"
    )


def plugins_of(folder: Path) -> list[str]:
    """Paths of the plugins that the run of a folder (or of the folder around it) was configured with; not loaded."""
    from babyllama.config.loading import load_config

    for place in (folder, folder.parent):
        if (place / TRAINING_CONFIG).is_file():
            return load_config(place / TRAINING_CONFIG).plugins
    return []


def quiet_libraries() -> None:
    """No bar at every load and save, no advice meant for others: what is printed is ours."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*past_key_values.*", category=FutureWarning)


def load_model(folder: str | Path, device: str = "cpu") -> PreTrainedModel:
    """Load a causal language model in float32, in evaluation mode.

    Args:
        folder: A local folder that transformers can read.
        device: Where it goes.

    Raises:
        CheckpointError: Missing, damaged, of another kind, or with weights missing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(folder).expanduser()
    _require(folder)
    _require_architecture(folder)
    quiet_libraries()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise a dozen kinds for a damaged folder
        first = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{folder}: cannot be loaded as a causal language model: {first}") from error
    _check_report(folder, model, report)
    return model.eval().to(device)


def _check_report(folder: Path, model: Any, report: dict[str, Any]) -> None:
    shared = model.config.tie_word_embeddings
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if shared else set()
    missing = [k for k in report.get("missing_keys", ()) if k not in tied and not k.endswith(NEVER_SAVED)]
    mismatched = list(report.get("mismatched_keys", ()))
    if missing or mismatched:
        names = ", ".join(map(str, (missing + mismatched)[:3]))
        raise CheckpointError(f"{folder}: weights do not fit the model: {names} missing or of another shape")
    import torch

    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise CheckpointError(f"{folder}: weights hold numbers that are not finite")


def load_tokenizer_of(folder: str | Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a checkpoint's folder.

    Raises:
        CheckpointError: There is none that can be read.
    """
    from transformers import AutoTokenizer

    folder = Path(folder).expanduser()
    names = ("tokenizer.json", "vocab.json", "tokenizer.model", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        raise CheckpointError(
            f"{folder}: no tokenizer ({', '.join(names[:3])}): copy the one it was trained with there"
        )
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        first = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {first}") from error
