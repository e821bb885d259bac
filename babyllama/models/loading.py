"""Loading any local causal language model, ours or not, without running anything that lies in its folder.

Only safetensors weights are read, never a pickle; remote code is off; nothing is fetched. A checkpoint whose weights
do not cover the model (a missing head would be filled with random numbers) is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.console import say
from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.common.files import read_json
from babyllama.config.run_layout import MODEL_CONFIG, REPLACED, RUN_FINGERPRINT, TRAINING_CONFIG, TRAINING_METRICS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from babyllama.config.schema import Config

_TOLD: set[str] = set()  # lines that are said once
NEVER_SAVED = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids", "embed_positions")


def _require(folder: Path) -> None:
    if not folder.exists():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: a file, not a checkpoint folder")
    if not (folder / MODEL_CONFIG).is_file():
        inside = sorted(path.name for path in folder.glob("checkpoint-*"))
        hint = f"; did you mean {folder / inside[-1]}?" if inside else ""
        old = folder / REPLACED
        if (old / MODEL_CONFIG).is_file():  # killed in an --overwrite, before its first checkpoint
            hint = f"; the run that was to be replaced is whole in {old}: the next training here puts it back"
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


def run_config_of(folder: Path) -> Config | None:
    """Read the configuration of the run that made a checkpoint, in its folder or in the one around it.

    Returns:
        None where there is none, also where a file of that name is another tool's.

    Raises:
        ConfigError: It is ours and cannot be used.
    """
    from babyllama.config.loading import load_config

    for place in (folder, folder.parent):
        path = place / TRAINING_CONFIG
        if not path.is_file():
            continue
        try:
            return load_config(path)
        except ConfigError:
            if (place / RUN_FINGERPRINT).is_file() or (place / TRAINING_METRICS).is_file():
                raise
            tell_once(f"{path}: not a configuration of ours, left aside")
            return None
    return None


def trained_length(folder: Path) -> int | None:
    """Return the context length that a checkpoint's run was trained at, None where it is not a run of ours."""
    config = run_config_of(folder)
    return None if config is None else config.data.seq_length


def plugins_of(folder: Path) -> list[str]:
    """Paths of the plugins that the run of a folder (or of the folder around it) was configured with; not loaded."""
    config = run_config_of(folder)
    return config.plugins if config is not None else []


def tell_once(line: str) -> None:
    """Say a line once a process."""
    if line not in _TOLD:
        _TOLD.add(line)
        say(line)


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

    from babyllama.models.structure import sees_later_tokens

    folder = Path(folder).expanduser()
    # Is it a model folder, by its files?
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
    # Are all weights there, and does no position see what follows?
    _check_report(folder, model, report)
    if sees_later_tokens(model.eval()):
        raise CheckpointError(
            f"{folder}: not a causal language model ({type(model).__name__}): its prediction at a position changes "
            "with the tokens after it, so that its scores would be of text that it has seen"
        )
    return model.to(device)


SIZES = {  # key of `model:` -> its names in checkpoints' config.json
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "n_layer": ("num_hidden_layers", "n_layer", "n_layers"),
    "n_head": ("num_attention_heads", "n_head", "n_heads"),
    "n_kv_head": ("num_key_value_heads",),
    "tie_word_embeddings": ("tie_word_embeddings",),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "resid_pdrop": ("resid_pdrop",),
    "embd_pdrop": ("embd_pdrop",),
    "attn_pdrop": ("attn_pdrop", "attention_dropout"),
}


def describe_origin(config: Config) -> None:
    """Write type and sizes of the checkpoint `model.init_from` into a configuration: these are trained, no others.

    Raises:
        CheckpointError: The checkpoint's config.json cannot be read.
    """
    from babyllama.config.schema import TYPES

    folder = Path(config.model.init_from).expanduser()
    _require(folder)
    try:
        saved = dict(read_json(folder / MODEL_CONFIG))
    except (ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{folder / MODEL_CONFIG}: cannot be read: {error}") from None
    kind = str(saved.get("model_type"))
    config.model.type = TYPES.get(kind, kind)
    for key, names in SIZES.items():
        found = next((saved[name] for name in names if saved.get(name) is not None), None)
        default = type(config.model).model_fields[key].default
        setattr(config.model, key, default if found is None and key != "hidden_size" else found or default)


def read_whole_texts(tokenizer: PreTrainedTokenizerBase, place: str | Path) -> PreTrainedTokenizerBase:
    """Switch off what a tokenizer file may ask for beside encoding: cutting texts, padding them, chance (BPE dropout).

    With truncation to 32 tokens a corpus of 23,000 became one of 6,500, and bits per byte 0.30 instead of 2.4.

    Args:
        tokenizer: Tokenizer of transformers, changed in place.
        place: Where it comes from, for the line that says so.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer
    found = []
    if backend.truncation:
        found.append(f"truncation to {backend.truncation['max_length']} tokens")
        backend.no_truncation()
    if backend.padding:
        found.append("padding")
        backend.no_padding()
    if getattr(backend.model, "dropout", None):
        found.append("BPE dropout")
        backend.model.dropout = None
    if found:
        tell_once(f"{place}: its tokenizer asks for {', '.join(found)}: switched off")
    return tokenizer


def _check_report(folder: Path, model: PreTrainedModel, report: dict[str, Any]) -> None:
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
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        first = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {first}") from error
    return read_whole_texts(tokenizer, folder)


def load_origin(config: Config, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load `model.init_from`, where its vocabulary and its positions fit what is trained.

    Raises:
        ConfigError: They do not, or its layers are no copies where `model.unique_layers` says so.
    """
    from babyllama.models.shared_layers import require_equal_layers, share_layers

    model = load_model(Path(config.model.init_from))
    rows = model.get_input_embeddings().weight.shape[0]
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and positions < config.data.seq_length:
        raise ConfigError(
            f"model.init_from: {config.model.init_from} has {positions:,} positions, data.seq_length is "
            f"{config.data.seq_length:,}: set it to {positions:,} at most"
        )
    if rows < len(tokenizer):
        raise ConfigError(
            f"model.init_from: {config.model.init_from} has {rows:,} embeddings, the tokenizer {len(tokenizer):,} "
            "tokens. Use that checkpoint's own tokenizer: data.tokenizer_path."
        )
    require_equal_layers(model, config.model.unique_layers, config.model.init_from)
    return share_layers(model, config.model.unique_layers)
