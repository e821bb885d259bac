"""Mixtures: exact shares at each tenth of a run, any number of passes, splits by file, and a test that no run sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from babyllama.common.errors import BabyLlamaError, DataError
from babyllama.config.schema import Config, DataConfig
from babyllama.data.documents import Document
from babyllama.data.held_out.rule import SplitRule
from babyllama.data.packing import packed_datasets
from babyllama.data.text_shards import HELD, TEST, TRAIN
from babyllama.data.token_store import TokenSplit, open_split, write_split
from babyllama.data.variation.mixing import MixedDataset, due_order, mix_weights
from data_utils import DataProcessor

SIZES = {"a": 4_000, "b": 700, "c": 90}  # documents of each domain


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> TokenSplit:
    folder = tmp_path_factory.mktemp("split")
    words = {"a": "dog", "b": "cat", "c": "river"}
    documents = [
        Document(f"The {words[name]} number {n} ran to the old house.", name)
        for name, count in SIZES.items()
        for n in range(count)
    ]
    write_split(folder, "train", documents, tiny_tokenizer)
    return open_split(folder, "train")


class _Data:
    def __init__(self, split: TokenSplit, tokenizer: Any) -> None:
        self.train = self.valid = split
        self.tokenizer = tokenizer


def _dataset(split: TokenSplit, tokenizer: Any, batch_size: int = 8, **data: Any) -> Any:
    config = Config(model={"type": "Llama"}, data={"seq_length": 16, **data}, training={"batch_size": batch_size})
    return packed_datasets(config, _Data(split, tokenizer))[0]


def _domains(split: TokenSplit) -> np.ndarray:
    """Domain of each token on disk."""
    return np.repeat(split.domain_ids, np.diff(split.starts))


@pytest.mark.parametrize("mix", [{"a": 1, "b": 1, "c": 2}, {"a": 0.7, "b": 0.3, "c": 0}, {"a": 5, "b": 3, "c": 1}])
def test_shares_are_the_weights_at_every_tenth_of_a_run(
    split: TokenSplit, tiny_tokenizer: Any, mix: dict[str, float]
) -> None:
    dataset = _dataset(split, tiny_tokenizer, mix=mix)
    assert isinstance(dataset, MixedDataset)
    # What is really shown, by tokens: each part's tokens are those of its domain alone.
    epochs = 2
    shown = np.concatenate([dataset.places(epoch)[0] for epoch in range(epochs)])
    weights = np.array([mix[name] for name in dataset.names]) / sum(mix.values())
    real = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        labels = dataset.__getitems__(list(range(len(dataset))))["labels"]
        real.append((labels != -100).sum(dim=1).numpy())
    tokens = np.concatenate(real)
    assert len(shown) == epochs * len(dataset)
    for tenth in np.array_split(np.arange(len(shown)), 10):
        found = np.bincount(shown[tenth], weights=tokens[tenth], minlength=len(weights)) / tokens[tenth].sum()
        assert np.abs(found - weights).max() < 0.005
    assert sum(row["share"] for row in dataset.shown(len(shown)).values()) == pytest.approx(1)


def test_a_domain_of_two_chunks_has_its_share_of_the_tokens(split: TokenSplit, tiny_tokenizer: Any) -> None:
    """90 sentences are 1.3 chunks of 1,024: the padding of the second does not count."""
    config = Config(
        model={"type": "Llama"}, data={"seq_length": 1024, "mix": {"a": 1, "b": 1, "c": 1}}, training={"batch_size": 8}
    )
    dataset = packed_datasets(config, _Data(split, tiny_tokenizer))[0]
    tokens = np.zeros(3)
    for epoch in range(20):
        dataset.set_epoch(epoch)
        labels = dataset.__getitems__(list(range(len(dataset))))["labels"]
        tokens += np.bincount(dataset.places(epoch)[0], weights=(labels != -100).sum(dim=1).numpy(), minlength=3)
    assert len(dataset.parts[2]) == 2
    assert dataset.parts[2].total < 0.8 * 2 * 1024
    assert np.abs(tokens / tokens.sum() - 1 / 3).max() < 0.005
    assert 20 * dataset.epoch_tokens == pytest.approx(tokens.sum(), rel=0.005)
    shown = dataset.shown(20 * len(dataset))
    assert [row["tokens"] for row in shown.values()] == pytest.approx(tokens.tolist(), rel=0.005)


def test_a_pass_shows_each_token_of_a_domain_once(split: TokenSplit, tiny_tokenizer: Any) -> None:
    dataset = _dataset(split, tiny_tokenizer, mix={"a": 1, "b": 1, "c": 1})
    domains = _domains(split)
    number = dataset.names.index("c")
    chunks = len(dataset.parts[number])
    expected = np.sort(split.tokens[domains == split.domains.index("c")].astype(np.int64))
    parts, passes, _ = dataset.places(0)
    for passed in (0, 1, 2):
        here = np.flatnonzero((parts == number) & (passes == passed))
        assert len(here) == chunks
        labels = dataset.__getitems__(here.tolist())["labels"].numpy()
        assert (np.sort(labels[labels != -100]) == expected).all()


def test_the_same_seed_gives_the_same_chunks_wherever_one_begins(split: TokenSplit, tiny_tokenizer: Any) -> None:
    mix = {"a": 2, "b": 1, "c": 1}
    one, two = (_dataset(split, tiny_tokenizer, mix=mix) for _ in range(2))
    one.set_epoch(0)
    one.__getitems__(list(range(40)))
    one.set_epoch(1)
    two.set_epoch(1)  # as a resume does
    for start in (0, 64, 8):
        first, second = (dataset.__getitems__(list(range(start, start + 8))) for dataset in (one, two))
        assert torch.equal(first["input_ids"], second["input_ids"])
        assert torch.equal(first["labels"], second["labels"])
    assert len(one) % 8 == 0


def test_places_are_the_same_in_whatever_slices_they_are_asked_for() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        weights = generator.dirichlet(np.ones(generator.integers(2, 9)) / 2)
        weights /= weights.sum()
        parts, numbers = due_order(weights, 0, 2_000)
        shown = np.cumsum(np.eye(len(weights))[parts], axis=0)
        assert np.abs(shown - np.arange(1, 2_001)[:, None] * weights).max() < 3
        for domain in range(len(weights)):
            assert (numbers[parts == domain] == np.arange((parts == domain).sum())).all()
        first = int(generator.integers(0, 1_900))
        again = due_order(weights, first, first + 100)
        assert (again[0] == parts[first : first + 100]).all()
        assert (again[1] == numbers[first : first + 100]).all()


def test_temperature_flattens_sizes(split: TokenSplit) -> None:
    sizes = np.bincount(split.domain_ids, weights=np.diff(split.starts))
    for temperature in (1.0, 2.0, 100.0):
        weights = mix_weights(DataConfig(mix_temperature=temperature), split)
        expected = sizes ** (1 / temperature)
        np.testing.assert_allclose(list(weights.values()), expected / expected.sum())
    assert mix_weights(DataConfig(), split) is None


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        ({"a": 1, "b": 1}, "c is not listed. List every domain, 0 leaves one out; there are: a, b, c"),
        ({"a": 1, "b": 1, "c": 1, "bb": 2}, r"no text of bb \(did you mean b\?\)"),
    ],
)
def test_every_domain_is_named(split: TokenSplit, mix: dict[str, float], told: str) -> None:
    with pytest.raises(BabyLlamaError, match=told):
        mix_weights(DataConfig(mix=mix), split)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.mix={a: 1}", "data.mix_temperature=2"], "both set; choose one"),
        (["data.mix={a: 0}"], "no weight above 0"),
        (["data.mix={a: 1}", "curriculum.difficulty=length"], "not with a curriculum"),
        (["data.mix={a: 1}", "data.segment_tokens=[4, 64]"], "not with data.segment_tokens"),
        (["data.mix={a: -1}"], "data.mix"),
    ],
)
def test_what_does_not_go_together(overrides: list[str], told: str) -> None:
    from babyllama.config.loading import load_config

    with pytest.raises(BabyLlamaError, match=told):
        load_config("config/llama-10M.yaml", overrides)


def _corpus(folder: Path, files: int = 12, documents: int = 9) -> Path:
    folder.mkdir(parents=True)
    for number in range(files):
        text = "\n<|endoftext|>\n".join(f"File {number} document {n}." for n in range(documents + number % 3))
        (folder / f"f{number:02d}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(("share", "test"), [(0.1, 0.0), (0.05, 0.1), (0.3, 0.3), (0.49, 0.49)])
def test_no_file_stands_on_two_sides(tmp_path: Path, share: float, test: float) -> None:
    folder = _corpus(tmp_path / "c")
    keys = {"train_path": str(folder), "holdout": share, "test": test, "holdout_by": "file"}
    processor = DataProcessor(DataConfig(**keys))
    sides = [list(processor.train_documents()), processor.held_out_documents()]
    sides.append(processor.held_out_documents(test=True) if test else [])
    files = [{document.source for document in side} for side in sides]
    assert not files[0] & files[1]
    assert not (files[0] | files[1]) & files[2]
    assert files[0]
    assert files[1]
    assert bool(files[2]) == bool(test)
    assert sum(map(len, sides)) == len(processor.load_text_files(str(folder)))
    # The same when it is prepared, and from the cache.
    prepared = processor.prepare()
    assert prepared.train_words == sum(len(document.text.split()) for document in sides[0])
    assert DataProcessor(DataConfig(**keys)).held_out_documents() == sides[1]
    if test:
        assert DataProcessor(DataConfig(**keys)).held_out_documents(test=True) == sides[2]


@pytest.mark.parametrize("count", [30, 101, 400])
def test_a_test_share_is_neither_trained_on_nor_held_out(tmp_path: Path, count: int) -> None:
    texts = [f"Document number {n} of the text." for n in range(count)]
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(texts) + "\n", encoding="utf-8")
    path = str(tmp_path / "a.txt")
    processor = DataProcessor(DataConfig(train_path=path, test=0.1))
    prepared = processor.prepare()
    train, dev = list(processor.train_documents()), processor.held_out_documents()
    test = processor.held_out_documents(test=True)
    assert sorted(d.text for d in [*train, *dev, *test]) == sorted(texts)
    assert 0.05 < len(test) / count < 0.2
    assert prepared.train_words == sum(len(d.text.split()) for d in train)
    assert DataProcessor(DataConfig(train_path=path)).held_out_documents() == dev  # the test moves nothing else


def test_streaming_and_places_agree() -> None:
    documents = [Document(f"text {n}", "d", f"f{n % 7}") for n in range(203)]
    for rule in (SplitRule(0.05), SplitRule(0.05, 0.05), SplitRule(0.0, 0.1), SplitRule(0.3, 0.2)):
        streamed = [mark for _, mark in rule.parts(documents)]
        assert streamed == rule.marks([d.source for d in documents]).tolist()
        assert (TEST in streamed) == bool(rule.test)
        assert (HELD in streamed) == bool(rule.share)
        assert TRAIN in streamed


def test_too_few_files_say_what_is_needed(tmp_path: Path) -> None:
    folder = _corpus(tmp_path / "c", files=1)
    with pytest.raises(DataError, match=r"holdout_by: file: 1 files of different names, 2 are needed"):
        DataProcessor(DataConfig(train_path=str(folder), holdout_by="file")).prepare()
    with pytest.raises(DataError, match="synthetic is in no files"):
        list(DataProcessor(DataConfig(holdout_by="file")).train_documents())
    with pytest.raises(BabyLlamaError, match="has set no test share aside"):
        DataProcessor(DataConfig()).held_out_documents(test=True)
