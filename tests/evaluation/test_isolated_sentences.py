"""Sentences that stand alone: how text is cut, and bits per byte by an independent loop."""

from __future__ import annotations

import doctest
import math
import re
from typing import Any

import pytest
import torch

from babyllama.data.documents import Document
from babyllama.evaluation import isolated_sentences as module
from babyllama.evaluation.isolated_sentences import isolated_sentences, lone_sentences


def test_the_worked_example() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("is that a bird ?\nit's a lamb .\n", ["is that a bird ?", "it's a lamb ."]),
        ("A Title\n\nIt was a meadow\nwith a pond in it. “Look!” she said.\n", None),
        ("USER:\tNice. Thanks\nSYSTEM:\tDone.", ["USER:\tNice.", "Thanks", "SYSTEM:\tDone."]),
        ("他走了。为什么？\n", ["他走了。", "为什么？"]),
        ("", []),
    ],
)
def test_text_is_cut_into_sentences(text: str, wanted: list[str] | None) -> None:
    wanted = ["A Title", "It was a meadow with a pond in it.", "“Look!”", "she said."] if wanted is None else wanted
    assert lone_sentences(text) == wanted


@pytest.mark.parametrize("text", ["你好 no mark\nHe left. 他走", 'a.b. c\n\n\n x…y  z?! "q"', "ราตรี สวัสดิ์\n\tb"])
def test_nothing_but_white_space_is_lost(text: str) -> None:
    assert "".join("".join(lone_sentences(text)).split()) == "".join(text.split())


def test_bits_per_byte_is_that_of_a_plain_loop(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    documents = [
        Document("The dog ran. It saw\na cat!\n\nShe smiled", "a"),
        Document("They talk about books. ", "b"),
    ]
    figures, items = isolated_sentences(tiny_llama, tiny_tokenizer, documents, window=32)
    nats = size = 0.0
    for sentence in ["The dog ran.", "It saw a cat!", "She smiled", "They talk about books."]:
        ids = tiny_tokenizer(sentence)["input_ids"]
        assert ids[0] == tiny_tokenizer.bos_token_id
        with torch.no_grad():
            rows = tiny_llama(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats -= sum(float(rows[place, token]) for place, token in enumerate(ids[1:]))
        size += len(sentence.encode())
    assert figures["isolated_bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    assert figures["isolated_sentences"] == 4
    assert figures["isolated_bytes"] == size == sum(item["bytes"] for item in items)
    assert set(figures["isolated_domains"]) == {"a", "b"}
    assert re.sub("isolated_", "", " ".join(figures)).startswith("bits_per_byte bits_per_byte_ci")


def test_the_interval_resamples_documents_and_not_their_sentences(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    """Equal sentences say the same again: a document of thirty is one document."""
    texts = [
        "The dog ran to the river. " * 30,
        "She looked at the cat and smiled. " * 30,
        "They talk about books. " * 30,
    ]
    documents = [Document(text, "a") for text in texts]
    found, _ = isolated_sentences(tiny_llama, tiny_tokenizer, documents, window=32)
    each = [isolated_sentences(tiny_llama, tiny_tokenizer, [document], window=32)[0] for document in documents]
    bits = [figures["isolated_bits_per_byte"] for figures in each]
    low, high = found["isolated_bits_per_byte_ci"]
    assert low == pytest.approx(min(bits), rel=1e-6), "1 in 27 resamples has one document only, more than 2.5%"
    assert high == pytest.approx(max(bits), rel=1e-6)
