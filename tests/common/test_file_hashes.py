"""A file is read again exactly when it may have changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from babyllama.common import file_hashes
from babyllama.common.file_hashes import are_as_remembered, file_hash, remember, stamp_of, wait_until_settled
from babyllama.common.files import read_json, write_json


def _settled(path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write, and let the last change be long ago without waiting two seconds."""
    path.write_bytes(content)
    monkeypatch.setattr(file_hashes, "RACY_SECONDS", 0.05)
    wait_until_settled([path])


def test_a_settled_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, records = tmp_path / "a", tmp_path / "records"
    _settled(file, b"one", monkeypatch)
    assert file_hash(file, records) == hashlib.sha256(b"one").hexdigest()
    (record,) = records.iterdir()
    write_json(record, {**read_json(record), "sha256": "as recorded"})
    assert file_hash(file, records) == "as recorded"


@pytest.mark.parametrize("change", ["content", "times set back", "another file"])
def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    file, records = tmp_path / "a", tmp_path / "records"
    _settled(file, b"one", monkeypatch)
    before = file.stat()
    file_hash(file, records)
    if change == "another file":
        (tmp_path / "b").write_bytes(b"two")
        os.replace(tmp_path / "b", file)
    else:
        file.write_bytes(b"two")
    if change == "times set back":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_hash(file, records) == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_changed_a_moment_ago_is_not_recorded(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    file_hash(file, tmp_path / "records")
    assert not (tmp_path / "records").exists()
    remember(tmp_path / "checked.json", tmp_path, ["a"])
    assert not are_as_remembered(tmp_path / "checked.json", tmp_path, ["a"])


def test_a_damaged_record_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, records = tmp_path / "a", tmp_path / "records"
    _settled(file, b"one", monkeypatch)
    file_hash(file, records)
    next(records.iterdir()).write_text("{", encoding="utf-8")
    assert file_hash(file, records) == hashlib.sha256(b"one").hexdigest()


def test_waiting_ends_when_the_last_change_is_old_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "RACY_SECONDS", 0.2)
    (tmp_path / "a").write_bytes(b"x")
    started = time.monotonic()
    wait_until_settled([tmp_path / "a"])
    assert 0.05 < time.monotonic() - started < 1
    assert file_hashes.is_settled(stamp_of(tmp_path / "a"))
