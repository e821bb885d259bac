"""Minimal pairs in the forms that users have them: names of columns, tables, folders, several candidates."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from babyllama.common.errors import BabyLlamaError
from babyllama.data.formats.pairs import pair_sets, parse_columns
from babyllama.evaluation.minimal_pairs import (
    Pair,
    evaluate_pairs,
    load_pairs,
    pairs_fingerprint,
    score_sentences,
)

PAIRS = [("Die Hunde laufen.", "Die Hunde läuft."), ('Er sagte "nein".', 'Er sagten "nein".')]


def _csv(path: Path, names: list[str], rows: list[list[Any]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter=delimiter).writerows([names, *rows])
    return path


def _texts(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.good, pair.bad) for pair in pairs]


def test_multiblimp_names_are_known(tmp_path: Path) -> None:
    rows = [["SV-#", *pair] for pair in PAIRS]
    _csv(tmp_path / "deu" / "data.tsv", ["phenomenon", "sen", "wrong_sen"], rows, "\t")
    pairs = load_pairs(tmp_path / "deu", columns="paradigm=phenomenon")
    assert _texts(pairs) == PAIRS
    assert {pair.uid for pair in pairs} == {"SV-#"}
    assert [pair.pair_id for pair in pairs] == ["0", "1"]
    assert {pair.uid for pair in load_pairs(tmp_path / "deu")} == {"data"}


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = _csv(tmp_path / "a.csv", ["nr", "richtig", "falsch", "Art"], [[7, *PAIRS[0], "x"], [9, *PAIRS[1], "y"]])
    pairs = load_pairs(path, columns="good=richtig,bad=falsch,id=nr,paradigm=Art,term=Art")
    assert _texts(pairs) == PAIRS
    assert [(pair.uid, pair.pair_id, pair.term) for pair in pairs] == [("x", "7", "x"), ("y", "9", "y")]
    assert [pair.pair_id for pair in load_pairs(path, columns="good=richtig,bad=falsch,id=nr", half="odd")] == [
        "7",
        "9",
    ]


def test_a_row_a_text_with_labels(tmp_path: Path) -> None:
    rows = [
        ["1", "The dogs run.", "grammatical"],
        ["1", "The dogs runs.", "ungrammatical"],
        ["2", "He sleep.", "0"],
        ["2", "He sleeps.", "1"],
        ["2", "He sleeping.", "0"],
    ]
    path = _csv(tmp_path / "suite.csv", ["item", "sentence", "ok"], rows)
    pairs = load_pairs(path, columns="text=sentence,label=ok,id=item")
    assert _texts(pairs) == [("The dogs run.", "The dogs runs."), ("He sleeps.", "He sleep.")]
    assert pairs[1].others == ("He sleeping.",)


def test_several_candidates_the_good_one_must_beat_each(tmp_path: Path, tiny_llama: Any, tiny_tokenizer: Any) -> None:
    texts = ["The dog ran.", "Dog the ran.", "ran the dog The.", "the the the"]
    row = {"sentence_good": texts[0], "sentence_bad": texts[1:]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    wide = _csv(tmp_path / "b.csv", ["g", "b1", "b2", "b3"], [texts, [texts[0], texts[1], "", ""]])
    (pair,) = load_pairs(tmp_path / "a.jsonl")
    many = load_pairs(wide, columns="good=g,bad=b1+b2+b3")
    assert (many[0].bad, many[0].others) == (pair.bad, pair.others) == (texts[1], tuple(texts[2:]))
    assert many[1].others == ()  # an empty cell is no candidate
    scores = dict(zip(texts, score_sentences(tiny_llama, tiny_tokenizer, texts), strict=True))
    figures, items = evaluate_pairs(tiny_llama, tiny_tokenizer, many)
    best = max(scores[text] for text in texts[1:])
    assert items[0]["bad"] == pytest.approx(best, rel=1e-5)
    assert items[0]["correct"] == (scores[texts[0]] > best)
    assert figures["chance"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert "chance" not in evaluate_pairs(tiny_llama, tiny_tokenizer, [Pair("u", "0", "a", "b")])[0]


@pytest.mark.parametrize("name", ["turn.jsonl.gz", "turn.JSONL", "sub/deeper/turn.jsonl", "turn.csv.gz"])
def test_compressed_capital_and_nested_files_are_found(tmp_path: Path, name: str) -> None:
    content = "".join(json.dumps({"sentence_good": a, "sentence_bad": b}) + "\n" for a, b in PAIRS)
    if ".csv" in name:
        content = "sentence_good,sentence_bad\n" + "".join(
            ",".join('"' + text.replace('"', '""') + '"' for text in pair) + "\n" for pair in PAIRS
        )
    path = tmp_path / "set" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    pairs = load_pairs(tmp_path / "set")
    assert _texts(pairs) == PAIRS
    assert {pair.uid for pair in pairs} == {"turn"}


def test_files_of_one_name_are_paradigms_of_their_folders(tmp_path: Path) -> None:
    for language in ("deu", "tur"):
        _csv(tmp_path / language / "data.csv", ["good", "bad"], [["a b", "b a"]])
    assert [pair.uid for pair in load_pairs(tmp_path)] == ["deu/data", "tur/data"]


def test_a_folder_of_other_things_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x", encoding="utf-8")
    with pytest.raises(BabyLlamaError, match=r"no file of pairs there .*it holds \.md"):
        load_pairs(tmp_path)


def test_two_sets_of_one_name_need_names(tmp_path: Path, tiny_run: Path) -> None:
    from evaluate import ModelEvaluator

    for folder in ("deu", "tur"):
        _csv(tmp_path / folder / "data" / "x.csv", ["good", "bad"], [["The dog ran.", "ran dog"]])
    both = [str(tmp_path / folder / "data") for folder in ("deu", "tur")]
    with pytest.raises(BabyLlamaError, match=r"are both called data; give one a name: --minimal-pairs NAME="):
        pair_sets(both)
    given = [both[0], f"turkish={both[1]}"]
    assert list(pair_sets(given)) == ["data", "turkish"]
    results = ModelEvaluator(tiny_run, "cpu", minimal_pairs=given, window=32).run(["minimal_pairs"])
    assert list(results["minimal_pairs"]) == ["data", "turkish"]


def test_an_equals_sign_in_a_real_path_is_a_path(tmp_path: Path) -> None:
    path = _csv(tmp_path / "a=b" / "x.csv", ["good", "bad"], [["a b", "b a"]])
    assert pair_sets([str(path.parent)]) == {"a=b": path.parent}


def test_the_fingerprint_is_of_content_filter_and_columns(tmp_path: Path) -> None:
    path = _csv(tmp_path / "x.csv", ["good", "bad", "other"], [["a b", "b a", "c"]])
    one = pairs_fingerprint([str(path)])
    assert one == pairs_fingerprint([str(path)])
    assert (
        len({one, pairs_fingerprint([str(path)], columns="good=good,bad=other"), pairs_fingerprint([f"n={path}"])}) == 3
    )
    _csv(path, ["good", "bad", "other"], [["a c", "b a", "c"]])
    assert pairs_fingerprint([str(path)]) != one


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ("gut=a", r"--pair-columns gut=a: expected ROLE=COLUMN with a role of good, bad"),
        ("good=", "expected ROLE=COLUMN"),
        ("good=a", "good and bad belong together"),
        ("text=a,label=b", "or text, label and id"),
    ],
)
def test_columns_that_make_no_sense(columns: str, told: str) -> None:
    with pytest.raises(BabyLlamaError, match=told):
        parse_columns(columns)


@pytest.mark.parametrize(
    ("names", "rows", "columns", "told"),
    [
        (["a", "b"], [["x", "y"]], None, r"line 2: no text under `sentence_good` \(found: a, b\); name the columns"),
        (["a", "b"], [["x", "y"]], "good=a,bad=c", "line 2: no text under `c`"),
        (["t", "l", "i"], [["x", "good", "1"]], "text=t,label=l,id=i", "item 1: no bad text"),
        (["t", "l", "i"], [["x", "maybe", "1"]], "text=t,label=l,id=i", "label 'maybe': neither good nor bad"),
        (["t", "l", "i"], [["x", "1", "1"], ["y", "1", "1"]], "text=t,label=l,id=i", "a second good text"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, names: Any, rows: Any, columns: str | None, told: str) -> None:
    with pytest.raises(BabyLlamaError, match=told):
        load_pairs(_csv(tmp_path / "a.csv", names, rows), columns=columns)


def test_a_lone_surrogate_is_scored_as_the_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"sentence_good": "a \\ud83d b", "sentence_bad": "b"}\n', encoding="utf-8")
    assert load_pairs(tmp_path / "a.jsonl")[0].good == "a \ufffd b"
