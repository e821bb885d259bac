"""The three architectures as a table: config keys -> a HuggingFace model config -> a model with random weights.

Llama (arXiv 2302.13971): rotary positions, RMSNorm, SwiGLU, no biases; its only dropout is on attention weights, so
dropout after attention and feed-forward is laid over it in training (residual_dropout.py).
GPT-2: learned positions, LayerNorm, GELU. GPT-J: rotary positions, attention and feed-forward in parallel, a head with
a bias. What is saved loads in plain `AutoModelForCausalLM`.

The context is at least 512 positions whatever `seq_length` is, because the field's fine-tuning tasks need them;
positions beyond the trained length are untrained, so our evaluation and generation stay within the trained length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from babyllama.common.errors import ConfigError
from babyllama.config.checks import default_heads
from babyllama.config.loading import load_config
from babyllama.config.run_layout import preset_paths
from babyllama.config.schema import Config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MIN_POSITIONS = 512
ROTARY_SHARE_GPTJ = (
    1.0  # GPT-J 6B turns 64 of 256 dimensions; heads of 64 are turned whole, as in the field's gpt-j-97M
)


def max_positions(config: Config) -> int:
    """Return positions that the checkpoint allows."""
    return config.model.max_position_embeddings or max(MIN_POSITIONS, config.data.seq_length)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _llama(config: Config, vocab_size: int, special: dict[str, int | None]) -> PretrainedConfig:
    from transformers import LlamaConfig

    m = config.model
    heads = m.n_head or default_heads(m.hidden_size)
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=m.hidden_size,
        intermediate_size=m.intermediate_size or 4 * m.hidden_size,
        num_hidden_layers=m.n_layer,
        num_attention_heads=heads,
        num_key_value_heads=m.n_kv_head or heads,
        tie_word_embeddings=bool(m.tie_word_embeddings),
        attention_dropout=m.attn_pdrop,
        max_position_embeddings=max_positions(config),
        rms_norm_eps=1e-5,
        **special,
    )


def _gpt2(config: Config, vocab_size: int, special: dict[str, int | None]) -> PretrainedConfig:
    from transformers import GPT2Config

    m = config.model
    return GPT2Config(
        vocab_size=vocab_size,
        n_embd=m.hidden_size,
        n_inner=m.intermediate_size or 4 * m.hidden_size,
        n_layer=m.n_layer,
        n_head=m.n_head or default_heads(m.hidden_size),
        n_positions=max_positions(config),
        tie_word_embeddings=m.tie_word_embeddings is not False,
        resid_pdrop=m.resid_pdrop,
        embd_pdrop=m.embd_pdrop,
        attn_pdrop=m.attn_pdrop,
        **special,
    )


def _gptj(config: Config, vocab_size: int, special: dict[str, int | None]) -> PretrainedConfig:
    from transformers import GPTJConfig

    m = config.model
    heads = m.n_head or default_heads(m.hidden_size)
    head_size = m.hidden_size // heads
    return GPTJConfig(
        vocab_size=vocab_size,
        n_embd=m.hidden_size,
        n_inner=m.intermediate_size or 4 * m.hidden_size,
        n_layer=m.n_layer,
        n_head=heads,
        rotary_dim=2 * round(head_size * ROTARY_SHARE_GPTJ / 2),
        n_positions=max_positions(config),
        tie_word_embeddings=bool(m.tie_word_embeddings),
        resid_pdrop=m.resid_pdrop,
        embd_pdrop=m.embd_pdrop,
        attn_pdrop=m.attn_pdrop,
        **special,
    )


TABLE: dict[str, Callable[..., PretrainedConfig]] = {"Llama": _llama, "GPT2": _gpt2, "GPTJ": _gptj}


def build_model_config(
    config: Config, vocab_size: int, special: dict[str, int | None] | None = None
) -> PretrainedConfig:
    """Return the HuggingFace model config that a BabyLlama config stands for.

    Args:
        config: The whole configuration.
        vocab_size: Tokens in the vocabulary.
        special: bos_token_id, eos_token_id and pad_token_id; unset: 1, 2 and 0, as our tokenizers have them.

    Raises:
        ConfigError: `model.type` is not one of the three.
    """
    builder = TABLE.get(config.model.type)
    if builder is None:
        known = ", ".join(TABLE)
        raise ConfigError(
            f"model.type: {config.model.type!r} is not known. Use one of {known}, or a plugin that registers it."
        )
    special = special or {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model_config = builder(config, vocab_size, special)
    model_config.use_cache = True
    return model_config


def build_model(config: Config, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return a model of one of the three architectures with random float32 weights from torch's current seed."""
    from transformers import AutoModelForCausalLM

    from babyllama.models.shared_layers import share_layers

    model = AutoModelForCausalLM.from_config(build_model_config(config, len(tokenizer), _special_ids(tokenizer)))
    return share_layers(model, config.model.unique_layers)


