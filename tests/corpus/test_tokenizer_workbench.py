"""Figures of tokenizers against a count by hand, three tokenizers and three languages; choosing a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babyllama.common.errors import BabyLlamaError
from babyllama.corpus.tokenizer_figures import boundaries, cut_sentence, inspect, model_share
from babyllama.data.documents import Document
from babyllama.data.tokenizer import (
    choose_vocab_size,
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    shortened,
    token_bytes,
    tokenizer_fingerprint,
    train_tokenizer,
)
from main import main

TEXTS = {
    "en": "The little dog ran to the old house near the river. Where did the little dog go? To the old house.",
    "tr": "Çocuk eve gitti. Şimdi ağlıyor mu? Çocuk evde ağlıyor, köpek eve gitti.",
    "th": "เด็กไปโรงเรียน แม่อยู่บ้าน เด็กอยู่ที่โรงเรียน",
}


def _count(tokenizer: Any, text: str, words: int) -> dict[str, float]:
    """The figures by another road: tokens decoded one by one, bytes by their own UTF-8, no table."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    single = sum(
        1
        for piece in pieces
        if piece.startswith("<0x") or (len(piece) == 1 and (piece.isascii() or ord(piece) < 0x180))
    )
    plain = [t for t in tokenizer.get_vocab() if t not in tokenizer.all_special_tokens]
    return {
        "fertility": len(ids) / words,
        "bytes_per_token": len(text.encode()) / len(ids),
        "used_share": len(set(ids)) / len(plain),
        "single_byte_share": single / len(ids),
    }


def _tokenizers(test_data: Path | None) -> dict[str, Any]:
    found = {
        "bytes": train_tokenizer(TEXTS.values(), 259),
        "bpe": train_tokenizer([text for text in TEXTS.values() for _ in range(3)], 400),
    }
    if test_data is not None:
        found["sentencepiece"] = load_tokenizer(test_data / "checkpoints/stories260K-hf")
    return found


@pytest.mark.parametrize(("language", "words"), [("en", 21), ("tr", 12), ("th", 32)])
def test_figures_are_those_of_a_count_by_hand(language: str, words: int) -> None:
    for tokenizer in _tokenizers(None).values():
        found = inspect(tokenizer, [Document(TEXTS[language], language)])["domains"][language]
        assert found["words"] == words
        for key, value in _count(tokenizer, TEXTS[language], words).items():
            assert found[key] == pytest.approx(value), key


@pytest.mark.integration
def test_a_sentencepiece_tokenizer_is_counted_too(test_data: Path) -> None:
    tokenizer = _tokenizers(test_data)["sentencepiece"]
    found = inspect(tokenizer, [Document(TEXTS["en"], "en"), Document(TEXTS["th"], "th")])
    expected = _count(tokenizer, TEXTS["en"], 21)
    assert found["domains"]["en"]["fertility"] == pytest.approx(expected["fertility"])
    assert found["domains"]["th"]["single_byte_share"] > 0.9  # it has no Thai letters
    assert found["total"]["tokens"] == sum(row["tokens"] for row in found["domains"].values())


def test_bytes_of_tokens_joined_are_the_text() -> None:
    for tokenizer in _tokenizers(None).values():
        bytes_of = token_bytes(tokenizer)
        for text in TEXTS.values():
            ids = encode_documents(tokenizer, [text])[0]
            assert b"".join(bytes_of[number] for number in ids).decode() == text


def test_cuts_are_compared_with_morphemes() -> None:
    tokenizer = train_tokenizer(["walk walk ed ed ing ing talk talk"] * 3, 300)
    words = [["walk", "ed"], ["talk", "ing"], ["walk"]]
    cut = [[piece.text for piece in cut_sentence(tokenizer, " " + "".join(parts))] for parts in words]
    found = boundaries(tokenizer, words)
    expected_cuts = sum(len(pieces) - 1 for pieces in cut)
    assert found.words == 3
    assert found.cuts == expected_cuts
    assert found.expected == 2
    assert found.whole == sum(len(pieces) == 1 for pieces in cut) >= 1
    assert found.figures()["recall"] == found.right / 2


def test_words_that_are_not_cut_have_no_precision() -> None:
    figures = boundaries(train_tokenizer([TEXTS["en"]] * 3, 400), [["the"], ["dog"], ["zebra"]]).figures()
    assert figures["one_token"] == pytest.approx(2 / 3)
    assert figures["precision"] is figures["recall"] is figures["f1"] is None


@pytest.mark.parametrize(("kind", "tied"), [("Llama", False), ("GPT2", True)])
def test_the_share_of_the_model_is_its_embedding_and_head(kind: str, tied: bool) -> None:
    from babyllama.config.schema import Config

    config = Config(model={"type": kind, "hidden_size": 64, "n_layer": 2, "n_head": 2})
    found = model_share(config, 1_000)
    assert found["vocabulary_parameters"] == 1_000 * 64 * (1 if tied else 2)
    assert found["vocabulary_share"] == found["vocabulary_parameters"] / found["parameters"]


