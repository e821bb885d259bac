"""Reading: what is there, and one line for each thing that is not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyllama.common.errors import DataError
from babyllama.config.schema import DataConfig
from babyllama.data.sources import find_files, hub_documents, read_documents, read_lines
from data_utils import DataProcessor


def _texts(path: Path, errors: str = "strict") -> list[str]:
    return [document.text for document in read_documents(path, errors)[1]]


def test_a_folder_gives_train_to_training_and_dev_to_evaluation(tmp_path: Path) -> None:
    for name in ("b.train", "a.train", "a.dev", "notes.txt", "x.json"):
        (tmp_path / name).write_text("text\n", encoding="utf-8")
    assert [p.name for p in find_files(str(tmp_path), "train")] == ["a.train", "b.train"]
    assert [p.name for p in find_files(str(tmp_path), "eval")] == ["a.dev"]
    assert [p.name for p in find_files(str(tmp_path / "*.train"), "train")] == ["a.train", "b.train"]


def test_a_folder_without_splits_gives_all_its_text(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("x\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "y"}\n', encoding="utf-8")
    assert [p.name for p in find_files(str(tmp_path), "train")] == ["b.jsonl", "a.txt"]


def test_a_bom_is_dropped_crlf_becomes_lf_and_odd_line_breaks_stay(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\x1cx \xc2\x85y\nthree\rz")
    assert list(read_lines(file)) == ["one", "two\x1cx \x85y", "three\rz"]


@pytest.mark.parametrize("suffix", [".txt.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("one", "two")).encode()
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": ["one", "two"]}), file)
    elif suffix == ".txt.gz":
        file.write_bytes(gzip.compress(b"one\n<|endoftext|>\ntwo\n"))
    else:
        file.write_bytes(gzip.compress(lines) if suffix.endswith(".gz") else lines)
    assert _texts(file) == ["one", "two"]


BAD = [
    ("a.txt", b"ok\nna\xefve\n", "line 2, byte 5: not UTF-8 (0xef)"),
    ("a.txt", b"ok\nx\x00y\n", "line 2, byte 4: a NUL byte"),
    ("a.txt", "hello".encode("utf-16"), "this is UTF-16"),
    ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2: no key `text` (found: txt)"),
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    ("a.jsonl", b'{"text": 3}\n', "line 1: `text` is int"),
    ("a.jsonl", b"[1]\n", "line 1: no key `text` (found: list)"),
    ("a.parquet", b"PAR1 not really", "not a Parquet file"),
    ("a.txt.gz", b"not gzip", "cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[m[:30] for *_, m in BAD])
def test_bad_input_names_file_and_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        _texts(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


def test_replace_reads_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"na\xefve\x00\n")
    assert _texts(tmp_path / "a.txt", "replace") == ["na\ufffdve\ufffd"]


def test_a_parquet_without_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column `text` \(found: content\)"):
        _texts(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, r"no such file or folder; did you mean"),
        (lambda p: p.mkdir(), "it is empty"),
        (lambda p: (p.mkdir(), (p / "a.pdf").write_text("x", encoding="utf-8")), r"it holds 1 \.pdf"),
        (lambda p: p.symlink_to("nowhere"), "a link that leads nowhere"),
    ],
)
def test_nothing_to_read(tmp_path: Path, make, message: str) -> None:
    (tmp_path / "textes").mkdir()
    make(tmp_path / "texts")
    with pytest.raises(DataError, match=message):
        find_files(str(tmp_path / "texts"), "train")


@pytest.mark.parametrize("content", ["", "   \n\n", "\n"])
def test_an_empty_corpus_stops_with_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.train").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"no text|nothing to learn|nothing can be held out"):
        DataProcessor(DataConfig(train_path=str(tmp_path), cache_dir=str(tmp_path / "c"))).prepare()


def test_a_link_loop_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n", encoding="utf-8")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_files(str(tmp_path), "train")[0].name == "a.txt"


def test_the_hub_path_reads_a_local_data_set_and_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"text": "four words in all"}) + "\n" for _ in range(50)), encoding="utf-8"
    )
    documents = list(hub_documents(f"hf:{tmp_path}", "train", max_words=10))
    assert [document.text for document in documents] == ["four words in all"] * 3


def test_an_unknown_hub_data_set_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be loaded from the hub"):
        list(hub_documents("hf:nobody/nothing-here", "train", None))


@pytest.mark.parametrize("text", ["x" * 1000, "ab " * 400, "é" * 500, "字" * 333 + "y", "a b\n" + "z" * 64 + "\nend"])
def test_a_long_line_comes_in_pieces_that_join_to_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "long.txt"
    file.write_text(text + "\nlast\n", encoding="utf-8")
    pieces = list(read_lines(file, longest=64))
    assert max(len(piece.encode()) for piece in pieces) <= 128
    assert "".join(pieces).replace("\n", "") == text.replace("\n", "") + "last"
    assert pieces[-1] == "last"


def test_blocks_give_the_same_lines_as_the_file_at_once(tmp_path: Path) -> None:
    """300 kB, so that lines and characters fall across the borders of blocks; with CRLF, empty lines, no last end."""
    text = "".join(f"line {n} é字\U0001f600{'x' * (n % 97)}\n" + "\n" * (n % 3) for n in range(5000)) + "the end"
    file = tmp_path / "many.txt"
    file.write_bytes(text.encode())
    assert list(read_lines(file)) == text.split("\n")
    assert list(read_lines(file, longest=1000)) == text.split("\n")
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert list(read_lines(file, longest=1000)) == text.split("\n")
    file.write_bytes(text.encode() + b"\n\xff\n")
    with pytest.raises(DataError, match=f"line {text.count(chr(10)) + 2}, byte {len(text.encode()) + 1}:"):
        list(read_lines(file, longest=1000))


def test_an_error_behind_a_long_line_names_the_right_line(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_bytes(b"x" * 300 + b"\nok\n\xff\n")
    with pytest.raises(DataError, match=r"line 3, byte 304"):
        list(read_lines(file, longest=64))
