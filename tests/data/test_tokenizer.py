"""Lossless, the same after saving, and deaf to special tokens spelled in a corpus."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.data.tokenizer import (
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
)

HOSTILE = [
    "",
    " ",
    "\n\n",
    "  two  spaces ",
    "a\tb",
    "naïve café",
    "日本語",
    "😀👩‍👩‍👧",
    "</s><s><pad>",
    "\u0085\u2028\x1c",
    "e\u0301",
    "\u200b",
]


def _random_text(generator: random.Random) -> str:
    ranges = [(0x20, 0x7F), (0xA0, 0x2FF), (0x370, 0x5FF), (0x4E00, 0x4FFF), (0x1F300, 0x1F6FF), (0x01, 0x1F)]
    return "".join(chr(generator.randint(*generator.choice(ranges))) for _ in range(generator.randint(0, 60)))


def test_decode_of_encode_is_the_text(tiny_tokenizer: Any) -> None:
    generator = random.Random(0)
    texts = HOSTILE + [_random_text(generator) for _ in range(300)]
    for text, ids in zip(texts, encode_documents(tiny_tokenizer, texts), strict=True):
        assert tiny_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_special_spellings_in_a_corpus_are_text(tiny_tokenizer: Any) -> None:
    ids = encode_documents(tiny_tokenizer, ["a </s> b <pad>"])[0]
    assert not {tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id} & set(ids)


def test_special_tokens_and_bos(tiny_tokenizer: Any) -> None:
    assert [tiny_tokenizer.convert_tokens_to_ids(t) for t in ("<pad>", "<s>", "</s>")] == [0, 1, 2]
    ids = tiny_tokenizer("the dog")["input_ids"]
    assert ids[0] == 1
    assert ids[-1] != 2


def test_saved_and_loaded_by_auto_tokenizer_it_gives_the_same_ids(tiny_tokenizer: Any, tmp_path: Path) -> None:
    save_tokenizer(tiny_tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*HOSTILE[:8], "The little dog  ran."]:
        assert again(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    assert read_json(tmp_path / "tokenizer_config.json")["tokenizer_class"] in {
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
    }
    assert tokenizer_fingerprint(load_tokenizer(tmp_path)) == tokenizer_fingerprint(tiny_tokenizer)


def test_a_bare_json_file_is_a_tokenizer_too(tiny_tokenizer: Any, tmp_path: Path) -> None:
    tiny_tokenizer.backend_tokenizer.save(str(tmp_path / "t.json"))
    assert load_tokenizer(tmp_path / "t.json")("the dog")["input_ids"] == tiny_tokenizer("the dog")["input_ids"]


def test_another_text_gives_another_fingerprint(tiny_tokenizer: Any) -> None:
    other = train_tokenizer(["quite another text about whales and whales"] * 3, 300)
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tiny_tokenizer)


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"type": "BPE", "vocab": {}, "merges": []}}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"data\.tokenizer_path"):
        load_tokenizer(tmp_path / "tokenizer.json")
