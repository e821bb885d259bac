"""The data path as a whole: cache, holdout, tokenizer paths, chunks as a datasets.DatasetDict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import data_utils
from babyllama.common.errors import ConfigError
from babyllama.config.schema import DataConfig
from data_utils import DataProcessor
from tests.runs import corpus


def _config(text: Path, tmp_path: Path, **changes: object) -> DataConfig:
    made = {"train_path": str(text), "vocab_size": 400, "seq_length": 16, "cache_dir": str(tmp_path / "cache")}
    return DataConfig(**{**made, **changes})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return corpus(tmp_path / "text", 400)


def test_the_second_time_comes_from_the_cache(text: Path, tmp_path: Path) -> None:
    first = DataProcessor(_config(text, tmp_path)).prepare()
    second = DataProcessor(_config(text, tmp_path)).prepare()
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.train.tokens, second.train.tokens)
    assert first.train_words == int(first.train.words.sum()) > 1000
    assert first.rules == {"small": "lines"}


def test_one_byte_or_the_cleaners_or_the_split_changes_the_key(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [DataProcessor(_config(text, tmp_path)).prepare().fingerprint]
    keys.append(DataProcessor(_config(text, tmp_path, clean=False)).prepare().fingerprint)
    keys.append(DataProcessor(_config(text, tmp_path, max_words=500)).prepare().fingerprint)
    keys.append(DataProcessor(_config(text, tmp_path, vocab_size=300)).prepare().fingerprint)
    monkeypatch.setattr(data_utils, "CLEANER_VERSION", 99)
    keys.append(DataProcessor(_config(text, tmp_path)).prepare().fingerprint)
    monkeypatch.undo()
    file = text / "small.train"
    file.write_bytes(b"t" + file.read_bytes()[1:])
    keys.append(DataProcessor(_config(text, tmp_path)).prepare().fingerprint)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["train.tokens", "valid.npz", "store.json"])
def test_a_damaged_cache_is_built_anew(text: Path, tmp_path: Path, name: str) -> None:
    first = DataProcessor(_config(text, tmp_path)).prepare()
    tokens = np.array(first.train.tokens)
    path = first.cache_dir / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if name != "store.json" else content[:10])
    again = DataProcessor(_config(text, tmp_path)).prepare()
    assert not again.from_cache
    assert any("damaged" in note for note in again.notes)
    np.testing.assert_array_equal(again.train.tokens, tokens)


def test_the_stored_tokens_are_the_documents(text: Path, tmp_path: Path) -> None:
    processor = DataProcessor(_config(text, tmp_path))
    data = processor.prepare()
    for split, documents in (
        (data.train, list(processor.train_documents())),
        (data.valid, processor.held_out_documents()),
    ):
        assert len(documents) == len(split.starts) - 1
        for number, document in enumerate(documents):
            ids = split.tokens[split.starts[number] : split.starts[number + 1]].tolist()
            assert (ids[0], ids[-1]) == (1, 2)
            assert data.tokenizer.decode(ids[1:-1]) == document.text
            assert split.bytes[number] == len(document.text.encode())


def test_without_dev_files_documents_are_held_out_and_never_trained_on(text: Path, tmp_path: Path) -> None:
    (text / "small.dev").unlink()
    (text / "small.train").write_text(
        "\n".join(f"the dog ran to house {n}" for n in range(400)) + "\n", encoding="utf-8"
    )
    processor = DataProcessor(_config(text, tmp_path, holdout=0.2))
    held = {document.text for document in processor.held_out_documents()}
    trained = {document.text for document in processor.train_documents()}
    assert held
    assert trained
    assert not held & trained
    assert len(processor.prepare().valid.starts) - 1 == len(held)


def test_one_document_is_parted_at_a_line(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(
        "\n".join(f"the dog ran to house {n}" for n in range(20)) + "\n<|endoftext|>\n", encoding="utf-8"
    )
    processor = DataProcessor(_config(tmp_path / "one.txt", tmp_path, holdout=0.1))
    (trained,), (held,) = processor.train_documents(), processor.held_out_documents()
    assert (trained.text + "\n" + held.text).count("\n") == 19


@pytest.mark.parametrize("name", ["tok", "tok.json"])
def test_a_tokenizer_output_is_written_once_and_then_read(text: Path, tmp_path: Path, name: str) -> None:
    config = _config(text, tmp_path, tokenizer_output=str(tmp_path / name))
    made = DataProcessor(config).prepare()
    assert (tmp_path / name).exists()
    again = DataProcessor(_config(text, tmp_path, tokenizer_output=str(tmp_path / name))).prepare()
    assert again.fingerprint == made.fingerprint
    other = corpus(tmp_path / "other", 100)
    foreign = DataProcessor(_config(other, tmp_path, tokenizer_output=str(tmp_path / name))).prepare()
    assert any("was trained on other text" in note for note in foreign.notes)


def test_a_tokenizer_that_is_not_there_is_an_error(text: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"did you mean .*mine\? To train one .*data.tokenizer_output"):
        DataProcessor(_config(text, tmp_path, tokenizer_path=str(tmp_path / "mien"))).prepare()
    assert not (tmp_path / "mien").exists()


def test_a_small_corpus_lowers_the_vocabulary_with_a_line(text: Path, tmp_path: Path) -> None:
    data = DataProcessor(_config(text, tmp_path, vocab_size=16_000)).prepare()
    assert len(data.tokenizer) < 1000
    assert any(note.startswith("vocabulary:") for note in data.notes)


def test_chunks_as_a_dataset_dict(text: Path, tmp_path: Path) -> None:
    processor = DataProcessor(_config(text, tmp_path))
    chunks, data = processor.prepare_dataset(), processor.prepare()
    assert set(chunks) == {"train", "validation"}
    labels = np.array(chunks["train"]["labels"])
    assert labels.shape == (-(-len(data.train.tokens) // 16), 16)
    np.testing.assert_array_equal(labels[labels != -100], data.train.tokens)
    own = processor.tokenize_and_chunk(["the dog", "a cat"], data.tokenizer)
    assert own[0]["input_ids"][0] == 1
    assert len(own[0]["input_ids"]) == 16


def test_speaker_labels_can_be_removed(tmp_path: Path) -> None:
    processor = DataProcessor(DataConfig(speaker_labels="remove"))
    assert processor.clean_text("A:\thi\nB:\tho", "switchboard") == "hi\nho"
    assert processor.clean_text("A:\thi", "wikipedia") == "A:\thi"


def test_the_embedded_corpus_knows_its_entropy(tmp_path: Path) -> None:
    from babyllama.data import synthetic
    from babyllama.data.synthetic import generator

    config = DataConfig(synthetic_words=2000, vocab_size=500, cache_dir=str(tmp_path), seq_length=16)
    data = DataProcessor(config).prepare()
    assert data.source_nats == pytest.approx(sum(d.nats for d in synthetic.held_out(0)))
    assert len(data.valid.starts) - 1 == generator.HELD_OUT_DOCUMENTS


def test_a_cache_that_cannot_be_written_is_one_line(text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    config = _config(text, tmp_path, cache_dir=str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match=r"data\.cache_dir"):
        DataProcessor(config).prepare()


@pytest.mark.integration
def test_real_text_of_seven_domains(test_data: Path, tmp_path: Path) -> None:
    processor = DataProcessor(_config(test_data / "corpora/babylm_like", tmp_path))
    rules = {document.domain: None for document in processor.held_out_documents()}
    assert len(rules) == 7
    assert processor.rules["wikipedia"] == "titles"
    assert processor.rules["childes"] == "lines"
    assert processor.rules["switchboard"] == "blank"
