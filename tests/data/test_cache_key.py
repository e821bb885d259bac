"""Tokens from the cache are those of this text, these cleaners, this code and these libraries: each is changed here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from babyllama.config.schema import DataConfig
from babyllama.data import token_store
from babyllama.data.cleaners import DomainCleaners
from babyllama.data.held_out.kept import keep_text, kept_text
from babyllama.data.prepared import PreparedData, cleaner_names
from babyllama.plugins import CLEANERS, load_plugins
from data_utils import DataProcessor
from tests.tiny_runs import write_corpus


@pytest.fixture(autouse=True)
def _forget_code() -> Iterator[None]:
    token_store.reading_code.cache_clear()
    yield
    token_store.reading_code.cache_clear()


def prepared(path: str, cleaners: DomainCleaners | None = None) -> PreparedData:
    return DataProcessor(DataConfig(train_path=path, vocab_size=300), cleaners).prepare()


def first_words(data: PreparedData) -> str:
    return data.tokenizer.decode(data.train.tokens[1:200])


@pytest.mark.parametrize("form", ["files", "hub's form"])
def test_other_text_of_the_same_size_gives_other_tokens(tmp_path: Path, form: str) -> None:
    corpus = write_corpus(tmp_path / "corpus", range(60))
    path = str(corpus) if form == "files" else f"hf:{corpus}"
    if form != "files":
        (corpus / "a.txt").rename(corpus / "train.txt")
        shutil.copy(corpus / "train.txt", corpus / "validation.txt")
    assert not prepared(path).from_cache
    assert prepared(path).from_cache
    file = corpus / ("a.txt" if form == "files" else "train.txt")
    stamp = file.stat()
    file.write_text(file.read_text(encoding="utf-8").replace("dog", "cow"), encoding="utf-8")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as rsync -t and touch -r do
    again = prepared(path)
    assert not again.from_cache
    assert "dog" not in first_words(again)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("holdout", 0.2),
        ("holdout_by", "file"),
        ("test", 0.1),
        ("clean", False),
        ("speaker_labels", "remove"),
        ("encoding_errors", "replace"),
        ("max_words", 50),
        ("text_key", "story"),
    ],
)
def test_each_key_that_changes_the_text_is_in_its_fingerprint(tmp_path: Path, key: str, value: object) -> None:
    path = str(write_corpus(tmp_path / "corpus", range(60)))
    found = {DataProcessor(DataConfig(train_path=path, **keys)).split_fingerprint() for keys in ({}, {key: value})}
    assert len(found) == 2


PLUGIN = """
from babyllama.plugins import register_cleaner
from babyllama.data.cleaners import DomainCleaners


def cleaned(text):
    return text.replace("dog", "WORD")


class Mine(DomainCleaners):
    def default(self, text):
        return cleaned(text)


register_cleaner("a", cleaned)
"""


def imported(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_an_edited_cleaner_gives_other_tokens(tmp_path: Path) -> None:
    """A subclass of ours and a plugin's function of the same name: what counts is the source."""
    corpus = write_corpus(tmp_path / "corpus", range(60), "b.txt")
    for number, word in enumerate(("HOUND", "POODLE")):
        file = tmp_path / f"mine_{word}.py"
        file.write_text(PLUGIN.replace("WORD", word), encoding="utf-8")
        module = imported(file, f"mine_{number}")
        CLEANERS.pop("a")
        data = prepared(str(corpus), module.Mine())
        assert not data.from_cache
        assert word in first_words(data)
    corpus = write_corpus(tmp_path / "of_plugin", range(60), "a.txt")
    try:
        for word in ("HOUND", "POODLE"):
            load_plugins([tmp_path / f"mine_{word}.py"])
            data = prepared(str(corpus))
            assert not data.from_cache
            assert word in first_words(data)
    finally:
        CLEANERS.pop("a", None)


def test_our_own_cleaners_are_named_and_not_hashed() -> None:
    """Their version and the code's own hash stand for them: a run's identity outlives a comment in that file."""
    names = cleaner_names({"qed": DomainCleaners().qed})
    assert names == ["qed:DomainCleaners.qed"]


def test_edited_code_and_other_libraries_are_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = str(write_corpus(tmp_path / "corpus", range(60)))
    identity = prepared(corpus).fingerprint
    package = tmp_path / "copy" / "babyllama"
    shutil.copytree(Path(token_store.__file__).parent, package / "data", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(token_store.__file__).parents[2] / "data_utils.py", tmp_path / "copy")
    before = token_store.reading_code()
    monkeypatch.setattr(token_store, "__file__", str(package / "data" / "token_store.py"))
    token_store.reading_code.cache_clear()
    assert token_store.reading_code() == before, "the same sources elsewhere"
    for name in ("documents.py", "formats/folders.py", "fast_encoding.py", "../../data_utils.py"):
        file = package / "data" / name
        file.write_text(file.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
        token_store.reading_code.cache_clear()
        now = token_store.reading_code()
        assert now != before, name
        before = now
    data = prepared(corpus)
    assert not data.from_cache
    assert data.fingerprint == identity, "what the run is does not change with the code"
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == "tokenizers" else real(name))
    token_store.reading_code.cache_clear()
    assert token_store.reading_code() != before
    assert not prepared(corpus).from_cache


def test_a_mark_inside_a_line_is_told_with_its_count(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "".join(f"Story {n} is here. <|endoftext|> And on.\n\n" for n in range(40)), encoding="utf-8"
    )
    for _ in range(2):  # from the cache as well
        told = [note for note in prepared(str(tmp_path)).notes if "inside a line" in note]
        assert [note.split(" stands")[0] for note in told] == ["40 times <|endoftext|>"]
    lines = "".join(f"Story {n} is here.\n<|endoftext|>\n" for n in range(40))
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    assert not [note for note in prepared(str(tmp_path)).notes if "inside a line" in note]


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="file names there are Unicode")
def test_a_file_name_that_is_no_utf8(tmp_path: Path) -> None:
    """An old archive's name: read, hashed, cached and named as its domain."""
    text = write_corpus(tmp_path, range(40)) / "a.txt"
    os.rename(text, os.fsencode(tmp_path) + b"/caf\xe9.txt")
    assert not prepared(str(tmp_path)).from_cache
    again = prepared(str(tmp_path))
    assert again.from_cache
    assert len(again.train.domains) == 1
    again.train.domains[0].encode("utf-8")
    keep_text(tmp_path, again)
    kept = kept_text(tmp_path)
    assert kept.documents == again.held_out_documents
