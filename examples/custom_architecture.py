r"""An architecture of one's own: a Llama whose attention knows distances instead of rotated positions.

    python train.py --config config/llama-10M.yaml --set "plugins=[examples/custom_architecture.py]" \
        --set model.type=AlibiLlama --model-name alibi --set data.synthetic_words=20000 --max-steps 10
    python evaluate.py models/alibi --plugin examples/custom_architecture.py --tasks perplexity

ALiBi (Press et al. 2022, arXiv 2108.12409): a head h of H subtracts m_h x distance from its attention scores, m_h =
2^(-8 h / H), and no position is rotated or learned. It trains, checkpoints, resumes and is scored like the built-in
ones. What is saved names the class `alibi_llama`, which transformers knows only where this file was imported: hence
`--plugin`, or `babyllama.plugins.load_plugins` from Python.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaAttention

from babyllama.config.schema import Config
from babyllama.models.architectures import build_model_config
from babyllama.plugins import register_architecture


class AlibiLlamaConfig(LlamaConfig):
    """Llama's keys under a name of its own, so that no one loads the weights into a plain Llama."""

    model_type = "alibi_llama"


class AlibiAttention(LlamaAttention):
    """Llama's attention with a penalty on distance in place of rotary positions."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the parent's: hidden_states (B, T, D) -> (B, T, D) and weights."""
        cos, sin = position_embeddings
        unturned = torch.ones_like(cos), torch.zeros_like(sin)
        cache = kwargs.get("cache", kwargs.get("past_key_values"))  # renamed in transformers 5.2x
        past = 0 if cache is None else cache.get_seq_length(self.layer_idx)
        keys = past + hidden_states.shape[1] if attention_mask is None else attention_mask.shape[-1]
        bias = self.distance_bias(hidden_states, keys)
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            bias = bias.masked_fill(~attention_mask, torch.finfo(bias.dtype).min)
        elif attention_mask is not None:
            bias = (bias + attention_mask).clamp(min=torch.finfo(bias.dtype).min)
        return super().forward(hidden_states, unturned, bias, *args, **kwargs)

    def distance_bias(self, hidden_states: Tensor, keys: int) -> Tensor:
        """(1, H, T, keys): -m_h x distance, the lowest number where the key comes after the query."""
        device, queries = hidden_states.device, hidden_states.shape[1]
        mixed = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if mixed else hidden_states.dtype
        heads = self.config.num_attention_heads
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1, device=device) / heads)
        places = torch.arange(keys, device=device)
        distance = places[keys - queries :, None] - places[None, :]  # (T, keys)
        bias = -slopes[:, None, None] * distance
        return bias.to(dtype).masked_fill(distance < 0, torch.finfo(dtype).min)[None]


class AlibiLlamaForCausalLM(LlamaForCausalLM):
    """A Llama with AlibiAttention in each layer."""

    config_class = AlibiLlamaConfig

    def __init__(self, config: AlibiLlamaConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.model.layers):
            layer.self_attn = AlibiAttention(config, number)
        self.post_init()


def create_custom_model(config: Config, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model that the config's sizes describe, with random weights."""
    plain = config.model_copy(deep=True)
    plain.model.type = "Llama"
    keys = build_model_config(plain, len(tokenizer)).to_dict()
    return AlibiLlamaForCausalLM(AlibiLlamaConfig(**{k: v for k, v in keys.items() if k != "model_type"}))


register_architecture("AlibiLlama", create_custom_model, AlibiLlamaForCausalLM)
