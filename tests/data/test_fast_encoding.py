"""Looking words up gives what the tokenizers library gives, on whatever text."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from babyllama.data import fast_encoding
from babyllama.data.fast_encoding import PIECES, DocumentEncoder, cuts_like_gpt2
from babyllama.data.tokenizer import encode_documents, train_tokenizer, wrap

TRICKY = (
    "abcstrevmldABST''''''   \n\t\r\x0b\x0c0123.,!?-_\"()"
    "\x00\x1c\x1d\x1f\x7f\x85\xa0\u1680\u180e\u2003\u2028\u3000\u200b\ufeff"
    "\u2018\u2019\u201c\u201d\u2013\u2014\u2026éëß½²٣日ªºⅣǅ\u0301\U0001f600"
)


def _ids(encoder: DocumentEncoder, texts: list[str]) -> list[list[int]]:
    return [np.frombuffer(stored, dtype=encoder.dtype).tolist() for stored in encoder.encode(texts)]


def _random_texts(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    anything = [*range(0xD800), *range(0xE000, 0x20000)]

    def character() -> str:
        return generator.choice(TRICKY) if generator.random() < 0.97 else chr(generator.choice(anything))

    return ["".join(character() for _ in range(generator.randint(0, 30))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_the_ids_are_the_librarys(tiny_tokenizer: Any, seed: int) -> None:
    texts = _random_texts(5_000, seed)
    encoder = DocumentEncoder(tiny_tokenizer)
    assert encoder.by_pieces
    assert _ids(encoder, texts) == [[1, *ids, 2] for ids in encode_documents(tiny_tokenizer, texts)]
    assert all("".join(PIECES.findall(text)) == text for text in texts)


def test_the_example_of_the_module() -> None:
    assert PIECES.findall('I can\'t see "Zoë" .') == ["I", " can", "'t", " see", ' "', 'Zoë"', " ."]


def test_a_full_table_starts_anew_and_gives_the_same(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_encoding, "KNOWN_BYTES", 1_000)
    encoder = DocumentEncoder(tiny_tokenizer)
    for number in range(20):
        texts = [f"word{number} and {n} more" for n in range(20)]
        assert _ids(encoder, texts) == [[1, *ids, 2] for ids in encode_documents(tiny_tokenizer, texts)]
        assert len(encoder._known) < 60


def _other_tokenizers() -> dict[str, Any]:
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    made = {name: train_tokenizer(["the dog ran to the house"] * 9, 300) for name in ("lower", "space", "added")}
    made["lower"].backend_tokenizer.normalizer = normalizers.Lowercase()
    made["space"].backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made["added"].backend_tokenizer.add_tokens([AddedToken("dog ran")])
    return made


@pytest.mark.parametrize("name", ["lower", "space", "added"])
def test_a_tokenizer_with_other_rules_goes_through_the_library(name: str) -> None:
    tokenizer = _other_tokenizers()[name]
    assert not cuts_like_gpt2(tokenizer)
    texts = ["The dog ran to THE house", ""]
    expected = [[1, *ids, 2] for ids in encode_documents(tokenizer, texts)]
    assert _ids(DocumentEncoder(tokenizer), texts) == expected


def test_a_tokenizer_without_a_line_feed_of_its_own(tiny_tokenizer: Any) -> None:
    """Where two ids spell a line feed, pieces cannot be parted by it and are tokenized one by one."""
    from tokenizers import Tokenizer

    encoder = DocumentEncoder(wrap(Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())))
    encoder.line_feed = None
    texts = _random_texts(200, 9)
    assert _ids(encoder, texts) == [[1, *ids, 2] for ids in encode_documents(tiny_tokenizer, texts)]
