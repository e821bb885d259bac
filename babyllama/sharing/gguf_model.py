"""Write a Llama or GPT-2 as a GGUF file, the format of llama.cpp and of what is built on it (Ollama, LM Studio).

Weights get llama.cpp's names (from the tensor map of its own `gguf` package). Two layouts differ from transformers':

* Llama: rotary positions turn neighbouring dimensions in llama.cpp, dimensions i and i + d/2 in transformers; the rows
  of the query and key projections are interleaved accordingly.
* GPT-2: transformers keeps linear weights as (in, out), llama.cpp as (out, in).

Quantization: the block types whose blocks have 32 entries (Q8_0, Q5_0, Q4_0: `gguf.quants` computes them in numpy), not
the K-types, whose blocks of 256 do not fit rows of 192 or 640. Vectors and position embeddings stay float32, as
llama.cpp's own quantizer keeps them. GPT-J cannot be written: llama.cpp knows the name but has no graph for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.common.errors import ConfigError
from babyllama.sharing.gguf_tokenizer import ByteLevelBPE, add_tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedConfig, PretrainedConfig, PreTrainedModel

QUANTIZATIONS = ("f16", "f32", "q8_0", "q5_0", "q4_0")
BUFFERS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")  # made anew by every reader


@dataclass
class WrittenFile:
    """What was written.

    Attributes:
        path: The file.
        bytes: Size of the file.
        parameters: Weights in it (a tied head is not stored a second time).
        unquantized: Names of matrices kept in float16 because their rows are not a multiple of the block.
    """

    path: Path
    bytes: int = 0
    parameters: int = 0
    unquantized: list[str] = field(default_factory=list)


def require_gguf() -> None:
    """Check that the optional package `gguf` is installed.

    Raises:
        ConfigError: It is not.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ConfigError("the package gguf is not installed: pip install gguf") from None


def check_supported(config: PretrainedConfig) -> None:
    """Refuse what llama.cpp would compute otherwise.

    Raises:
        ConfigError: The architecture, or a setting of it, has no counterpart in llama.cpp.
    """
    kind = config.model_type
    if kind not in _METADATA:
        why = "llama.cpp has no graph for GPT-J" if kind == "gptj" else "only llama and gpt2 can"
        raise ConfigError(f"a model of type {kind} cannot be written as GGUF: {why}")
    for name, allowed in _ALLOWED[kind].items():
        value = getattr(config, name, None)
        if value not in allowed:
            raise ConfigError(f"the model cannot be written as GGUF: llama.cpp has no {name} = {value!r} for {kind}")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(f"the model cannot be written as GGUF: rotary positions of type {rope['rope_type']}")


_ALLOWED: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {"hidden_act": ("silu",), "attention_bias": (False, None), "mlp_bias": (False, None)},
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
}


def write_gguf(
    model: PreTrainedModel, bpe: ByteLevelBPE, path: Path, quantization: str, facts: dict[str, str] | None = None
) -> WrittenFile:
    """Write a model and its tokenizer into one file.

    Args:
        model: A causal language model in float32.
        bpe: Parts of the model's tokenizer.
        path: The file to write.
        quantization: One of QUANTIZATIONS.
        facts: Texts for the head of the file: `name`, `description`, `license`.

    Raises:
        ConfigError: The model cannot be written as GGUF.
    """
    import gguf

    config = model.config
    check_supported(config)
    written = WrittenFile(path)
    writer = gguf.GGUFWriter(path, config.model_type)
    try:
        # 1. the head: what the model is, and its tokenizer
        _add_facts(writer, facts or {})
        writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[quantization]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _METADATA[config.model_type](writer, config)
        writer.add_vocab_size(config.vocab_size)
        add_tokenizer(writer, bpe, config.vocab_size)
        # 2. the weights, one after the other
        for name, weight in named_weights(model):
            data, kind = _stored(name, weight, quantization)
            if quantization.startswith("q") and kind is gguf.GGMLQuantizationType.F16:
                written.unquantized.append(name)
            written.parameters += weight.size
            writer.add_tensor(name, data, raw_dtype=kind)
        # 3. onto the disk
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    written.bytes = path.stat().st_size
    return written


_FILE_TYPES = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "q8_0": "MOSTLY_Q8_0",
    "q5_0": "MOSTLY_Q5_0",
    "q4_0": "MOSTLY_Q4_0",
}


def _add_facts(writer: GGUFWriter, facts: dict[str, str]) -> None:
    writer.add_type("model")
    for key, add in (
        ("name", writer.add_name),
        ("description", writer.add_description),
        ("license", writer.add_license),
    ):
        if facts.get(key):
            add(facts[key])


def _llama_metadata(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _gpt2_metadata(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


_METADATA: dict[str, Callable[[Any, Any], None]] = {"llama": _llama_metadata, "gpt2": _gpt2_metadata}


def named_weights(model: PreTrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each weight under llama.cpp's name and in its layout, float32; a tied head is left out.

    Args:
        model: A Llama or GPT-2.

    Yields:
        The name and an array of the shape that llama.cpp expects (rows first).
    """
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key.endswith(BUFFERS) or (config.tie_word_embeddings and key == "lm_head.weight"):
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ConfigError(f"the model cannot be written as GGUF: llama.cpp has no name for its weight {key}")
        yield name, _layout(key, tensor.float().cpu().numpy(), config)


def _layout(key: str, weight: np.ndarray, config: PreTrainedConfig) -> np.ndarray:
    if config.model_type == "gpt2" and key.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return np.ascontiguousarray(weight.T)
    if config.model_type == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if key.endswith("q_proj.weight") else config.num_key_value_heads
        return interleave(weight, heads)
    return weight


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Bring the rows of each head from halves (0, 1, ..., d/2, ...) into pairs (0, d/2, 1, d/2 + 1, ...).

    Args:
        weight: (heads * d, columns) projection.
        heads: Heads that the rows belong to.

    >>> interleave(np.arange(4)[:, None], heads=1).ravel().tolist()
    [0, 2, 1, 3]
    """
    half = weight.shape[0] // heads // 2
    return np.ascontiguousarray(weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape))


def _stored(name: str, weight: np.ndarray, quantization: str) -> tuple[np.ndarray, Any]:
    """Return a weight as it is stored, and its type: matrices quantized where their rows are whole blocks."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    kind = kinds[quantization.upper()]
    if weight.ndim == 1 or name.startswith("position_embd") or kind is kinds.F32:
        return weight, kinds.F32
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if weight.shape[-1] % block:
        kind = kinds.F16
    if kind is kinds.F16:
        return weight.astype(np.float16), kind
    return gguf.quants.quantize(weight, kind), kind
