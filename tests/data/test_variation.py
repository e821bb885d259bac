"""What differs from epoch to epoch: orders, segments and noise, each a function of seed, epoch and place."""

from __future__ import annotations

import doctest
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.data.documents import Document
from babyllama.data.packing import PackedDataset
from babyllama.data.token_store import TokenSplit, open_split, write_split
from babyllama.data.variation import input_noise
from babyllama.data.variation.input_noise import InputNoise
from babyllama.data.variation.line_starts import LineStarts
from babyllama.data.variation.segments import Segmenter
from babyllama.models.fused_loss import IGNORE
from babyllama.research.word_counts import WordCounter

STORY = "The little dog ran to the old house near the river. It saw a cat and two birds. The cat did not come down.\n"
TALK = "Come down!\nThe dog did not.\n\nA Title\n\nThe girl walks to school with her brother. The end"


@pytest.fixture(scope="module")
def split(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> TokenSplit:
    folder = tmp_path_factory.mktemp("split")
    texts = [STORY * (1 + n % 4) + TALK for n in range(30)]
    write_split(folder, "train", [Document(text, "d") for text in texts], tiny_tokenizer)
    return open_split(folder, "train")


def segmenter(split: TokenSplit, tokenizer: Any, **changes: Any) -> Segmenter:
    return Segmenter(split, tokenizer, **{"shortest": 8, "longest": 24, "share": 1.0, "seed": 5, **changes})


def texts_of(data: PackedDataset, tokenizer: Any) -> list[str]:
    """The texts between `<s>` and `</s>` of an epoch, in the order shown (no moving offset)."""
    labels = data.__getitems__(list(range(len(data))))["labels"].reshape(-1)
    ids = labels[labels != IGNORE].tolist()
    assert ids[0] == tokenizer.bos_token_id
    found = tokenizer.decode(ids).split("</s>")
    assert found.pop() == ""
    assert all(text.startswith("<s>") for text in found)
    return [text.removeprefix("<s>") for text in found]


def test_segments_begin_and_end_like_sentences_and_keep_every_word(split: TokenSplit, tiny_tokenizer: Any) -> None:
    data = PackedDataset(
        split, 32, pad_id=0, seed=5, shuffle=True, multiple_of=4, segments=segmenter(split, tiny_tokenizer)
    )
    wanted = Counter(word for n in range(30) for word in (STORY * (1 + n % 4) + TALK).split())
    shown = []
    for epoch in (0, 1, 2):
        data.set_epoch(epoch)
        texts = texts_of(data, tiny_tokenizer)
        assert Counter(word for text in texts for word in text.split()) == wanted
        assert not any(text[0].isspace() or text[-1].isspace() for text in texts if not text.endswith(".\n"))
        assert sum(text.strip()[-1] in ".!" for text in texts) > 0.8 * len(texts)  # the rest: titles and text's ends
        shown.append(texts)
        assert data.total <= len(data) * 32
    assert len(shown[0]) > 90
    assert Counter(shown[0]) != Counter(shown[1]), "other cuts in each epoch"
    data.set_epoch(0)
    assert texts_of(data, tiny_tokenizer) == shown[0], "and the same again"


def test_a_later_epoch_never_needs_more_chunks(split: TokenSplit, tiny_tokenizer: Any) -> None:
    cut = segmenter(split, tiny_tokenizer)
    for room in (len(split.tokens), len(split.tokens) + 50):
        pieces = cut.pieces(1, room)
        total = int((pieces.ends - pieces.starts + pieces.opened + pieces.closed).sum())
        assert room - 1 <= total <= room if room > len(split.tokens) else total <= room


def test_half_of_the_documents_stay_whole(split: TokenSplit, tiny_tokenizer: Any) -> None:
    pieces = segmenter(split, tiny_tokenizer, share=0.5).pieces(0)
    whole = sum(Counter(pieces.documents.tolist())[document] == 1 for document in range(30))
    assert 6 <= whole <= 24


def test_words_of_chunks_add_up_in_every_epoch(split: TokenSplit, tiny_tokenizer: Any) -> None:
    for options in ({"reshuffle": True}, {"segments": segmenter(split, tiny_tokenizer)}):
        data = PackedDataset(split, 16, pad_id=0, seed=1, shuffle=True, random_offset=True, multiple_of=4, **options)
        counter = WordCounter(data, split, tiny_tokenizer)
        for epoch in range(3):
            assert counter.of_chunks(epoch).sum() == split.words.sum()


def test_documents_come_in_a_new_order_each_epoch_the_first_in_the_usual_one(split: TokenSplit) -> None:
    plain = PackedDataset(split, 16, pad_id=0, seed=1, shuffle=True)
    again = PackedDataset(split, 16, pad_id=0, seed=1, shuffle=True, reshuffle=True)
    orders = [again.layout(epoch).documents.tolist() for epoch in (0, 1, 2, 1)]
    assert orders[0] == plain.layout(0).documents.tolist() == plain.layout(3).documents.tolist()
    assert len({tuple(order) for order in orders}) == 3
    assert orders[1] == orders[3]
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_the_hash_is_splitmix64() -> None:
    assert doctest.testmod(input_noise).failed == 0


def test_noise_replaces_its_share_and_never_the_labels(split: TokenSplit, tiny_tokenizer: Any) -> None:
    noise = InputNoise(0.2, tiny_tokenizer, seed=3)
    clean = PackedDataset(split, 32, pad_id=0, seed=1, shuffle=True, multiple_of=4)
    noisy = PackedDataset(split, 32, pad_id=0, seed=1, shuffle=True, multiple_of=4, noise=noise)
    everything = list(range(len(clean)))
    plain, given = clean.__getitems__(everything), noisy.__getitems__(everything)
    assert (plain["labels"] == given["labels"]).all()
    changed = (plain["input_ids"] != given["input_ids"]).numpy()
    ids, now = plain["input_ids"].numpy(), given["input_ids"].numpy()
    text = ids > 2
    assert not changed[~text].any()
    assert changed[text].mean() == pytest.approx(0.2, abs=0.03)
    assert (now[changed] == 0).mean() == pytest.approx(0.5, abs=0.08)
    assert len(np.unique(now[changed])) > 50
    rows = [3, 1]
    assert (noisy.__getitems__(rows)["input_ids"] == given["input_ids"][rows]).all(), "whatever the batch"
    noisy.set_epoch(1)
    assert (noisy.__getitems__(everything)["input_ids"] != given["input_ids"]).any()


@pytest.mark.integration
def test_real_text_is_cut_where_sentences_end(test_data: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    from babyllama.data.tokenizer import train_tokenizer

    text = (test_data / "corpora/babylm_like/childes.dev").read_text(encoding="utf-8")[:60_000]
    tokenizer = train_tokenizer([text], 2000)
    write_split(tmp_path, "train", [Document(text, "childes")], tokenizer)
    split = open_split(tmp_path, "train")
    pieces = Segmenter(split, tokenizer, shortest=20, longest=80, share=1.0, seed=0).pieces(0)
    lengths = pieces.ends - pieces.starts
    assert 30 < lengths.mean() < 60
    assert np.percentile(lengths, 95) < 100


@pytest.mark.parametrize("reshuffle", [False, True])
def test_chunks_begin_at_lines_and_show_each_token_once(
    split: TokenSplit, tiny_tokenizer: Any, reshuffle: bool
) -> None:
    length = 48
    data = PackedDataset(
        split,
        length,
        pad_id=0,
        seed=5,
        shuffle=True,
        random_offset=True,
        reshuffle=reshuffle,
        multiple_of=4,
        lines=LineStarts(split, tiny_tokenizer, length),
    )
    bos, newline = tiny_tokenizer.bos_token_id, "\n"
    shown = []
    for epoch in (0, 1, 2):
        data.set_epoch(epoch)
        batch = data.__getitems__(list(range(len(data))))
        rows = [row[row != IGNORE].tolist() for row in batch["labels"]]
        rows = [row for row in rows if row]
        bounds = data.bounds(epoch)[: len(rows)]
        assert bounds[:, 1].sum() == len(split.tokens)
        own = [row[opened:] for row, opened in zip(rows, bounds[:, 2].tolist(), strict=True)]
        assert Counter(token for row in own for token in row) == Counter(split.tokens.tolist())
        opened = [row[0] == bos for row in rows]
        assert sum(opened) > 0.5 * len(rows)
        for number, row in enumerate(rows):
            full = len(rows[number - 1]) == length
            assert row[0] == bos or full, "only what is left of a line that filled its chunk begins without a <s>"
            if row[0] != bos:
                assert not tiny_tokenizer.decode(own[number - 1]).endswith(newline)
        shown.append(rows)
        words = WordCounter(data, split, tiny_tokenizer)
        assert words.of_chunks(epoch).sum() == split.words.sum()
        assert (words.of_chunks(epoch)[: len(rows)] == [_words(split, tiny_tokenizer, row) for row in own]).mean() > 0.5
    assert shown[0] != shown[1], "other cuts in each epoch"
    data.set_epoch(0)
    assert [row[row != IGNORE].tolist() for row in data.__getitems__(list(range(len(data))))["labels"]][
        : len(shown[0])
    ] == (shown[0])


def _words(split: TokenSplit, tokenizer: Any, row: list[int]) -> int:
    return len(tokenizer.decode(row, skip_special_tokens=True).split())


def test_lines_are_cut_rather_than_more_chunks_made(split: TokenSplit, tiny_tokenizer: Any) -> None:
    lines = LineStarts(split, tiny_tokenizer, 48)
    layout = PackedDataset(split, 48, pad_id=0).layout(0)
    wanted = len(lines.chunks(layout, 0))
    fewest = -(-len(split.tokens) // 48)
    assert fewest < wanted
    assert len(lines.chunks(layout, 0, wanted - 1)) < wanted
    assert len(lines.chunks(layout, 0, fewest)) == fewest
