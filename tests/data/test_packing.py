"""Packing shows every token exactly once an epoch, whatever the lengths, and nothing else."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from babyllama.data.packing import PackedDataset
from babyllama.data.token_store import TokenSplit


def _split(lengths: list[int]) -> TokenSplit:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(starts[-1]).astype(np.uint16)  # every token is unique, so that each can be followed
    zeros = np.zeros(len(lengths), dtype=np.int64)
    return TokenSplit(tokens, starts, zeros, zeros, zeros, ["d"])


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1], [7, 3, 9, 2, 30], [64] * 4])
@pytest.mark.parametrize("seq_length", [4, 8, 13])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("multiple", [1, 4])
def test_every_token_once(lengths: list[int], seq_length: int, shuffle: bool, offset: bool, multiple: int) -> None:
    split = _split(lengths)
    data = PackedDataset(
        split, seq_length, pad_id=0, seed=3, shuffle=shuffle, random_offset=offset, multiple_of=multiple
    )
    for epoch in range(3):
        data.set_epoch(epoch)
        batch = data.__getitems__(list(range(len(data))))
        seen = Counter(batch["labels"][batch["labels"] != -100].tolist())
        assert seen == Counter(range(sum(lengths)))
        assert torch.equal(batch["input_ids"][batch["labels"] != -100], batch["labels"][batch["labels"] != -100])
    assert len(data) % multiple == 0
    assert len(data) - multiple < -(-sum(lengths) // seq_length) <= len(data)


def test_documents_stay_whole_in_a_shuffled_stream() -> None:
    split = _split([5, 6, 7])
    data = PackedDataset(split, 18, pad_id=0, seed=1, shuffle=True)
    stream = data[0]["input_ids"].tolist()
    blocks = [list(range(0, 5)), list(range(5, 11)), list(range(11, 18))]
    assert all(any(stream[i : i + len(block)] == block for i in range(18)) for block in blocks)


def test_cut_points_move_with_the_epoch_and_come_back() -> None:
    data = PackedDataset(_split([100]), 16, pad_id=0, seed=5, random_offset=True)
    first = [data.set_epoch(epoch) or data[0]["input_ids"].tolist() for epoch in (0, 1, 2, 0)]
    assert first[0] == first[3]
    assert first[0] != first[1]


def test_only_the_last_chunk_is_padded() -> None:
    data = PackedDataset(_split([10]), 4, pad_id=9, multiple_of=4)
    batch = data.__getitems__([0, 1, 2, 3])
    assert batch["input_ids"][2:].tolist() == [[8, 9, 9, 9], [9, 9, 9, 9]]
    assert batch["labels"][2:].tolist() == [[8, 9, -100, -100], [-100] * 4]
    with pytest.raises(IndexError):
        data[4]


def test_a_spawned_loader_maps_the_tokens_instead_of_getting_a_copy(tmp_path: Path) -> None:
    split = _split([5_000] * 8)
    split.tokens.tofile(tmp_path / "tokens")
    split = replace(split, tokens=np.memmap(tmp_path / "tokens", dtype=np.uint16, mode="r"))
    data = PackedDataset(split, 64, pad_id=0, shuffle=True, random_offset=True)
    data.set_epoch(3)
    sent = pickle.dumps(data)
    assert len(sent) < split.tokens.nbytes / 10
    got = pickle.loads(sent)
    assert isinstance(got.tokens, np.memmap)
    whole, same = (found.__getitems__(list(range(len(data)))) for found in (data, got))
    assert all(torch.equal(whole[name], same[name]) for name in whole)
    part = PackedDataset(replace(split, tokens=split.tokens[10:]), 64, pad_id=0)
    assert torch.equal(pickle.loads(pickle.dumps(part))[0]["labels"], part[0]["labels"])


def test_a_data_loader_gives_the_batches_as_they_are() -> None:
    data = PackedDataset(_split([64]), 8, pad_id=0)
    batches = list(DataLoader(data, batch_size=4, collate_fn=lambda batch: batch))
    assert [batch["input_ids"].shape for batch in batches] == [(4, 8), (4, 8)]
    assert torch.equal(torch.stack([data[0]["labels"], data[1]["labels"]]), batches[0]["labels"][:2])


def test_the_loader_is_fast_enough_for_a_gpu() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(50, 2000, 2000).tolist()
    split = _split(lengths)
    data = PackedDataset(split, 128, pad_id=0, shuffle=True, random_offset=True)
    order = generator.permutation(len(data))[: 32 * (len(data) // 32)].reshape(-1, 32).tolist()
    started = time.perf_counter()
    for indices in order:
        data.__getitems__(indices)
    rate = len(order) * 32 * 128 / (time.perf_counter() - started)
    assert rate > 1_000_000, f"{rate:,.0f} tokens/s"  # 5M on an idle machine, see docs/performance.md
