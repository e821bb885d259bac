"""However many processes, however often killed: the same documents and the same tokens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.config.schema import DataConfig
from babyllama.data import corpus, sources, splits, text_shards, token_build
from babyllama.data.corpus import unfinished
from babyllama.data.documents import Document
from babyllama.data.splits import held_out_places, hold_out
from data_utils import DataProcessor
from tests.runs import corpus as small_corpus

ROOT = Path(__file__).resolve().parents[2]
FILES = ("train.tokens", "train.npz", "valid.tokens", "valid.npz", "store.json")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (text_shards, corpus):
        monkeypatch.setattr(module, "SHARD_CHARACTERS", 2_000)


def _text(folder: Path) -> Path:
    """Two domains and records, 40 documents and more, some that cleaning leaves empty."""
    small_corpus(folder, 1200)
    (folder / "small.dev").unlink()
    (folder / "wikipedia.train").write_text(
        "".join(f"= = = T{n} = = =\n\nA & B é {n} .\n\n" for n in range(60)), encoding="utf-8"
    )
    (folder / "qed.train").write_text(
        "".join(f"{'[Music]' if n % 3 else f'So {n}'}\n\n\n" * 50 for n in range(20)), encoding="utf-8"
    )
    (folder / "z.jsonl.train").write_text("plain\n", encoding="utf-8")
    return folder


def _config(text: Path, cache: Path, **changes: object) -> DataConfig:
    return DataConfig(train_path=str(text), vocab_size=400, cache_dir=str(cache), **changes)


def _same(first: Path, second: Path) -> None:
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("changes", [{}, {"holdout": 0.3}, {"max_words": 900}, {"speaker_labels": "remove"}])
@pytest.mark.parametrize("own_eval", [True, False])
def test_one_process_and_two_give_the_same_bytes(tmp_path: Path, changes: dict[str, Any], own_eval: bool) -> None:
    text = _text(tmp_path / "text")
    eval_path = {"eval_path": str(small_corpus(tmp_path / "dev", 100))} if own_eval else {}
    made = []
    for processes in (1, 2):
        config = _config(text, tmp_path / f"cache{processes}", num_proc=processes, **changes, **eval_path)
        made.append(DataProcessor(config).prepare())
    _same(made[0].cache_dir, made[1].cache_dir)
    assert made[0].rules == made[1].rules
    assert list((tmp_path / "cache2/unfinished").iterdir()) == []


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("changes", [{}, {"holdout": 0.3}, {"max_words": 900}])
def test_shards_hold_what_reading_one_by_one_gives(tmp_path: Path, changes: dict[str, Any]) -> None:
    processor = DataProcessor(_config(_text(tmp_path / "text"), tmp_path / "cache", **changes))
    held, trained = processor.held_out_documents(), list(processor.train_documents())
    data = processor.prepare()
    for split, documents in ((data.train, trained), (data.valid, held)):
        texts = [data.tokenizer.decode(split.tokens[a + 1 : b - 1]) for a, b in pairwise(split.starts)]
        assert texts == [document.text for document in documents]
        assert [split.domains[i] for i in split.domain_ids] == [document.domain for document in documents]
        assert split.words.tolist() == [len(document.text.split()) for document in documents]
        assert split.bytes.tolist() == [len(document.text.encode()) for document in documents]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.49])
def test_places_are_those_that_streaming_holds_out(share: float) -> None:
    for count in (0, 2, 3, 19, 20, 21, 100):
        documents = [Document(f"{n}", "d") for n in range(count)]
        assert held_out_places(count, share).tolist() == [held for _, held in hold_out(documents, share)]


def test_the_held_out_documents_are_kept_and_the_text_is_not_read_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(_text(tmp_path / "text"), tmp_path / "cache")
    read = DataProcessor(config).held_out_documents()
    DataProcessor(config).prepare()
    monkeypatch.setattr(sources, "read_documents", lambda *_: pytest.fail("the text was read"))
    again = DataProcessor(config)
    assert again.held_out_documents() == read
    assert again.rules["wikipedia"] == "titles"


def test_a_large_text_holds_out_a_bounded_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _text(tmp_path / "text")
    monkeypatch.setattr(splits, "HELD_OUT_BYTES", 1_500)
    processor = DataProcessor(_config(text, tmp_path / "cache", holdout=0.3))
    data = processor.prepare()
    assert 0 < data.valid.bytes.sum() < 3_500
    assert [d.text for d in processor.held_out_documents()] == [
        data.tokenizer.decode(data.valid.tokens[a + 1 : b - 1]) for a, b in pairwise(data.valid.starts)
    ]


@pytest.mark.usefixtures("small_shards")
def test_a_large_text_trains_its_tokenizer_on_an_even_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "SAMPLE_BYTES", 12_000)
    text = _text(tmp_path / "text")
    (tmp_path / "cache").mkdir()
    processor = DataProcessor(_config(text, tmp_path / "cache"))
    made = processor._corpus_text(tmp_path / "cache", processor.split_fingerprint())
    every = corpus.sample_step(made.train.total("bytes", text_shards.TRAIN))
    sampled = list(made.training_texts(every, lambda count: None))
    assert every > 1
    assert sampled == [document.text for document in processor.train_documents()][::every]
    assert any(note.startswith(f"tokenizer: trained on one of {every} doc") for note in processor.prepare().notes)


def test_a_data_set_is_streamed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool is what tokenizer, tokens and held-out documents are made of (the loading is the real one)."""
    (tmp_path / "set").mkdir()
    rows = [json.dumps({"text": f"the dog number {n} ran to the old house"}) for n in range(300)]
    (tmp_path / "set/train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    streams = []
    real = sources.hub_documents
    monkeypatch.setattr(sources, "hub_documents", lambda *args: streams.append(args) or real(*args))
    processor = DataProcessor(_config(Path(f"hf:{tmp_path}/set"), tmp_path / "cache"))
    data = processor.prepare()
    assert len(data.train.starts) + len(data.valid.starts) - 2 == 300
    assert len(processor.held_out_documents()) == len(data.valid.starts) - 1
    assert len(streams) == 1


CHILD = """
import sys, time
from babyllama.data import corpus, fast_encoding, text_shards, token_build
from babyllama.config.schema import DataConfig
from data_utils import DataProcessor
text_shards.SHARD_CHARACTERS = corpus.SHARD_CHARACTERS = 2_000
slow = {"clean": (DataProcessor, "clean_text"), "tokenize": (fast_encoding.DocumentEncoder, "encode")}[sys.argv[3]]
real = getattr(*slow)
def slowed(*args):
    time.sleep(0.3 if sys.argv[3] == "tokenize" else 0.02)
    return real(*args)
setattr(*slow, slowed)
DataProcessor(DataConfig(train_path=sys.argv[1], vocab_size=400, cache_dir=sys.argv[2], num_proc=2)).prepare()
"""


def _killed_in_the_middle(text: Path, cache: Path, where: str, pattern: str) -> list[Path]:
    """Kill a preparation once three parts are finished; those parts."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(text), str(cache), where], cwd=ROOT)
    until = time.monotonic() + 60
    while len(found := sorted(cache.glob(f"unfinished/*/{pattern}"))) < 3:
        assert time.monotonic() < until
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(1.5)  # until its workers have followed it
    assert not list(cache.glob("tokens/[!.]*"))
    return sorted(cache.glob(f"unfinished/*/{pattern}")) or found


@pytest.mark.integration
@pytest.mark.usefixtures("small_shards")
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.parametrize(
    ("where", "pattern", "module"),
    [("clean", "text/train/[!.]*.npz", text_shards), ("tokenize", "pieces/*/[!.]*.npz", token_build)],
)
def test_after_a_kill_finished_parts_are_used_and_a_half_written_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, pattern: str, module: Any
) -> None:
    text = _text(tmp_path / "text")
    undisturbed = DataProcessor(_config(text, tmp_path / "whole", num_proc=1)).prepare()
    finished = _killed_in_the_middle(text, tmp_path / "cache", where, pattern)
    damaged = next(finished[1].parent.glob(finished[1].stem + ".[it]*"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    sealed = []
    real = module.write_facts
    monkeypatch.setattr(module, "write_facts", lambda path, *rest: sealed.append(path) or real(path, *rest))
    processor = DataProcessor(_config(text, tmp_path / "cache", num_proc=1))
    folder = unfinished(tmp_path / "cache", processor.split_fingerprint())
    assert finished[0].is_relative_to(folder)
    resumed = processor.prepare()
    _same(undisturbed.cache_dir, resumed.cache_dir)
    assert not (set(finished) - {finished[1]}) & set(sealed)
    assert finished[1] in sealed
    assert not folder.exists()


def test_a_text_that_cannot_be_used_leaves_nothing_unfinished(tmp_path: Path) -> None:
    text = _text(tmp_path / "text")
    (text / "zz.train").write_bytes(b"fine\n\xff\n")
    with pytest.raises(sources.DataError, match=r"zz\.train: line 2"):
        DataProcessor(_config(text, tmp_path / "cache")).prepare()
    assert not list((tmp_path / "cache").glob("unfinished/*"))
    assert not list((tmp_path / "cache").glob("tokens/*"))


def test_a_start_does_not_read_tokens_that_did_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from babyllama.common import file_hashes, files

    config = _config(_text(tmp_path / "text"), tmp_path / "cache")
    first = DataProcessor(config).prepare()
    monkeypatch.setattr(file_hashes, "RACY_SECONDS", 0.0)
    assert DataProcessor(config).prepare().from_cache
    monkeypatch.setitem(files.DIGESTS, "crc32", lambda path: pytest.fail(f"{path} was read"))
    again = DataProcessor(config).prepare()
    assert again.from_cache
    np.testing.assert_array_equal(again.train.tokens, first.train.tokens)
