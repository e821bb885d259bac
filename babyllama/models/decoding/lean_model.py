"""Llama, GPT-2 and GPT-J as plain matrices, for a decoding step with nothing around it.

At 10M parameters on a CPU a step of Transformers' model is mostly Python: modules, masks, cache objects. Here a model
is taken apart once into a list of layers that share one form, so that one short loop (`decoder.py`) computes all three:

    x += output(attention(rotate(qkv(norm(x)))));  x += mlp(norm(x))      Llama, GPT-2
    x += output(attention(rotate(qkv(norm(x))))) + mlp(norm(x))           GPT-J: both read the same norm

Two things make the matrices faster than the modules they come from. Query, key and value (and Llama's gate and up)
are one product each. And for one text a matrix is laid out anew: transposed, since one row times the 16,000-way head
takes 1.5 ms in the layout of `nn.Linear` and 0.5 ms so, and cut into as many blocks of columns as there are threads,
since the library multiplies one row with one thread, however wide the matrix (all matrices of a 10M model from memory,
two threads: 1.9 ms whole, 1.0 ms as two blocks in one batched product). For several texts at once a wide matrix is
packed by oneDNN, as torch's compiler does it (16 rows, two threads: the head 0.7 ms instead of 1.9; 192 x 576 is no
faster packed). Both are copies, made when they are first needed: memory is the price, and a copy does not follow a
training.

RMSNorm (arXiv 1910.07467) is x / sqrt(mean(x^2) + eps) * g. g and the root of the width are folded into the matrix that
follows, which leaves x / hypot(|x|, sqrt(width * eps)): three operations (4 us) where `F.rms_norm` takes ten (9 us).

Rotations (RoFormer, arXiv 2104.09864) turn pairs of dimensions: one product of complex numbers where the pair stands
side by side. GPT-J pairs neighbours, over all or some dimensions, Llama i with i + E/2; since scores are products of
query and key, any order of the dimensions that both share gives the same scores: Llama's are put into GPT-J's order,
and dimensions that are not turned get an angle of 0. The scale of the scores lies in the query's matrix.
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

PACKED_FROM = 768  # columns
NARROWEST_BLOCK = 32  # columns of a thread's share
PROVEN_ROPES = ("default", "linear", "llama3", "yarn")  # others look at the length of the text

gelu = partial(F.gelu, approximate="tanh")


class Matrix:
    """A product with a fixed matrix, its bias where it has one, and the activation behind it.

    Attributes:
        weight: Weight, (in, out).
        bias: Bias, (out,), or None.
        activation: What is done with the product, or None.
    """

    _packed: Tensor | None = None  # what oneDNN made of it for several rows
    _blocks: Tensor | None = None  # (blocks, in, out / blocks), for one row

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> None:
        """Take the matrix.

        Args:
            weight: Weight, (in, out).
            bias: Bias, (out,), or None.
            scale: Factors of the input, (in,), to be folded into the weight, or None.
        """
        self.weight = weight if scale is None else weight * scale[:, None]
        self.bias = bias
        self.activation: Callable[[Tensor], Tensor] | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply (N, in) rows to (N, out)."""
        if self.weight.device.type != "cpu":
            made = self._multiply(rows, self.weight)
        elif len(rows) == 1:
            made = self._multiply_one(rows)
        elif self.weight.shape[1] >= PACKED_FROM and self._packs():
            return self._multiply_packed(rows)
        else:
            made = self._multiply(rows, self.weight)
        return made if self.activation is None else self.activation(made)

    def _multiply(self, rows: Tensor, weight: Tensor) -> Tensor:
        return torch.mm(rows, weight) if self.bias is None else torch.addmm(self.bias, rows, weight)

    def _multiply_one(self, row: Tensor) -> Tensor:
        """Multiply one row, a block of columns a thread."""
        if self._blocks is None:
            height, width = self.weight.shape
            most = max(1, min(torch.get_num_threads(), width // NARROWEST_BLOCK))
            count = next(n for n in range(most, 0, -1) if width % n == 0)
            blocks = self.weight.reshape(height, count, width // count).transpose(0, 1)
            # One thread multiplies a matrix that narrows as fast in the layout that it has.
            self._blocks = blocks if count == 1 and width < height else blocks.contiguous()
        count, height, width = self._blocks.shape
        if count == 1:
            return self._multiply(row, self._blocks[0])
        factor = row.expand(count, 1, height)
        if self.bias is None:
            return torch.bmm(factor, self._blocks).view(1, -1)
        return torch.baddbmm(self.bias.view(count, 1, width), factor, self._blocks).view(1, -1)

    def _multiply_packed(self, rows: Tensor) -> Tensor:
        """Multiply by oneDNN's copy; GPT-2's and GPT-J's GELU is made in the same pass."""
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.t().contiguous())
        fused = ("gelu", [], "tanh") if self.activation is gelu else ("none", [], "")
        made = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, *fused)
        return made if self.activation in (None, gelu) else self.activation(made)

    def _packs(self) -> bool:
        """Return whether oneDNN takes the product: it is an operation of torch's compiler, not of its public API."""
        known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return known and self.weight.dtype == torch.float32


@dataclass(frozen=True)
class LeanLayer:
    """One decoder layer. `mlp_norm` is None where the MLP reads what the attention reads (GPT-J)."""

    attention_norm: Callable[[Tensor], Tensor]
    qkv: Matrix
    output: Matrix
    mlp_norm: Callable[[Tensor], Tensor] | None
    mlp: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LeanModel:
    """A causal language model taken apart.

    Attributes:
        embedding: Token embeddings, (V, D).
        positions: Learned position embeddings, (P, D), or None.
        rotation: Complex factors of the pairs of query and key, (P, E / 2), or None.
        layers: Decoder layers, first to last.
        norm: Norm in front of the head.
        head: Product to the logits.
        heads: Number of query heads.
        kv_heads: Number of key and value heads; `heads` is a multiple of it.
        head_size: Width E of a head.
    """

    embedding: Tensor
    positions: Tensor | None
    rotation: Tensor | None
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
        The parts, which share or copy the model's weights as they are now; None for a class that is not known here,
        and where complex numbers are not at home (other types than float32, other devices than CPU and CUDA).
    """
    builder = BUILDERS.get(type(model).__name__)
    if builder is None or not type(model).__module__.startswith("transformers."):
        return None
    weight = next(model.parameters())
    if weight.dtype != torch.float32 or weight.device.type not in ("cpu", "cuda"):
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


def _attention_matrix(
    weight: Tensor,
    bias: Tensor | None,
    sizes: tuple[int, int, float],
    *,
    paired: bool = True,
    scale: Tensor | None = None,
) -> Matrix:
    """Return the product to query, key and value: the query scaled, dimensions that are turned together side by side.

    Args:
        weight: The three joined, (in, H*E + 2*K*E).
        bias: Biases of the three, joined, or None.
        sizes: Width of all queries H*E, width E of a head, and the factor of the scores.
        paired: Whether pairs stand side by side already; else i is turned with i + E/2.
        scale: Factors of the input, (in,), or None.
    """
    queries, size, scaling = sizes
    factors = torch.ones(weight.shape[1], device=weight.device)
    factors[:queries] = scaling
    weight, bias = weight * factors, None if bias is None else bias * factors
    if not paired:
        columns = torch.arange(weight.shape[1], device=weight.device)
        turned = (queries + weight.shape[1]) // 2  # queries and keys
        columns[:turned] = columns[:turned].view(-1, 2, size // 2).transpose(1, 2).flatten()
        weight, bias = weight[:, columns], None if bias is None else bias[columns]
    return Matrix(weight, bias, scale)


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
        return gelu
    return module


def _plain_mlp(inner: Matrix, activation: Callable[[Tensor], Tensor], outer: Matrix) -> Callable[[Tensor], Tensor]:
    inner.activation = activation
    return lambda rows: outer(inner(rows))


def _gated_mlp(module: nn.Module, scale: Tensor) -> Callable[[Tensor], Tensor]:
    both = _linear(module.gate_proj, module.up_proj, scale=scale)
    down, activation = _linear(module.down_proj), module.act_fn

    def mlp(rows: Tensor) -> Tensor:
        gate, up = both(rows).chunk(2, dim=1)
        return down(activation(gate) * up)

    return mlp


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
        weight, bias = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        sizes = (config.num_attention_heads * attention.head_dim, attention.head_dim, attention.scaling)
        qkv = _attention_matrix(weight, bias, sizes, paired=False, scale=first_scale)
        mlp = _gated_mlp(layer.mlp, second_scale)
        layers.append(LeanLayer(first, qkv, _linear(attention.o_proj), second, mlp))
    # The last norm's factors move into the head.
    norm, scale = _rms_norm(backbone.norm)
    embedding = backbone.embed_tokens.weight.detach()
    cosines, sines = backbone.rotary_emb(embedding, torch.arange(length, device=embedding.device)[None])
    return LeanModel(
        embedding,
        None,
        torch.complex(cosines[0], sines[0])[:, : cosines.shape[-1] // 2].contiguous(),
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
            _attention_matrix(
                block.attn.c_attn.weight.detach(),
                block.attn.c_attn.bias.detach(),
                (config.n_embd, config.n_embd // config.n_head, block.attn.scaling),
            ),
            _conv(block.attn.c_proj),
            _layer_norm(block.ln_2),
            _plain_mlp(_conv(block.mlp.c_fc), _activation(block.mlp.act), _conv(block.mlp.c_proj)),
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

    # Rotations; dimensions that are not turned stand behind the others and get an angle of 0.
    embedding = backbone.wte.weight.detach()
    if hasattr(backbone, "rotary_emb"):
        sines, cosines = backbone.rotary_emb(embedding, torch.arange(length, device=embedding.device)[None])
    else:  # transformers 5.17: a table in each layer
        table = backbone.h[0].attn.embed_positions[None, :length].to(embedding.device, embedding.dtype)
        sines, cosines = table.chunk(2, dim=-1)
    rest = torch.ones(length, (head_size - turned) // 2, device=embedding.device, dtype=torch.complex64)
    rotation = torch.cat((torch.complex(cosines[0], sines[0]), rest), dim=1)

    # Blocks with one norm.
    layers = []
    for block in backbone.h:
        attention, mlp = block.attn, block.mlp
        scaling = getattr(attention, "scaling", head_size**-0.5)  # transformers 5.17 divides by the root
        weight, bias = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        qkv = _attention_matrix(weight, bias, (config.n_embd, head_size, scaling))
        feed_forward = _plain_mlp(_linear(mlp.fc_in), _activation(mlp.act), _linear(mlp.fc_out))
        layers.append(LeanLayer(_layer_norm(block.ln_1), qkv, _linear(attention.out_proj), None, feed_forward))
    heads = config.n_head
    final, head = _layer_norm(backbone.ln_f), Matrix(*_joined([model.lm_head]))
    return LeanModel(embedding, None, rotation, layers, final, head, heads, heads, head_size)


BUILDERS: dict[str, Callable[[Any, int], LeanModel | None]] = {
    "LlamaForCausalLM": _llama,
    "GPT2LMHeadModel": _gpt2,
    "GPTJForCausalLM": _gptj,
}
