r"""Domains mixed by weight: exact shares of the training's tokens at every moment of it.

`data.mix: {childes: 2, wikipedia: 1}` says how much of each domain is shown, whatever there is of it. Each domain is
packed into chunks by itself, in passes of its own: a pass shows each of its chunks once, in a new order and with new
cut points. The k-th chunk of a domain with weight w (weights add up to 1) is due at time (k + 1/2) / w, and chunks are
shown in the order in which they are due (Sainte-Laguë's rule of apportionment). So after n chunks a domain has had
n w of them to within about one, at every n, and a batch holds every domain.

    weights 2/3 and 1/3      a b a | a b a | a b a ...

Weights are shares of tokens. The last chunk of a pass is padded, which matters in a domain of few chunks: its chunks
come as much oftener as they hold fewer tokens.

`data.mix_temperature: T` gives a domain of n tokens the weight n^(1/T): 1 is the text as it is, more flattens it
(Arivazhagan et al. 2019, arXiv 1907.05019).

An epoch is as many chunks as there are; what it shows of a domain depends on its weight. Which chunk stands at which
place is a function of seed and place alone, so a resume and several processes see the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from babyllama.common.errors import ConfigError
from babyllama.data.token_store import TokenSplit

if TYPE_CHECKING:
    from babyllama.config.schema import DataConfig
    from babyllama.data.packing import PackedDataset

_PASS = 3  # keeps the draws of a pass's order apart from those of orders and offsets


def mix_weights(data: DataConfig, split: TokenSplit) -> dict[str, float] | None:
    """The share of each domain, adding up to 1; None where the text is not mixed.

    Args:
        data: The configuration's section, with `mix` or `mix_temperature`.
        split: The training text.

    Raises:
        ConfigError: A domain of the text is not in the mix, or the other way round.
    """
    if data.mix is None and data.mix_temperature is None:
        return None
    if data.mix is None:
        sizes = _domain_tokens(split)
        weights = dict(zip(split.domains, (sizes ** (1 / data.mix_temperature)).tolist(), strict=True))
    else:
        _check_domains(data.mix, split.domains)
        weights = {name: data.mix[name] for name in split.domains}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _domain_tokens(split: TokenSplit) -> np.ndarray:
    """(domains,) float64: tokens of each domain."""
    return np.bincount(split.domain_ids, weights=np.diff(split.starts), minlength=len(split.domains))


def _check_domains(mix: Mapping[str, float], domains: Sequence[str]) -> None:
    problems = []
    for name in mix:
        if name not in domains:
            near = difflib.get_close_matches(name, domains, n=1)
            problems.append(f"no text of {name}" + (f" (did you mean {near[0]}?)" if near else ""))
    problems += [f"{name} is not listed" for name in domains if name not in mix]
    if problems:
        known = ", ".join(domains)
        raise ConfigError(f"data.mix: {'; '.join(problems)}. List every domain, 0 leaves one out; there are: {known}")


def due_order(weights: np.ndarray, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Which domain stands at each place, and which of its own chunks.

    Args:
        weights: (D,) shares that add up to 1.
        first: First place.
        end: Place behind the last.

    Returns:
        (end - first,) number of the domain; (end - first,) running number among the domain's own, from 0.

    >>> parts, numbers = due_order(np.array([2 / 3, 1 / 3]), 0, 6)
    >>> parts.tolist(), numbers.tolist()
    ([0, 1, 0, 0, 1, 0], [0, 0, 1, 2, 1, 3])
    """
    # What may stand there: of each domain the chunks whose turn comes around these places, with room to spare.
    spare = len(weights) + 1
    lows = np.maximum(0, np.floor(weights * first).astype(np.int64) - spare)
    highs = np.ceil(weights * end).astype(np.int64) + spare
    highs[weights == 0] = lows[weights == 0] = 0
    counts = highs - lows
    parts = np.repeat(np.arange(len(weights)), counts)
    numbers = np.concatenate([np.arange(low, high) for low, high in zip(lows, highs, strict=True)])
    order = np.argsort((numbers + 0.5) / weights[parts], kind="stable")
    skip = first - int(lows.sum())  # chunks before those that were looked at have all been shown
    chosen = order[skip : skip + end - first]
    return parts[chosen], numbers[chosen]


