"""`data.prefix_space`: a blank in front of every text, and every text back as it was."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.data.fast_encoding import DocumentEncoder
from babyllama.data.tokenizer import decode_behind, encode_documents, load_tokenizer, save_tokenizer, train_tokenizer
from tests.conftest import TEXT

TEXTS = ["", " ", "  two blanks", "dog", " dog", "\n\nA line.\n", "\tx", "Zoë's café – “quoted” 12.5%", "日本語 тест",
         "a</s>b <pad>", "x" * 50, "\u2028odd\x85 ends ", "I can't, she'll; 'tis"]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([TEXT] * 3, 400, prefix_space=True)


def test_every_text_comes_back_as_it_was(tokenizer: Any, tmp_path: Path) -> None:
    draws = random.Random(0)
    letters = [chr(n) for n in (*range(1, 0x250), 0x2028, 0x3042, 0x1F600)]
    texts = TEXTS + ["".join(draws.choices(letters, k=draws.randrange(12))) for _ in range(500)]
    save_tokenizer(tokenizer, tmp_path)
    for used in (tokenizer, load_tokenizer(tmp_path)):
        for text, ids in zip(texts, encode_documents(used, texts), strict=True):
            assert used.decode(ids) == text


def test_a_word_at_the_start_has_the_tokens_that_it_has_inside(tokenizer: Any) -> None:
    alone = tokenizer("dog", add_special_tokens=False)["input_ids"]
    inside = tokenizer("the dog", add_special_tokens=False)["input_ids"]
    assert inside[-len(alone) :] == alone
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("Ġ")
    plain = train_tokenizer([TEXT] * 3, 400)
    assert not plain.convert_ids_to_tokens(plain("dog", add_special_tokens=False)["input_ids"])[0].startswith("Ġ")
    assert tokenizer("dog")["input_ids"][0] == tokenizer.bos_token_id


def test_documents_are_stored_with_the_ids_of_the_library(tokenizer: Any) -> None:
    encoder = DocumentEncoder(tokenizer)
    assert encoder.by_pieces
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    stored = [np.frombuffer(found, dtype=encoder.dtype).tolist() for found in encoder.encode(TEXTS)]
    assert stored == [[bos, *ids, eos] for ids in encode_documents(tokenizer, TEXTS)]


def test_a_continuation_keeps_its_first_blank(tokenizer: Any) -> None:
    whole, before = (encode_documents(tokenizer, [text])[0] for text in ("the dog ran", "the dog"))
    assert whole[: len(before)] == before
    assert decode_behind(tokenizer, whole[len(before) :]) == " ran"
    assert decode_behind(tokenizer, [*whole[len(before) :], tokenizer.eos_token_id]) == " ran"
    assert decode_behind(tokenizer, []) == ""


def test_a_run_with_it_trains_and_tells_words_apart(tmp_path: Path) -> None:
    from babyllama.config.schema import DataConfig
    from data_utils import DataProcessor

    (tmp_path / "tale.train").write_text((TEXT + "\n") * 40, encoding="utf-8")
    (tmp_path / "tale.dev").write_text(TEXT, encoding="utf-8")
    base = {"train_path": str(tmp_path), "vocab_size": 300, "cache_dir": str(tmp_path / "cache")}
    plain = DataProcessor(DataConfig(**base)).prepare()
    data = DataProcessor(DataConfig(**base, prefix_space=True)).prepare()
    assert data.fingerprint != plain.fingerprint
    assert data.train_words == plain.train_words
    from babyllama.research.word_counts import word_begins

    begins = word_begins(data.train, data.tokenizer)
    assert int(begins.sum()) == data.train_words
