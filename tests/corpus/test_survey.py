"""The survey of a corpus: planted copies and leaks are found, counts are wc's, two surveys are the same bytes."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
from pathlib import Path

import pytest

from babyllama.common.errors import BabyLlamaError
from babyllama.corpus.fingerprints import compared_words
from babyllama.corpus.survey import survey
from babyllama.data.synthetic import generate_documents
from main import main

END = "\n<|endoftext|>\n"


def _plant(folder: Path, documents: list[str], seed: int = 0) -> dict[str, set[int]]:
    """1,000 documents: 50 are copies, 50 near copies with 5% of the words changed, 10 stand in the held-out text."""
    generator = random.Random(seed)
    originals, dev, leaked = documents[:890], documents[890:930], documents[930:940]
    vocabulary = " ".join(originals).split()
    planted: list[tuple[str, str]] = [("original", text) for text in originals]
    chosen = generator.sample([text for text in originals if len(text.split()) >= 40], 100)
    planted += [("exact", text) for text in chosen[:50]]
    for text in chosen[50:]:
        lines = [line.split(" ") for line in text.split("\n")]
        places = [(i, j) for i, line in enumerate(lines) for j in range(len(line))]
        for i, j in generator.sample(places, max(1, round(len(places) * 0.05))):
            lines[i][j] = generator.choice(vocabulary)
        planted.append(("near", "\n".join(" ".join(line) for line in lines)))
    planted += [("leak", text) for text in leaked]
    tail = planted[890:]
    generator.shuffle(tail)
    planted = [*planted[:890], *tail]  # copies behind what they copy: the first one is the original
    folder.mkdir()
    (folder / "a.train").write_text("".join(text + END for _, text in planted), encoding="utf-8")
    (folder / "a.dev").write_text("".join(text + END for text in [*dev, *leaked]), encoding="utf-8")
    return {kind: {n for n, (k, _) in enumerate(planted) if k == kind} for kind in ("exact", "near", "leak")}


def _check(folder: Path, truth: dict[str, set[int]], tmp_path: Path) -> None:
    found = survey(str(folder))
    assert sum(found.counts) == 1_000
    assert {copy.document for copy in found.exact} == truth["exact"]
    near = {copy.document for copy in found.near}
    assert len(near & truth["near"]) >= 48
    assert len(near - truth["near"]) <= 1
    (figures,) = found.report["overlap"].values()
    assert figures["leaked"] == 10
    assert {row["overlap"] for row in figures["found"]} == {1.0}
    assert found.leaked == truth["leak"]
    again = survey(str(folder), processes=2)
    assert json.dumps(again.report) == json.dumps(found.report)


@pytest.mark.integration
def test_planted_copies_and_leaks_in_the_embedded_text(tmp_path: Path) -> None:
    documents = list(dict.fromkeys(d.text for d in generate_documents(400_000, 3) if len(d.text.split()) >= 60))
    _check(tmp_path / "c", _plant(tmp_path / "c", documents[:940]), tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_copies_and_leaks_in_real_text(test_data: Path, tmp_path: Path, seed: int) -> None:
    text = (test_data / "corpora/tinystories/tinystories.train").read_text(encoding="utf-8")
    documents = list(dict.fromkeys(part.strip("\n") for part in text.split("<|endoftext|>") if len(part.split()) >= 60))
    _check(tmp_path / "c", _plant(tmp_path / "c", documents[:940], seed), tmp_path)


@pytest.mark.integration
def test_words_lines_and_bytes_are_those_of_wc(test_data: Path) -> None:
    folder = test_data / "corpora" / "babylm_like"
    for row in survey(str(folder / "*.dev"), near=None).report["files"]:
        told = subprocess.run(
            ["wc", str(folder / row["file"])], env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True
        )
        assert [row["lines"], row["words"], row["bytes"]] == [int(n) for n in told.stdout.split()[:3]], row["file"]


def test_words_are_compared_in_every_script() -> None:
    assert compared_words("लड़का घर गया।") == ["लड़का", "घर", "गया"]
    assert compared_words("ذهب الولد، لماذا؟") == ["ذهب", "الولد", "لماذا"]
    assert compared_words("小狗，跑了。") == ["小", "狗", "跑", "了"]


def test_the_ledger_tells_language_script_and_bytes_over_the_premium(tmp_path: Path) -> None:
    thai = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ\n" * 5
    german = "Alle Menschen sind frei und gleich an Würde und Rechten geboren.\n" * 5
    (tmp_path / "thai.txt").write_text(thai, encoding="utf-8")
    (tmp_path / "german.txt").write_text(german, encoding="utf-8")
    report = survey(str(tmp_path)).report
    row = report["domains"]["thai"]
    assert (row["language"], row["script"], row["byte_premium_of"]) == ("th", "Thai", "tha_thai")
    assert row["bytes_over_premium"] == round(len(thai.strip().encode()) / 2.741647)
    assert report["domains"]["german"]["words"] == len(german.split())
    assert list(report["scripts"]) == ["Thai", "Latn"]
    assert sum(r["share_of_words"] for r in report["domains"].values()) == pytest.approx(1)


def test_encoding_trouble_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Ein CafÃ© &amp; mehr.\x07 ".encode() + b"\xff\x00 und weiter\n")
    (tmp_path / "b.txt").write_text("nothing wrong here\n", encoding="utf-8")
    report = survey(str(tmp_path)).report
    assert list(report["encoding"]) == ["a"]
    counted = report["encoding"]["a"]
    assert counted.pop("mojibake") >= 1
    assert counted == {"control": 1, "documents": 1, "entities": 1, "replacement": 2}


def test_pairs_and_tables_are_evaluation_sets(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    leaked = "The boys who live next door never eat green apples."
    (tmp_path / "t" / "a.train").write_text(f"One line.\n{leaked}\nAnother line.\n", encoding="utf-8")
    row = {"sentence_good": leaked, "sentence_bad": "The boys who live next door ever eat green apples.", "n": 1}
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "npi.jsonl.gz").write_bytes(gzip.compress((json.dumps(row) + "\n").encode()))
    (tmp_path / "q.csv").write_text("question,answer\nOne line.,no\n", encoding="utf-8")
    report = survey(str(tmp_path / "t"), [str(tmp_path / "p"), str(tmp_path / "q.csv")]).report
    assert report["overlap"]["p"]["items"] == 2
    assert report["overlap"]["p"]["leaked"] == 1
    assert report["overlap"]["q.csv"] == {"items": 2, "too_short": 2, "leaked": 0, "mean_overlap": 0.0, "found": []}


def test_the_longest_lines_come_with_their_places(tmp_path: Path) -> None:
    lines = ["short", "x" * 500, "y " * 100, "z" * 400]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = survey(str(tmp_path)).report["longest_lines"]
    assert [(row["line"], row["bytes"]) for row in found[:3]] == [(2, 500), (4, 400), (3, 200)]


def test_the_command_writes_page_json_and_clean_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "c"
    (folder / "sub").mkdir(parents=True)
    story = "The dog ran to the old house near the river and saw a cat and two birds in the tall tree."
    (folder / "a.txt").write_text(END.join([story, "A <b>new</b> 文 story.", story, ""]), encoding="utf-8")
    (folder / "sub" / "b.jsonl").write_text(
        json.dumps({"text": story}) + "\n" + json.dumps({"text": "ok"}) + "\n", encoding="utf-8"
    )
    argv = ["corpus", str(folder), "--output", str(tmp_path / "o"), "--write", str(tmp_path / "w")]
    assert main(argv) == 0
    assert "exact copies of earlier documents: 2" in capsys.readouterr().out
    first = [(tmp_path / "o" / name).read_bytes() for name in ("corpus.json", "corpus.html")]
    assert main(argv) == 0  # over its own files
    assert first == [(tmp_path / "o" / name).read_bytes() for name in ("corpus.json", "corpus.html")]
    assert (tmp_path / "w" / "a.txt").read_text(encoding="utf-8") == story + END + "A <b>new</b> 文 story." + END
    assert (tmp_path / "w" / "sub" / "b.jsonl").read_text(encoding="utf-8") == '{"text": "ok"}\n'
    removed = [json.loads(line) for line in (tmp_path / "w" / "removed.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["document"], row["of"], row["reason"]) for row in removed] == [
        ("a.txt: document 3", "a.txt: document 1", "exact"),
        ("b.jsonl: document 1", "a.txt: document 1", "exact"),
    ]
    written = json.loads(first[0])["written"]
    words = sum(row["words"] for row in written.values() if isinstance(row, dict))
    assert words == json.loads(first[0])["total"]["words"]  # nothing is lost but what is recorded
    page = first[1].decode()
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--remove", "bad"], "--remove bad: bad: of exact, near"),
        (["--near", "7"], "--near 7"),
        (["--against", "no_such"], "no_such"),
        (["--write", "HERE"], "files that are not from here"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, flags: list[str], told: str) -> None:
    (tmp_path / "a.txt").write_text("some text\n", encoding="utf-8")
    flags = [str(tmp_path) if flag == "HERE" else flag for flag in flags]
    with pytest.raises(BabyLlamaError, match=told):
        main(["corpus", str(tmp_path), "--output", str(tmp_path / "o"), *flags])


def test_the_embedded_text_is_not_a_file() -> None:
    with pytest.raises(BabyLlamaError, match="only files are looked through"):
        main(["corpus", "synthetic"])
