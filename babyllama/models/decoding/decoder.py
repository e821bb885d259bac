"""Decoders: the logits of the next token of a batch of texts that grow by one token at a time.

`LeanDecoder` computes Llama, GPT-2 and GPT-J from plain matrices (`lean_model.py`) with keys and values in tensors that
are allocated once for the whole context. `TransformersDecoder` runs any causal model with Transformers' own cache.
`make_decoder` takes the first wherever it is proved on the model at hand: both write the same short texts of unequal
length, and their logits have to agree.

Texts are padded on the left, so that the newest token of all of them stands in the last column.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from babyllama.models.decoding.lean_model import LeanLayer, LeanModel, take_apart

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROOF_TOKENS = 128  # of the longer text; positions are looked up in tables, so later ones differ in numbers only
TOLERANCE = 1e-3  # of the largest logit; float32 in another order differs by 1e-6 to 1e-5


class Decoder(Protocol):
    """A batch of texts, their cache, and the logits of what comes next."""

    context_length: int
    length: int

    def fresh(self) -> Decoder:
        """Return a decoder of the same model with a cache of its own."""

    def begin(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Read whole texts, forgetting what was read before, and return the (B, V) logits behind each."""

    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token of each text and return the (B, V) logits behind it."""


def pad_left(rows: Sequence[Sequence[int]], device: torch.device | str) -> tuple[Tensor, Tensor | None]:
    """Join rows of ids to a (B, T) tensor, filled on the left with 0.

    Returns:
        The ids, and a (B, T) boolean mask that is True at real tokens; None where all rows are equally long.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    if all(len(row) == width for row in rows):
        return ids, None
    missing = torch.tensor([width - len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) >= missing[:, None]


def cache_argument(model: PreTrainedModel) -> str | None:
    """Return the name under which a model's forward takes keys and values; None where it keeps another state.

    Transformers 5.24 calls it `cache` and warns of the older name; Mamba's and RWKV's state is under either name, too,
    and their classes say so.
    """
    if getattr(model, "_is_stateful", False):
        return None
    for forward in (model.forward, *(kind.forward for kind in type(model).__mro__ if "forward" in vars(kind))):
        parameters = inspect.signature(forward).parameters
        for name in ("past_key_values", "cache"):
            if name in parameters:
                return name
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return None  # nothing is passed on to the class below
    return None


class _WholeModelDecoder:
    """What decoders that call the model's own forward share."""

    def __init__(self, model: PreTrainedModel, context_length: int) -> None:
        """Wrap a model.

        Args:
            model: A causal language model in evaluation mode.
            context_length: Number of tokens that a text may have.
        """
        self.model, self.context_length, self.length = model, context_length, 0
        self.device = next(model.parameters()).device

    def fresh(self) -> Self:
        """Return a decoder of the same model that has read nothing."""
        return type(self)(self.model, self.context_length)


class TransformersDecoder(_WholeModelDecoder):
    """Decode with the model's own forward and Transformers' cache."""

    def __init__(self, model: PreTrainedModel, context_length: int) -> None:
        super().__init__(model, context_length)
        self._name = cache_argument(model) or "past_key_values"
        self._cache: Any = None
        self._mask = torch.empty(0)

    @torch.no_grad()
    def begin(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Read whole texts and return the (B, V) logits behind each."""
        ids, mask = pad_left(rows, self.device)
        self._cache, self.length = None, ids.shape[1]
        self._mask = torch.ones_like(ids) if mask is None else mask.long()
        return self._forward(ids)

    @torch.no_grad()
    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token of each text and return the (B, V) logits behind it."""
        ids = torch.tensor(tokens, device=self.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        self.length += 1
        return self._forward(ids)

    def _forward(self, ids: Tensor) -> Tensor:
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            use_cache=True,
            **{self._name: self._cache},
        )
        self._cache = output.past_key_values
        return output.logits[:, -1].float()


class RereadingDecoder(_WholeModelDecoder):
    """Decode a model whose cache is not transformers' keys and values (RWKV, Mamba): whole texts are read each time."""

    def __init__(self, model: PreTrainedModel, context_length: int) -> None:
        super().__init__(model, context_length)
        self._rows: list[list[int]] = []

    def begin(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Read whole texts and return the (B, V) logits behind each."""
        self._rows = [list(row) for row in rows]
        return self._read()

    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token of each text and return the (B, V) logits behind it."""
        self._rows = [[*row, token] for row, token in zip(self._rows, tokens, strict=True)]
        return self._read()

    @torch.inference_mode()
    def _read(self) -> Tensor:
        self.length = max(map(len, self._rows))
        filled = [row + [0] * (self.length - len(row)) for row in self._rows]  # behind a text: nothing looks there
        logits = self.model(input_ids=torch.tensor(filled, device=self.device), use_cache=False).logits
        last = torch.tensor([len(row) - 1 for row in self._rows], device=self.device)
        return logits[torch.arange(len(last), device=self.device), last].float()


class LeanDecoder:
    """Decode from plain matrices with keys and values allocated once."""

    def __init__(self, parts: LeanModel, context_length: int) -> None:
        """Take the parts of a model.

        Args:
            parts: Model taken apart for at least `context_length` positions.
            context_length: Number of tokens that a text may have.
        """
        self.parts, self.context_length, self.length = parts, context_length, 0
        self.device = parts.embedding.device
        self._missing: Tensor | None = None  # (B,) columns of padding in front of each text
        self._cache = torch.empty(0)  # keys and values, (layers, 2, B, K, S, E)

    def fresh(self) -> LeanDecoder:
        """Return a decoder of the same weights with a cache of its own."""
        return LeanDecoder(self.parts, self.context_length)

    @torch.inference_mode()
    def begin(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Read whole texts and return the (B, V) logits behind each."""
        ids, real = pad_left(rows, self.device)
        self._missing = None if real is None else (~real).sum(1)
        parts = self.parts
        shape = (len(parts.layers), 2, len(rows), parts.kv_heads, self.context_length, parts.head_size)
        if self._cache.shape != shape:
            self._cache = parts.embedding.new_zeros(shape)
        self.length = 0
        return self._forward(ids)

    @torch.inference_mode()
    def extend(self, tokens: Sequence[int]) -> Tensor:
        """Read one more token of each text and return the (B, V) logits behind it."""
        return self._forward(torch.tensor(tokens, device=self.device)[:, None])

    def _forward(self, ids: Tensor) -> Tensor:
        """Read (B, T) tokens behind the cache; return the (B, V) logits of the last column."""
        parts, (batch, count) = self.parts, ids.shape
        start, end = self.length, self.length + count
        at, mask = self._places(start, end)
        if mask is not None and self._by_products(count):  # (B * K, 1, S), added to the scores
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
            mask = mask[:, 0].repeat_interleave(parts.kv_heads, 0)
        # Embeddings and, by architecture, positions or rotations.
        rows = F.embedding(ids, parts.embedding)
        if parts.positions is not None:
            rows = rows + parts.positions[at]
        rotation = None if parts.rotation is None else parts.rotation[at].unsqueeze(-2)
        rows = rows.reshape(batch * count, -1)
        # One view of all layers' cache for what is written, one for what is read.
        new = self._cache[..., start:end, :].unbind(0)
        seen = self._cache.flatten(2, 3).flatten(0, 1)[:, :, :end].unbind(0)
        # Layers; without a second norm attention and MLP stand side by side (GPT-J).
        for layer, slot, keys, values in zip(parts.layers, new, seen[::2], seen[1::2], strict=True):
            normed = layer.attention_norm(rows)
            attended = self._attend(layer, normed, (batch, count), slot, (keys, values), rotation, mask)
            if layer.mlp_norm is None:
                rows = rows + attended + layer.mlp(normed)
            else:
                rows = rows + attended
                rows = rows + layer.mlp(layer.mlp_norm(rows))
        self.length = end
        last = rows.view(batch, count, -1)[:, -1]
        return parts.head(parts.norm(last)).float()

    def _by_products(self, count: int) -> bool:
        """Return whether attention is two products and a softmax: for one new token, where the CPU's SDPA is slower.

        16 texts of 6 heads 200 us against 236; one text 24 against 17, of which fewer steps around it save more.
        """
        return count == 1 and self.device.type == "cpu"

    def _places(self, start: int, end: int) -> tuple[slice | Tensor, Tensor | None]:
        """Return the positions of the new columns and a mask of what they may see.

        Returns:
            A slice, or (B, T) where texts are padded; None where the mask is that of causal attention, else
            (B, 1, T, S), True where a column may be seen. Padding sees itself, so that no row is empty.
        """
        if self._missing is None:
            if start == 0 or end - start == 1:
                return slice(start, end), None
            columns = torch.arange(end, device=self.device)
            return slice(start, end), (columns <= columns[start:, None])[None, None]
        columns = torch.arange(end, device=self.device)
        missing, new = self._missing[:, None], columns[start:]
        seen = (columns >= missing)[:, None, :] & (columns <= new[:, None])  # (B, T, S)
        seen = seen | (columns == new[:, None])
        return (new - missing).clamp(min=0), seen[:, None]

    def _attend(
        self,
        layer: LeanLayer,
        rows: Tensor,
        shape: tuple[int, int],
        slot: Tensor,
        cache: tuple[Tensor, Tensor],
        rotation: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Put keys and values of (B*T, D) rows into `slot`; attend to all (B*K, S, E) so far."""
        parts, (batch, count) = self.parts, shape
        heads, kv_heads, size = parts.heads, parts.kv_heads, parts.head_size
        # Rotate in place, then put keys and values into the cache.
        joined = layer.qkv(rows).view(batch, count, heads + 2 * kv_heads, size)
        if rotation is not None:
            pairs = torch.view_as_complex(joined.view(batch, count, -1, size // 2, 2))
            pairs.narrow(2, 0, heads + kv_heads).mul_(rotation)
        slot.copy_(joined.narrow(2, heads, 2 * kv_heads).view(batch, count, 2, kv_heads, size).permute(2, 0, 3, 1, 4))
        # One token: the heads of a group are rows of one query.
        keys, values = cache
        query, shared = joined.narrow(2, 0, heads), heads // kv_heads
        if self._by_products(count):
            query, turned = query.reshape(batch * kv_heads, shared, size), keys.transpose(1, 2)
            scores = torch.bmm(query, turned) if mask is None else torch.baddbmm(mask, query, turned)
            return layer.output(torch.bmm(scores.softmax(-1), values).view(batch, heads * size))
        # Several: Torch's attention; the queries are scaled already.
        query = query.transpose(1, 2)
        keys, values = keys.view(batch, kv_heads, -1, size), values.view(batch, kv_heads, -1, size)
        if shared > 1:
            keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
        causal = mask is None and count > 1
        attended = F.scaled_dot_product_attention(query, keys, values, mask, is_causal=causal, scale=1.0)
        return layer.output(attended.transpose(1, 2).reshape(batch * count, -1))


def make_decoder(model: PreTrainedModel, context_length: int) -> Decoder:
    """Return the fastest decoder that is proved to write what the model writes.

    Args:
        model: A causal language model in evaluation mode.
        context_length: Number of tokens that a text may have.
    """
    if cache_argument(model) is None:
        return RereadingDecoder(model, context_length)
    parts = take_apart(model, context_length)
    if parts is None:
        return TransformersDecoder(model, context_length)
    lean = LeanDecoder(parts, context_length)
    proved = getattr(model, "_babyllama_lean_ok", None)
    if proved is None:
        proved = _agree(lean, TransformersDecoder(model, context_length))
        model._babyllama_lean_ok = proved
    return lean if proved else TransformersDecoder(model, context_length)


def slower_because(decoder: Decoder) -> str | None:
    """Return a line that says why a decoder is not the lean one, None where it is."""
    if not isinstance(decoder, TransformersDecoder | RereadingDecoder):
        return None
    return f"{type(decoder.model).__name__} has no lean decoding step: generation runs at the speed of Transformers"


def _agree(lean: Decoder, reference: Decoder) -> bool:
    """Return whether two decoders give the same logits behind two texts of unequal length and two steps more."""
    longest = max(1, min(lean.context_length, PROOF_TOKENS) - 2)
    vocabulary = reference.model.get_input_embeddings().weight.shape[0]  # type: ignore[attr-defined]
    ids = torch.randint(vocabulary, (longest + 4,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [ids[:longest], ids[: max(1, longest // 2)]]
    pairs = [(lean.begin(rows), reference.begin(rows))]
    if lean.context_length > 2:
        pairs += [(lean.extend(new), reference.extend(new)) for new in (ids[-4:-2], ids[-2:])]
    return all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in pairs)