def ignored_dropouts(config: Config) -> list[str]:
    """Keys of `model` that are set although the architecture has no such dropout (Llama: none after the embeddings)."""
    return ["model.embd_pdrop"] if config.model.type == "Llama" and config.model.embd_pdrop > 0 else []


def count_parameters(config: Config, vocab_size: int) -> int:
    """Return number of parameters, counted on the `meta` device (no memory, no weights)."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build_model_config(config, vocab_size))
    return sum(parameter.numel() for parameter in model.parameters())


BYTES_PER_PARAMETER = 16  # float32 weights, gradients and two moments


BYTES_PER_ACTIVATION = 34  # per token, layer and width in bf16: about 17 values kept for the backward pass


def step_bytes(
    config: Config, vocab_size: int, parameters: int, parts: int, *, gpu: bool = False, compiled: bool = True
) -> int:
    """Estimate the memory of a training step: weights, optimizer, activations of one part, the head's buffers.

    Args:
        config: Run configuration.
        vocab_size: Tokens in the vocabulary.
        parameters: Parameters of the model.
        parts: Parts that a step is computed in, over all devices.
        gpu: Whether a GPU computes, where the head takes more rows at once.
        compiled: Whether it is compiled there; else its block is smaller and takes more for each entry.

    >>> config = load_config(preset_paths()["llama-97M"])
    >>> [round(step_bytes(config, 16_000, 97_000_000, parts) / 1e9, 1) for parts in (1, 4, 8)]
    [7.1, 3.2, 2.6]
    """
    from babyllama.models.fused_loss import BLOCK_ROWS, CUDA_BLOCK_ENTRIES, EAGER_BLOCK_ENTRIES

    model = config.model
    tokens = config.training.batch_size * config.data.seq_length // parts
    kept = parameters * (BYTES_PER_PARAMETER + 2)  # and a cast of the weights in 16 bits
    logits = BLOCK_ROWS * vocab_size * 10  # float32, powers, 16 bits
    if gpu:  # compiled, llama-97M's 262 million entries took 3.8 bytes each on an H100
        most, each = (CUDA_BLOCK_ENTRIES, 4) if compiled else (EAGER_BLOCK_ENTRIES, 20)
        logits = min(most, tokens * vocab_size) * each
    head = vocab_size * model.hidden_size * 4 + logits  # d(weight) in float32
    return kept + head + tokens * model.n_layer * model.hidden_size * BYTES_PER_ACTIVATION


RECIPE_EVIDENCE = (
    "measured with three seeds",
    "measured with two seeds",
    "rate checked at this size",
    "extrapolated from llama-10M",
    "taken from a paper",
)


def recipe_evidence(path: Path) -> str:
    """Return what a preset's recipe rests on: the words up to the second colon of its `# Recipe:` comment.

    Args:
        path: YAML file of the preset.

    Raises:
        ConfigError: The file has no such comment, or one that does not begin with one of `RECIPE_EVIDENCE`.

    >>> recipe_evidence(preset_paths()["llama-10M"])
    'measured with two seeds'
    """
    for line in path.read_text(encoding="utf-8").splitlines():
        stated = line.removeprefix("# Recipe: ").split(":")[0]
        if line.startswith("# Recipe: ") and stated in RECIPE_EVIDENCE:
            return stated
    raise ConfigError(f"{path}: no comment `# Recipe: ...` that says one of: {', '.join(RECIPE_EVIDENCE)}")


@dataclass(frozen=True)
class Preset:
    """One preset's figures; memory is an estimate of weights, optimizer state and activations.

    `evidence` says what its recipe rests on, from the file's own `# Recipe:` line: one of `RECIPE_EVIDENCE`.
    """

    name: str
    type: str
    parameters: int
    tokens_per_step: int
    epochs: float
    memory_bytes: int
    evidence: str


def presets() -> list[Preset]:
    """Return all presets, smallest first."""
    found = []
    for name, path in preset_paths().items():
        config = load_config(path, flags={"data.train_path": "a text"})  # not the short recipe of the embedded corpus
        parameters = count_parameters(config, config.data.vocab_size)
        tokens = config.training.batch_size * config.data.seq_length
        micro = tokens // config.training.parts
        activations = micro * config.model.n_layer * config.model.hidden_size * BYTES_PER_ACTIVATION
        memory = parameters * BYTES_PER_PARAMETER + activations
        found.append(
            Preset(
                name, config.model.type, parameters, tokens, config.training.num_epochs, memory, recipe_evidence(path)
            )
        )
    return sorted(found, key=lambda preset: preset.parameters)
