"""Words seen in scripts without spaces: each counts with the token that holds its first byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from babyllama.data.documents import Document
from babyllama.data.packing import PackedDataset
from babyllama.data.token_store import open_split, write_split
from babyllama.data.tokenizer import train_tokenizer
from babyllama.data.words import count_words
from babyllama.research.word_counts import WordCounter, word_begins

TEXTS = {
    "zh": "小狗跑了。它去哪儿了？小狗跑到河边去了，hello world 2026。",
    "th": "เด็กไปโรงเรียน แม่อยู่บ้าน เด็กอยู่ที่โรงเรียน",
    "mixed": "He said 你好 to the people of 北京 and went home.\n",
}


@pytest.mark.parametrize("vocab_size", [259, 330])
@pytest.mark.parametrize("language", TEXTS)
def test_a_word_counts_with_its_first_byte(tmp_path: Path, language: str, vocab_size: int) -> None:
    text = TEXTS[language]
    tokenizer = train_tokenizer([text] * 4, vocab_size)
    write_split(tmp_path, "train", [Document(text, "d"), Document("Plain words here.", "d")], tokenizer)
    split = open_split(tmp_path, "train")
    begins = word_begins(split, tokenizer)
    assert split.words.tolist() == [count_words(text), 3]
    assert np.add.reduceat(begins, split.starts[:-1]).tolist() == split.words.tolist()
    # Word by word: the text up to a token's end holds as many beginnings as were counted up to that token.
    ids = split.tokens[1 : split.starts[1] - 1].tolist()
    counted = np.cumsum(begins[1 : split.starts[1] - 1])
    for number in range(len(ids)):
        before = tokenizer.decode(ids[: number + 1])
        if not before.endswith("\ufffd"):
            from babyllama.data.words import word_starts

            assert counted[number] == sum(start < len(before) for start in word_starts(text))


def test_an_epoch_shows_every_word_once(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS.values(), 300)
    write_split(tmp_path, "train", [Document(text, "d") for text in TEXTS.values()], tokenizer)
    split = open_split(tmp_path, "train")
    dataset = PackedDataset(split, 16, pad_id=0, seed=1, shuffle=True, random_offset=True)
    counter = WordCounter(dataset, split, tokenizer)
    assert counter.of_chunks(0).sum() == counter.of_chunks(1).sum() == split.words.sum()