class MixedDataset(Dataset):  # type: ignore[type-arg]
    """Chunks of several domains in the order in which they are due.

    Args:
        parts: Chunks of each domain, not filled up.
        names: Names of the domains.
        weights: Share of the tokens of each domain, adding up to 1.
        words: Words of each domain.
        seed: Seed of the orders of the passes.
        multiple_of: An epoch is filled up with chunks to a multiple of this.
    """

    def __init__(
        self,
        parts: Sequence[PackedDataset],
        names: Sequence[str],
        weights: Sequence[float],
        words: Sequence[int],
        *,
        seed: int,
        multiple_of: int = 1,
    ) -> None:
        self.parts, self.names, self.weights = list(parts), list(names), np.array(weights, dtype=np.float64)
        self.seed, self.seq_length = seed, parts[0].seq_length
        counts, tokens = (np.array(values, dtype=np.float64) for values in zip(*map(_size, parts), strict=True))
        self.fill = tokens / counts  # tokens of a domain's chunk, on average
        rates = self.weights / self.fill
        self.rates = rates / rates.sum()  # shares of the chunks
        self.chunks = -(-int(counts.sum()) // multiple_of) * multiple_of
        self.passes = self.rates * self.chunks / counts  # of a domain, in an epoch
        self.epoch_words = round(float((self.passes * np.array(words)).sum()))
        self.epoch_tokens = round(float((self.passes * tokens).sum()))
        self._places: tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None  # of the epoch used last
        self.set_epoch(0)

    def __len__(self) -> int:
        """Return chunks of an epoch."""
        return self.chunks

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: which places of the whole run the indices of `__getitems__` count from."""
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """(chunks,) the places of an epoch, one after another: the mixture is an order already."""
        return np.arange(self.chunks)

    def places(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(chunks,) each: the domain at each place of an epoch, its pass, and the chunk in that pass's numbering."""
        parts, numbers = due_order(self.rates, epoch * self.chunks, (epoch + 1) * self.chunks)
        passes, chunks = np.zeros_like(numbers), np.zeros_like(numbers)
        for part, dataset in enumerate(self.parts):
            mine = np.flatnonzero(parts == part)
            passes[mine], chunks[mine] = np.divmod(numbers[mine], len(dataset))
            for number in np.unique(passes[mine]).tolist():
                chosen = mine[passes[mine] == number]
                chunks[chosen] = self._pass_order(part, number)[chunks[chosen]]
        return parts, passes, chunks

    def _pass_order(self, part: int, number: int) -> np.ndarray:
        generator = np.random.Generator(np.random.PCG64([self.seed, part, number, _PASS]))
        return generator.permutation(len(self.parts[part]))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one chunk: input_ids (T,), labels (T,)."""
        if not 0 <= index < self.chunks:
            raise IndexError(index)
        return {name: batch[0] for name, batch in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return a batch at once: input_ids (B, T) and labels (B, T), int64."""
        parts, passes, chunks = (values[indices] for values in self._current())
        batch = torch.zeros(2, len(indices), self.seq_length, dtype=torch.long)
        for part, number in sorted(set(zip(parts.tolist(), passes.tolist(), strict=True))):
            rows = np.flatnonzero((parts == part) & (passes == number))
            dataset = self.parts[part]
            dataset.set_epoch(number)
            found = dataset.__getitems__(chunks[rows].tolist())
            batch[0, rows], batch[1, rows] = found["input_ids"], found["labels"]
        return {"input_ids": batch[0], "labels": batch[1]}

    def _current(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`places` of the current epoch, kept."""
        if self._places is None or self._places[0] != self.epoch:
            self._places = self.epoch, self.places(self.epoch)
        return self._places[1]

    def shown(self, chunks: int) -> dict[str, dict[str, float]]:
        """Return what the first chunks of a run show of each domain: its weight, tokens, their share, passes.

        Args:
            chunks: Number of chunks.
        """
        counts = np.bincount(due_order(self.rates, 0, chunks)[0], minlength=len(self.parts))
        tokens = np.array([_shown(part, count) for part, count in zip(self.parts, counts.tolist(), strict=True)])
        shares, passes = tokens / max(int(tokens.sum()), 1), counts / [len(part) for part in self.parts]
        columns = {"weight": self.weights, "tokens": tokens, "share": shares, "passes": passes}
        return {name: {key: column[i].item() for key, column in columns.items()} for i, name in enumerate(self.names)}

    def lines(self) -> list[str]:
        """What a user is told: each domain's share and how often its text is shown in an epoch."""
        told = [
            f"{name} {100 * weight:.1f}% (shown {passes:.2f} times an epoch)"
            for name, weight, passes in zip(self.names, self.weights.tolist(), self.passes.tolist(), strict=True)
        ]
        return [f"mix: {', '.join(told)}"]


def _size(part: PackedDataset) -> tuple[int, int]:
    """Return a domain's chunks and tokens."""
    return len(part), part.total


def _shown(part: PackedDataset, chunks: int) -> int:
    """Return tokens of so many chunks; those of a pass that is not over are counted as full but for its last chunk."""
    passes, rest = divmod(chunks, len(part))
    return passes * part.total + min(rest * part.seq_length, part.total)


def mixed(
    split: TokenSplit, weights: Mapping[str, float], packed: Callable[..., PackedDataset], **options: Any
) -> MixedDataset:
    """Pack each domain by itself and mix them.

    Args:
        split: The training text.
        weights: Share of each domain; one of 0 is left out.
        packed: Maker of a PackedDataset of the documents whose numbers are given as `documents`.
        **options: Seed and multiple_of, as for MixedDataset.
    """
    used = [number for number, name in enumerate(split.domains) if weights[name] > 0]
    chosen = [np.flatnonzero(split.domain_ids == number) for number in used]
    names = [split.domains[number] for number in used]
    words = [int(split.words[documents].sum()) for documents in chosen]
    parts = [packed(documents=documents) for documents in chosen]
    return MixedDataset(parts, names, [weights[name] for name in names], words, **options)
