"""Transcripts spelled as written English (`data.spelling: sentence`)."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from babyllama.config.schema import DataConfig
from babyllama.data import cleaners
from babyllama.data.cleaners import spell_sentences
from data_utils import DataProcessor


def test_the_worked_examples() -> None:
    assert doctest.testmod(cleaners).failed == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("what's a pig say ?\nmoo .", "What's a pig say?\nMoo."),
        ("i don't know , do i ?", "I don't know, do I?"),
        ("no . i'll go . i.e. that", "No. I'll go. I.e. that"),
        ("3.5 is more than .5 !", "3.5 is more than .5!"),
        ("Big_Bird likes it .", "Big_Bird likes it."),
        ("", ""),
    ],
)
def test_sentences(before: str, after: str) -> None:
    assert spell_sentences(before) == after


def test_only_transcripts_and_labels_are_respelled_and_the_key_of_the_cache_differs(tmp_path: Path) -> None:
    for name in ("childes", "switchboard", "wikipedia"):
        (tmp_path / f"{name}.train").write_text("A:\tyes , well .\nit is .\n", encoding="utf-8")
    (tmp_path / "childes.dev").write_text("a dog .\n", encoding="utf-8")
    plain = DataProcessor(DataConfig(train_path=str(tmp_path)))
    spelled = DataProcessor(DataConfig(train_path=str(tmp_path), spelling="sentence"))
    texts = {document.domain: document.text for document in spelled.load_text_files(str(tmp_path))}
    assert texts["childes"] == "A: Yes, well.\nIt is."
    assert texts["switchboard"] == "A: yes , well .\nit is ."
    assert texts["wikipedia"].startswith("A:\tyes")
    assert [d.text for d in spelled.load_text_files(str(tmp_path), "eval")] == ["A dog."]
    assert plain.split_fingerprint() != spelled.split_fingerprint()
