"""Tables as users have them: quotes, semicolons, compressed, damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from babyllama.common.errors import DataError
from babyllama.common.records import kind_of, mended, read_rows, require_column

ROWS = [{"text": 'He said "no",\nthen left.', "n": "1"}, {"text": "Ünï; 你好", "n": ""}]


def test_a_csv_with_quotes_line_feeds_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        '\ufefftext,n\r\n"He said ""no"",\nthen left.",1\r\nÜnï; 你好,\r\n\r\n', encoding="utf-8", newline=""
    )
    assert [row for _, row in read_rows(path)] == ROWS


def test_semicolons_where_the_names_have_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text;n\n"a;b";2\n', encoding="utf-8")
    assert [row for _, row in read_rows(tmp_path / "a.csv")] == [{"text": "a;b", "n": "2"}]


def test_quotes_of_a_tsv_are_letters_unless_a_writer_set_them(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tn\n"No\t1\n"""No"" he said"\t2\n"No"\t3\n', encoding="utf-8")
    assert [row["text"] for _, row in read_rows(tmp_path / "a.tsv")] == ['"No', '"No" he said', '"No"']


def test_compressed_tables_are_the_same(tmp_path: Path) -> None:
    plain = b'{"text": "one"}\n\n{"text": "two"}\n'
    (tmp_path / "a.JSONL.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "a.jsonl.zst").write_bytes(pa.Codec("zstd").compress(plain, asbytes=True))
    (tmp_path / "a.jsonl").write_bytes(plain)
    expected = [(1, {"text": "one"}), (3, {"text": "two"})]
    assert kind_of(tmp_path / "a.JSONL.gz") == ".jsonl"
    assert [list(read_rows(path)) for path in sorted(tmp_path.iterdir())] == [expected] * 3


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"text,n\na\n", "line 2: 1 values for 2 columns"),
        ("a.csv", b"text,text\n", "line 1: twice: text"),
        ("a.csv", b"", "line 1: no names of columns"),
        ("a.csv", b'text,n\n"a,1\n', "line 2: unexpected end of data"),
        ("a.csv", b"text\n\xff\n", "not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2: list, not an object"),
        ("a.jsonl", b"{\n", "line 1: not JSON"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.zst", b"no zstd", "cannot be read"),
        ("a.doc", b"", "expected rows with named columns"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        list(read_rows(tmp_path / name))


def test_a_missing_column_names_those_that_are_there() -> None:
    with pytest.raises(DataError, match=r"no column 'txt' \(found: text, n\)"):
        require_column(ROWS[0], "txt", "a.csv: line 2")
    assert require_column({"n": 7}, "n", "x") == "7"
    assert require_column({"n": None}, "n", "x") == ""
    with pytest.raises(DataError, match="not text"):
        require_column({"n": []}, "n", "x")


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    assert mended("a\ud83d!") == "a\ufffd!"
    assert mended("😀 é") == "😀 é"
    assert mended("\ud83d\ude00") == "😀"
