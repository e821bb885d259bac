"""Tables, transcripts, compressed text and endless lines: what goes in comes out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
import regex

from babyllama.common.errors import DataError
from babyllama.config.schema import DataConfig
from babyllama.data.documents import Document
from babyllama.data.sources import LONGEST_LINE, find_files, read_documents
from babyllama.data.splits import part_document
from data_utils import DataProcessor

CHAT = """@UTF8
@Begin
@Participants:\tCHI Adam Target_Child, MOT Mother
*MOT:\tdo you want a cookie ? \x151234_2345\x15
%mor:\tmod|do pro|you v|want
\tmore of it
*CHI:\tyes &=laughs xxx .
*MOT:\ta very big
\tone <then> [/] then ?
@End
"""


def _zst(text: str) -> bytes:
    return pa.Codec("zstd").compress(text.encode(), asbytes=True)


def test_a_transcript_is_one_document_of_utterances(tmp_path: Path) -> None:
    for name in ("020304.cha", "020305.cha"):
        (tmp_path / name).write_text(CHAT, encoding="utf-8")
    processor = DataProcessor(DataConfig())
    documents = processor.load_text_files(str(tmp_path))
    assert [document.domain for document in documents] == ["childes", "childes"]
    assert documents[0].text == "*MOT:\tdo you want a cookie ?\n*CHI:\tyes .\n*MOT:\ta very big one then then ?"
    assert processor.rules == {"childes": "one a transcript"}
    bare = DataProcessor(DataConfig(speaker_labels="remove")).load_text_files(str(tmp_path / "020304.cha"))
    assert bare[0].text.split("\n")[1] == "yes ."


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.jsonl.zst", "a.tsv.zst"])
def test_tables_give_the_named_column(tmp_path: Path, name: str) -> None:
    texts = ['He said "no", then left.', "你好，世界。"]
    separator = "\t" if ".tsv" in name else ","
    rows = "".join(json.dumps({"n": n, "body": text}) + "\n" for n, text in enumerate(texts))
    table = f"n{separator}body\n" + "".join(
        f"{n}{separator}" + (text if separator == "\t" else '"' + text.replace('"', '""') + '"') + "\n"
        for n, text in enumerate(texts)
    )
    content = rows if ".jsonl" in name else table
    packed = {"gz": gzip.compress(content.encode()), "zst": _zst(content)}.get(name.split(".")[-1], content.encode())
    (tmp_path / name).write_bytes(packed)
    processor = DataProcessor(DataConfig(text_key="body"))
    assert [document.text for document in processor.load_text_files(str(tmp_path / name))] == texts
    with pytest.raises(DataError, match=r"data\.text_key"):
        DataProcessor(DataConfig()).load_text_files(str(tmp_path / name))


def test_another_column_is_another_text_for_the_cache(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,body\none,two\n" * 1, encoding="utf-8")
    keys = {
        DataProcessor(DataConfig(train_path=str(tmp_path / "a.csv"), text_key=key)).split_fingerprint()
        for key in ("text", "body")
    }
    assert len(keys) == 2


def test_text_compressed_by_zstd_is_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.train.zst").write_bytes(_zst("one\n\ntwo\n" * 3))
    (tmp_path / "a.dev.zst").write_bytes(_zst("held out\n"))
    assert [f.name for f in find_files(str(tmp_path), "train")] == ["a.train.zst"]
    assert [d.text for d in DataProcessor(DataConfig()).load_text_files(str(tmp_path), "eval")] == ["held out"]


def test_tables_beside_text_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("id,age\n1,2\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("some text\n", encoding="utf-8")
    assert [f.name for f in find_files(str(tmp_path), "train")] == ["a.txt"]


@pytest.mark.parametrize("script", ["th", "zh", "accents", "english"])
def test_an_endless_line_comes_out_as_it_went_in(tmp_path: Path, script: str) -> None:
    text = {
        "th": "เมื่อวานนี้ฉันไปที่ตลาดกับแม่ " * 9_000 + "\n" + "เด็กอยู่บ้าน" * 9_000,
        "zh": "小狗跑到河边去了。" * 20_000,
        "accents": "e\u0301" * 120_000,
        "english": "word " * 60_000 + "end\nA second line.",
    }[script]
    path = tmp_path / "a.txt"
    path.write_bytes((text + "\n").encode())
    assert len(text.encode()) > 2 * LONGEST_LINE
    _, documents = read_documents(path)
    assert "".join(document.text for document in documents) == text
    from babyllama.data.sources import read_lines

    pieces = list(read_lines(path, longest=LONGEST_LINE))
    assert len(pieces) > 2
    assert not [piece for piece in pieces if regex.match(r"\p{M}", piece)]
    assert max(len(piece.encode()) for piece in pieces) <= 3 * LONGEST_LINE


def test_bytes_that_are_no_text_do_not_stop_an_endless_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xe0\xb8\xff" * 60_000)
    _, documents = read_documents(path, "replace")
    assert set("".join(document.text for document in documents)) == {"\ufffd"}


def test_one_document_without_spaces_is_parted_near_its_end() -> None:
    text = "เมื่อวานนี้ฉันไปที่ตลาด" * 50 + "\n" + "เด็กอยู่บ้าน" * 100
    first, second = part_document(Document(text, "d"), 0.05)
    assert first.text + second.text == text
    assert 0.03 < len(second.text) / len(text) < 0.08
    assert not regex.match(r"\p{M}", second.text)


def test_khmer_and_persian_keep_what_marks_their_words(tmp_path: Path) -> None:
    khmer, persian = "ខ្ញុំ\u200bទៅ\u200bផ្សារ", "می\u200cروم"
    processor = DataProcessor(DataConfig())
    assert processor.clean_text(khmer) == khmer
    assert processor.clean_text(persian) == persian


def test_marks_belong_to_their_letters_in_merges() -> None:
    from babyllama.data.fast_encoding import DocumentEncoder, cuts_like_gpt2
    from babyllama.data.tokenizer import encode_documents, train_tokenizer, writes_marks

    folder = Path(__file__).resolve().parents[2] / "examples" / "udhr"
    hindi, english = ((folder / f"{name}.txt").read_text(encoding="utf-8") for name in ("hi", "en"))
    assert writes_marks(hindi)
    assert not writes_marks(english)
    assert cuts_like_gpt2(train_tokenizer([english], 500))
    tokenizer = train_tokenizer([hindi], 1_000)
    assert not cuts_like_gpt2(tokenizer)
    ids = encode_documents(tokenizer, [hindi])[0]
    assert tokenizer.decode(ids) == hindi
    assert len(ids) / len(hindi.split()) < 2  # GPT-2's rule needs 3.7 tokens a word here
    stored = DocumentEncoder(tokenizer).encode([hindi])[0]
    assert len(stored) == 2 * (len(ids) + 2)