def test_a_shortened_tokenizer_is_the_one_that_a_smaller_training_gives() -> None:
    texts = list(TEXTS.values()) * 5
    large, small = train_tokenizer(texts, 420), train_tokenizer(texts, 330)
    assert tokenizer_fingerprint(shortened(large, 330)) == tokenizer_fingerprint(small)


def test_auto_doubles_as_long_as_the_text_gets_shorter() -> None:
    from babyllama.data.synthetic import generate_documents

    texts = [document.text for document in generate_documents(60_000, 1)]
    largest = train_tokenizer(texts, 8_000)
    size, why = choose_vocab_size(largest, texts)
    lengths = {n: sum(map(len, encode_documents(shortened(largest, n), texts))) for n in (1_000, 2_000, 4_000, 8_000)}
    gains = {n: 1 - lengths[2 * n] / lengths[n] for n in (1_000, 2_000, 4_000)}
    expected = next((n for n, gain in gains.items() if gain < 0.05), 8_000)
    assert size == expected
    assert f"vocab_size auto: {size:,}: " in why
    assert choose_vocab_size(shortened(largest, 300), texts)[0] == 300


def test_train_streams_and_auto_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(f"{TEXTS['en']} Story {n}.\n<|endoftext|>\n" for n in range(400))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    argv = ["--train-path", str(tmp_path / "a.txt"), "--output", str(tmp_path / "t"), "--vocab-size"]
    assert main(["tokenizer", *argv, "300"]) == 0  # as older scripts write it
    assert len(load_tokenizer(tmp_path / "t")) == 300
    assert main(["tokenizer", "train", *argv, "auto"]) == 0
    told = capsys.readouterr().out
    assert "vocab_size auto: " in told
    assert "380 documents" in told  # a twentieth is what a run would hold out


def test_a_run_with_auto_is_recorded_with_the_size_and_the_reason(tmp_path: Path) -> None:
    from babyllama.config.schema import DataConfig
    from data_utils import DataProcessor

    prepared = DataProcessor(DataConfig(synthetic_words=30_000, vocab_size="auto")).prepare()
    assert len(prepared.tokenizer) in {1_000, 2_000, 3_600, 3_750, 4_000}
    assert any(note.startswith("vocab_size auto: ") for note in prepared.notes)


def test_compare_writes_a_table_a_page_and_a_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, tokenizer in _tokenizers(None).items():
        save_tokenizer(tokenizer, tmp_path / name)
    for language in ("en", "th"):
        (tmp_path / f"{language}.txt").write_text(TEXTS[language] + "\n", encoding="utf-8")
    (tmp_path / "w.txt").write_text("houses\thouse s\ndog\n", encoding="utf-8")
    argv = ["tokenizer", "compare", str(tmp_path / "bytes"), str(tmp_path / "bpe"), "--output", str(tmp_path / "o")]
    texts = ["--text", str(tmp_path / "en.txt"), str(tmp_path / "th.txt"), "--words", str(tmp_path / "w.txt")]
    config = ["--config", "config/llama-10M.yaml"]
    assert main([*argv, *texts, *config]) == 0
    assert "tokens a word" in capsys.readouterr().out
    report = json.loads((tmp_path / "o" / "tokenizers.json").read_text(encoding="utf-8"))
    assert list(report["tokenizers"]) == ["bytes", "bpe"]
    assert report["tokenizers"]["bpe"]["boundaries"]["words"] == 2
    assert 0 < report["tokenizers"]["bytes"]["model"]["vocabulary_share"] < 1
    for row in report["tokenizers"].values():
        for sentence, pieces in zip(report["sentences"], row["sentences"], strict=True):
            joined = b"".join(p["text"].encode() or bytes.fromhex(p["bytes"]) for p in pieces)
            assert joined.decode() == sentence
    page = (tmp_path / "o" / "tokenizers.html").read_text(encoding="utf-8")
    assert 'dir="auto"' in page
    assert "โรงเรียน" in page


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["inspect", "no_such"], "no_such is not a tokenizer"),
        (["inspect", "T", "--words", "no_such"], "--words: no_such: no such file"),
        (["inspect", "T", "--words", "W"], r"line 1: ho use is not houses".replace("ho use", r"ho \+ use")),
        (["compare", "T", "T"], "a tokenizer is named twice"),
        (["inspect", "T", "--text", "no_such.txt"], "--text: no_such.txt: no such file"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, argv: list[str], told: str) -> None:
    save_tokenizer(train_tokenizer(["a a"], 260), tmp_path / "t")
    (tmp_path / "w.txt").write_text("houses\tho use\n", encoding="utf-8")
    places = {"T": str(tmp_path / "t"), "W": str(tmp_path / "w.txt")}
    with pytest.raises(BabyLlamaError, match=told):
        main(["tokenizer", *[places.get(word, word) for word in argv], "--output", str(tmp_path / "o")])
