"""Where documents end, and what cleaning does: a row a rule."""

from __future__ import annotations

import pytest

from babyllama.data import documents
from babyllama.data.cleaners import (
    DomainCleaners,
    clean_common,
    create_cleaner_registry,
    domain_of,
    remove_speaker_labels,
)
from babyllama.data.documents import LINES_PER_DOCUMENT, MERGE_CHARACTERS, document_rule
from tests.runs import documents_in

RULES = [
    ("tinystories", "One.\nTwo.\n<|endoftext|>\nThree.\n<|endoftext|>\n", "endoftext", ["One.\nTwo.", "Three."]),
    ("wikipedia", "= = = A = = =\n\nx\n\n\n= = = B = = =\ny\n", "titles", ["= = = A = = =\n\nx", "= = = B = = =\ny"]),
    ("wikinews", "A\n\nx\n\n\nB\n\ny\n", "two blank", ["A\n\nx", "B\n\ny"]),
    ("switchboard", "A:\thi\nB:\tho\n\nA:\tnext\n", "blank", ["A:\thi\nB:\tho", "A:\tnext"]),
    ("mine", "x\n\ny\n", "blocks", ["x\n\ny"]),
    ("childes", "hi .\nho .\n", "lines", ["hi .\nho ."]),
]


@pytest.mark.parametrize(("domain", "text", "rule", "documents"), RULES, ids=[r[2] for r in RULES])
def test_each_rule(domain: str, text: str, rule: str, documents: list[str]) -> None:
    assert document_rule(domain, text.split("\n")[:-1]) == rule
    assert [part.rstrip("\n") for part in documents_in(text, domain)] == documents


def test_every_rule_is_explained_to_the_user() -> None:
    assert set(documents.RULES) == set(documents._GROUPERS)
    assert documents.explain_rule("titles") == "one begins at each `= = = Title = = =` line"
    assert documents.explain_rule("as generated") == "as generated"


def test_blocks_are_merged_up_to_the_bound() -> None:
    block = "x" * 1500
    found = documents_in("\n\n".join([block] * 5))
    assert [len(text) // 1500 for text in found] == [2, 2, 1]
    assert max(map(len, found)) <= MERGE_CHARACTERS


def test_a_file_without_blank_lines_is_cut_by_count() -> None:
    lines = [f"line {number}" for number in range(100)]
    found = documents_in("\n".join(lines))
    assert [text.count("\n") + 1 for text in found] == [LINES_PER_DOCUMENT, LINES_PER_DOCUMENT, 20]
    assert "\n".join(found).split("\n") == lines
    assert len(documents_in("a\n" * 200)) == len(documents_in("a\n" * 200 + "a")) - 1 == 200 // LINES_PER_DOCUMENT


def test_white_space_is_no_document() -> None:
    assert documents_in("\n \n<|endoftext|>\n\t\n") == []


CLEANED = [
    ("default", "U.S.A. and 3.5% of http://a.b/c_d said “so”.", "U.S.A. and 3.5% of http://a.b/c_d said “so”."),
    ("default", "a \t\nb\u00a0\n", "a\nb\n"),
    ("default", "a\n\n\n\n\n\nb", "a\n\n\nb"),
    ("default", "a\x01b\x1c\ufeffc\u200bd\u2060", "abc\u200bd\u2060"),
    ("childes", "xxx look at the bunny+rabbit .", "look at the bunny rabbit ."),
    ("childes", "where's Pooh_Bear yyy ?", "where's Pooh Bear ?"),
    ("childes", "*MOT:\tyou like [= loves] it &=laughs (.) now .", "*MOT:\tyou like it now ."),
    ("switchboard", "A:\tOkay. [laughter]\nB:\tUh-huh.", "A:\tOkay.\nB:\tUh-huh."),
    ("bnc_spoken", "well <unclear> (laughs) yes <br/>", "well <unclear> yes"),
    ("gutenberg", "she was _very_ glad of my_file_name", "she was very glad of my_file_name"),
    ("children_stories", "a\n[Illustration: a cat]\nb", "a\nb"),
    ("gutenberg", "*** START OF THE PROJECT GUTENBERG EBOOK X ***\nOnce", "Once"),
    ("cbt", "-LRB- he said -RRB- `` yes ''", '( he said ) " yes "'),
    ("open_subtitles", "12\n00:01:02,345 --> 00:01:04,000\n- Hello.\n<i>Bye.</i>", "Hello.\nBye."),
    ("open_subtitles", "Subtitles by Some One\nHello.", "Hello."),
    ("qed", "[Music] So &amp; so\n[00:12]\nnow", "So & so\nnow"),
    ("wikipedia", "= = = Big Town = = =\n\nA town ( ) in <br> x , y .</dl>", "Big Town\n\nA town in  x, y."),
    ("simple_wiki", "R&amp;B", "R&B"),
    ("wikinews", "A&nbsp;B\x85C", "A\u00a0B C"),
]


@pytest.mark.parametrize(("domain", "before", "after"), CLEANED, ids=[f"{d}-{i}" for i, (d, *_) in enumerate(CLEANED)])
def test_each_cleaning_rule(domain: str, before: str, after: str) -> None:
    assert create_cleaner_registry()[domain](before) == after


@pytest.mark.parametrize("domain", sorted(create_cleaner_registry()))
def test_cleaning_twice_is_cleaning_once(domain: str) -> None:
    clean = create_cleaner_registry()[domain]
    for _, before, _ in CLEANED:
        assert clean(clean(before)) == clean(before)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("*MOT:\thi\nA: ho\nUSER:\tx", "hi\nho\nx"),
        ("BAPTISTA:\nNot in my house", "\nNot in my house"),
        ("The time: 10:30", "The time: 10:30"),
        ("Note well: this stays", "Note well: this stays"),
    ],
)
def test_speaker_labels_go_only_at_line_starts(before: str, after: str) -> None:
    assert remove_speaker_labels(before) == after


def test_a_subclass_changes_one_domain() -> None:
    class Mine(DomainCleaners):
        def childes(self, text: str) -> str:
            return text.upper()

    registry = create_cleaner_registry(Mine())
    assert registry["aochildes"]("hi") == "HI"
    assert registry["default"]("hi") == clean_common("hi")


def test_domain_is_the_files_stem() -> None:
    assert [domain_of(p) for p in ("a/QED.dev", "x.train.gz", "b.c.txt")] == ["qed", "x", "b"]


@pytest.mark.parametrize(("count", "share"), [(1, 0.05), (2, 0.05), (7, 0.05), (20, 0.05), (41, 0.05), (100, 0.25)])
def test_the_holdout_takes_about_its_share_and_parts_nothing_twice(count: int, share: float) -> None:
    from babyllama.data.documents import Document
    from babyllama.data.splits import hold_out

    documents = [Document("\n".join(f"line {n} of {number}" for n in range(30)), "d") for number in range(count)]
    marked = list(hold_out(documents, share))
    held = [document for document, is_held in marked if is_held]
    assert 1 <= len(held) <= max(1, round(count * share) + 1)
    assert len(held) < len(marked)
    if count > 1:
        assert [document for document, _ in marked] == documents
    assert marked == list(hold_out(documents, share))
