"""Llama, GPT-2 and GPT-J as plain matrices, for a decoding step with nothing around it.

At 10M parameters on a CPU a step of Transformers' model is mostly Python: modules, masks, cache objects. Here a model
is taken apart once into a list of layers that share one form, so that one short loop (`decoder.py`) computes all three:

    x += output(attention(rotate(qkv(norm(x)))));  x += mlp(norm(x))      Llama, GPT-2
    x += output(attention(rotate(qkv(norm(x))))) + mlp(norm(x))           GPT-J: both read the same norm

Two things make the matrices faster than the modules they come from. Query, key and value (and Llama's gate and up)
are one product each. And a matrix that widens lies transposed: one row times the 16,000-way head takes 0.3 to 0.5 ms
of one core so, and 1.6 ms in the layout of `nn.Linear`; a matrix that narrows is faster as it is (37 us against 60).
Both copy weights, so a model in memory twice is the price, and a copy does not follow a training. For several texts at
once a wide matrix is packed by oneDNN, as torch's compiler does it (16 rows, one thread: the head 1.3 ms instead of
2.5, 192 x 1,536 0.15 instead of 0.20; 192 x 576 is no faster packed), which is one more copy of those.

RMSNorm (arXiv 1910.07467) is x / sqrt(mean(x^2) + eps) * g. g and the root of the width are folded into the matrix that
follows, which leaves x / hypot(|x|, sqrt(width * eps)): three operations (4 us) where `F.rms_norm` takes ten (9 us).

Rotations (RoFormer, arXiv 2104.09864) turn pairs of dimensions. Llama pairs i with i + E/2, GPT-J neighbours, over all
or some dimensions; since scores are products of query and key, any order of the dimensions that both share gives the
same scores: GPT-J's are put into Llama's order, and dimensions that are not turned get an angle of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED_FROM = 1024  # columns
PROVEN_ROPES = ("default", "linear", "llama3", "yarn")  # others look at the length of the text


class Matrix:
    """A product with a fixed matrix, and its bias where it has one."""

    _packed: Tensor | None = None  # what oneDNN made of it for several rows

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> None:
        """Lay the matrix out for this device.

        Args:
            weight: Weight, (in, out).
            bias: Bias, (out,), or None.
            scale: Factors of the input, (in,), to be folded into the weight, or None.
        """
        if scale is not None:
            weight = weight * scale[:, None]
        widens = weight.shape[1] >= weight.shape[0]
        self.weight = weight.contiguous() if widens and weight.device.type == "cpu" else weight
        self.bias = bias

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply (N, in) rows to (N, out)."""
        if len(rows) > 1 and self.weight.shape[1] >= PACKED_FROM and self._packs():
            if self._packed is None:
                self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.t().contiguous())
            return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return torch.mm(rows, self.weight) if self.bias is None else torch.addmm(self.bias, rows, self.weight)

    def _packs(self) -> bool:
        """Return whether oneDNN takes the product: it is an operation of torch's compiler, not of its public API."""
        known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return known and self.weight.device.type == "cpu" and self.weight.dtype == torch.float32


@dataclass(frozen=True)
class LeanLayer:
    """One decoder layer. `mlp_norm` is None where the MLP reads what the attention reads (GPT-J)."""

    attention_norm: Callable[[Tensor], Tensor]
    qkv: Matrix
    output: Matrix
    mlp_norm: Callable[[Tensor], Tensor] | None
    mlp: Callable[[Tensor], Tensor]
    scaling: float


@dataclass(frozen=True)
class LeanModel:
    """A causal language model taken apart.

    Attributes:
        embedding: Token embeddings, (V, D).
        positions: Learned position embeddings, (P, D), or None.
        rotation: Cosines and signed sines of the turned query and key, (P, E) each, or None.
        layers: Decoder layers, first to last.
        norm: Norm in front of the head.
        head: Product to the logits.
        heads: Number of query heads.
        kv_heads: Number of key and value heads; `heads` is a multiple of it.
        head_size: Width E of a head.
    """

    embedding: Tensor
    positions: Tensor | None
    rotation: tuple[Tensor, Tensor] | None
    layers: list[LeanLayer]
    norm: Callable[[Tensor], Tensor]
    head: Matrix
    heads: int
    kv_heads: int
    head_size: int


