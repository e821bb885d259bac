"""A score from the cache is of these weights, tokenizer, code, plugins and libraries: each is changed here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from babyllama.evaluation import score_cache
from babyllama.evaluation.score_cache import ScoreCache, checkpoint_content, scoring_version
from babyllama.plugins import load_plugins

PACKAGE = Path(score_cache.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _forget_code() -> Iterator[None]:
    score_cache._source_and_libraries.cache_clear()
    yield
    score_cache._source_and_libraries.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("added_tokens.json", "spiece.model", "vocab.json", "merges.txt", "model.safetensors.index.json"),
    ],
)
def test_each_file_that_decides_an_answer_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = checkpoint_content(tmp_path)
    (tmp_path / "report.html").write_text("no part of it", encoding="utf-8")
    assert checkpoint_content(tmp_path) == before
    (tmp_path / name).write_bytes(b"2")
    assert checkpoint_content(tmp_path) != before


def test_edited_code_other_libraries_and_plugins_score_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ScoreCache(folder=tmp_path / "scores")

    def is_kept() -> bool:
        score_cache._source_and_libraries.cache_clear()
        kept = cache.get("weights", "task", {"window": 32}) == {"figure": 1}
        cache.put("weights", "task", {"window": 32}, {"figure": 1})
        return kept

    # The same sources in another place are the same key.
    copy = tmp_path / "copy" / "babyllama"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for root in ("evaluate.py", "benchmark.py", "data_utils.py"):
        shutil.copy(PACKAGE.parent / root, tmp_path / "copy")
    is_kept()
    monkeypatch.setattr(score_cache, "__file__", str(copy / "evaluation" / "score_cache.py"))
    assert is_kept()
    # Each edit is another one: how text is encoded and parted, how a folder below a room computes, the root files.
    for name in ("data/tokenizer.py", "data/documents.py", "data/formats/pairs.py", "models/decoding/decoder.py"):
        with (copy / name).open("a", encoding="utf-8") as handle:
            handle.write("\n# edited\n")
        assert not is_kept(), name
        assert is_kept()
    with (tmp_path / "copy" / "evaluate.py").open("a", encoding="utf-8") as handle:
        handle.write("\n# edited\n")
    assert not is_kept()
    # A library's version, and a plugin's source.
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == "torch" else real(name))
    assert not is_kept()
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mine.py").write_text(f"VALUE = {number}  # {tmp_path}\n", encoding="utf-8")
        load_plugins([folder / "mine.py"])
        assert not is_kept()
    # The options, text and device among them.
    assert cache.get("weights", "task", {"window": 64}) is None
    assert cache.get("other", "task", {"window": 32}) is None


def test_what_babylm_keeps_is_of_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from babyllama.babylm.score import scoring_code

    scoring_code.cache_clear()
    before = scoring_code()
    monkeypatch.setattr(score_cache, "_source_and_libraries", lambda: "other libraries")
    scoring_code.cache_clear()
    assert scoring_code() != before
    monkeypatch.undo()
    scoring_code.cache_clear()
    assert scoring_version() == scoring_version()