def take_apart(model: PreTrainedModel, length: int) -> LeanModel | None:
    """Take a model apart into plain matrices.

    Args:
        model: A causal language model of Transformers.
        length: Number of positions that will be used.

    Returns:
        The parts, which share or copy the model's weights as they are now; None for a class that is not known here.
    """
    builder = BUILDERS.get(type(model).__name__)
    if builder is None or not type(model).__module__.startswith("transformers."):
        return None
    with torch.no_grad():
        return builder(model, length)


def _joined(modules: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Return weight (in, out) and bias of linear modules that read the same rows, as one product."""
    weight = modules[0].weight if len(modules) == 1 else torch.cat([module.weight for module in modules])
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    return weight.detach().t(), torch.cat(biases) if biases else None


def _linear(*modules: nn.Linear, scale: Tensor | None = None) -> Matrix:
    return Matrix(*_joined(modules), scale)


def _conv(module: nn.Module) -> Matrix:
    """Return Transformers' Conv1D, whose weight is (in, out) already."""
    return Matrix(module.weight.detach(), module.bias.detach())


def _layer_norm(module: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    shape, weight, bias, eps = module.normalized_shape, module.weight.detach(), module.bias.detach(), module.eps
    return lambda rows: F.layer_norm(rows, shape, weight, bias, eps)


def _rms_norm(module: nn.Module) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return the norm without its weight, and the factors that the matrix behind it takes over."""
    width = module.weight.shape[0]
    floor = torch.tensor((width * module.variance_epsilon) ** 0.5, device=module.weight.device)

    def norm(rows: Tensor) -> Tensor:
        return rows / torch.hypot(torch.linalg.vector_norm(rows, dim=-1, keepdim=True), floor)

    return norm, module.weight.detach() * width**0.5


def _activation(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return an activation, GPT-2's GELU as one operation instead of eight (2 us instead of 19 for a row of 768)."""
    if type(module).__name__ == "NewGELUActivation":
        return partial(F.gelu, approximate="tanh")
    return module


def _plain_mlp(inner: Matrix, activation: Callable[[Tensor], Tensor], outer: Matrix) -> Callable[[Tensor], Tensor]:
    return lambda rows: outer(activation(inner(rows)))


def _gated_mlp(module: nn.Module, scale: Tensor) -> Callable[[Tensor], Tensor]:
    both = _linear(module.gate_proj, module.up_proj, scale=scale)
    down, activation = _linear(module.down_proj), module.act_fn

    def mlp(rows: Tensor) -> Tensor:
        gate, up = both(rows).chunk(2, dim=1)
        return down(activation(gate) * up)

    return mlp


def _signed(cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """Give the first half of the sines the sign with which the rolled half is added; (P, E) each."""
    half = sines.shape[-1] // 2
    return cosines.contiguous(), torch.cat((-sines[:, :half], sines[:, half:]), dim=1)


def _llama(model: PreTrainedModel, length: int) -> LeanModel | None:
    config, backbone = model.config, model.model
    if (config.rope_parameters or {}).get("rope_type", "default") not in PROVEN_ROPES:
        return None
    # A norm's factors move into the matrices behind it.
    layers = []
    for layer in backbone.layers:
        attention = layer.self_attn
        first, first_scale = _rms_norm(layer.input_layernorm)
        second, second_scale = _rms_norm(layer.post_attention_layernorm)
        qkv = _linear(attention.q_proj, attention.k_proj, attention.v_proj, scale=first_scale)
        mlp = _gated_mlp(layer.mlp, second_scale)
        layers.append(LeanLayer(first, qkv, _linear(attention.o_proj), second, mlp, attention.scaling))
    # The last norm's factors move into the head.
    norm, scale = _rms_norm(backbone.norm)
    embedding = backbone.embed_tokens.weight.detach()
    cosines, sines = backbone.rotary_emb(embedding, torch.arange(length, device=embedding.device)[None])
    return LeanModel(
        embedding,
        None,
        _signed(cosines[0], sines[0]),
        layers,
        norm,
        Matrix(*_joined([model.lm_head]), scale),
        config.num_attention_heads,
        config.num_key_value_heads,
        backbone.layers[0].self_attn.head_dim,
    )


def _gpt2(model: PreTrainedModel, length: int) -> LeanModel | None:
    config, backbone = model.config, model.transformer
    # What is not proven to be the same is left to Transformers.
    if config.add_cross_attention or length > config.n_positions:
        return None
    # Blocks: norm, attention, norm, MLP; weights lie as Conv1D keeps them.
    layers = [
        LeanLayer(
            _layer_norm(block.ln_1),
            _conv(block.attn.c_attn),
            _conv(block.attn.c_proj),
            _layer_norm(block.ln_2),
            _plain_mlp(_conv(block.mlp.c_fc), _activation(block.mlp.act), _conv(block.mlp.c_proj)),
            block.attn.scaling,
        )
        for block in backbone.h
    ]
    return LeanModel(
        backbone.wte.weight.detach(),
        backbone.wpe.weight.detach(),
        None,
        layers,
        _layer_norm(backbone.ln_f),
        Matrix(*_joined([model.lm_head])),
        config.n_head,
        config.n_head,
        config.n_embd // config.n_head,
    )


def _gptj(model: PreTrainedModel, length: int) -> LeanModel | None:
    config, backbone = model.config, model.transformer
    head_size = config.n_embd // config.n_head
    turned = config.rotary_dim or head_size
    if length > config.n_positions or head_size % 2 or turned > head_size:
        return None

    # Pairs of neighbours (0, 1), (2, 3) ... to places E/2 apart, the dimensions that are not turned behind them.
    rest = list(range(turned, head_size))
    order = [*range(0, turned, 2), *rest[: len(rest) // 2], *range(1, turned, 2), *rest[len(rest) // 2 :]]
    rows = torch.cat([torch.tensor(order) + head_size * head for head in range(config.n_head)])
    embedding = backbone.wte.weight.detach()
    if hasattr(backbone, "rotary_emb"):
        sines, cosines = backbone.rotary_emb(embedding, torch.arange(length, device=embedding.device)[None])
    else:  # transformers 5.17: a table in each layer
        table = backbone.h[0].attn.embed_positions[None, :length].to(embedding.device, embedding.dtype)
        sines, cosines = table.chunk(2, dim=-1)
    flat = torch.zeros(length, len(rest) // 2, device=embedding.device)
    sines, cosines = torch.cat((sines[0], flat), dim=1), torch.cat((cosines[0], flat + 1), dim=1)
    rotation = _signed(torch.cat((cosines, cosines), dim=1), torch.cat((sines, sines), dim=1))

    # Blocks with one norm, queries and keys in the new order of dimensions.
    layers = []
    for block in backbone.h:
        attention, mlp = block.attn, block.mlp
        turned_rows = rows.to(embedding.device)
        query, key = attention.q_proj.weight[turned_rows], attention.k_proj.weight[turned_rows]
        qkv = Matrix(torch.cat((query, key, attention.v_proj.weight)).detach().t())
        feed_forward = _plain_mlp(_linear(mlp.fc_in), _activation(mlp.act), _linear(mlp.fc_out))
        scaling = getattr(attention, "scaling", head_size**-0.5)  # transformers 5.17 divides by the root
        layers.append(LeanLayer(_layer_norm(block.ln_1), qkv, _linear(attention.out_proj), None, feed_forward, scaling))
    heads = config.n_head
    final, head = _layer_norm(backbone.ln_f), Matrix(*_joined([model.lm_head]))
    return LeanModel(embedding, None, rotation, layers, final, head, heads, heads, head_size)


BUILDERS: dict[str, Callable[[Any, int], LeanModel | None]] = {
    "LlamaForCausalLM": _llama,
    "GPT2LMHeadModel": _gpt2,
    "GPTJForCausalLM": _gptj,
}
