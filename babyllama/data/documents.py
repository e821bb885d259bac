"""Where one document ends and the next begins.

A document is what the model sees between `<s>` and `</s>`, the unit that is held out, scored and resampled. The rule
is chosen by what the text shows, printed and saved with the run:

    endoftext    a line `<|endoftext|>` ends a document (TinyStories)
    titles       a line `= = = Title = = =` begins one (Wikipedia)
    two blank    two blank lines part news items
    blank        one blank line parts dialogues
    blocks       blank-line-separated blocks, merged up to about 4,000 characters
    lines        40 lines each, where there are no blank lines
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"
MERGE_CHARACTERS = 4_000
LINES_PER_DOCUMENT = 40
DIALOGUES = {"switchboard", "task_dialogue", "bnc_spoken"}
ITEMS_TWO_BLANK = {"wikinews", "news"}
_TITLE_LINE = re.compile(r"^= = = .* = = =$")


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        text: Text of the document, without special tokens.
        domain: The stem of its file.
        source: Where it comes from (a file's name), for messages.
    """

    text: str
    domain: str
    source: str = ""


class Piece(str):
    """A part of a line that is too long to be held in memory: the next line of the stream goes on with it."""

    __slots__ = ()


def batches_of(documents: Iterable[Document], characters: int) -> Iterator[list[Document]]:
    """Yield documents in order, in lists that each hold at least so many characters; the last may hold fewer."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def documents_fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 of documents' domains and texts in their order: equal where two runs are scored on the same text."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.domain}\0{len(document.text)}\0{document.text}\0".encode())
    return digest.hexdigest()


def document_rule(domain: str, lines: Iterable[str]) -> str:
    """Return the name of the rule for a file, from its domain and its lines."""
    blanks = titles = 0
    for line in lines:
        if is_mark(line):
            return "endoftext"
        blanks += not line.strip()
        titles += _TITLE_LINE.match(line) is not None
    if titles:
        return "titles"
    if domain in ITEMS_TWO_BLANK and blanks:
        return "two blank"
    if domain in DIALOGUES and blanks:
        return "blank"
    return "blocks" if blanks else "lines"


def is_mark(line: str) -> bool:
    """Return whether a line is the mark between documents but for blanks around it.

    >>> is_mark("<|endoftext|> "), is_mark("the end <|endoftext|>")
    (True, False)
    """
    return END_OF_TEXT in line and line.strip() == END_OF_TEXT


RULES = {
    "endoftext": "one ends at each <|endoftext|> line",
    "titles": "one begins at each `= = = Title = = =` line",
    "two blank": "two blank lines part them",
    "blank": "a blank line parts them",
    "blocks": f"blocks between blank lines, merged up to {MERGE_CHARACTERS:,} characters",
    "lines": f"{LINES_PER_DOCUMENT} lines each, for there are no blank lines",
}


def explain_rule(rule: str) -> str:
    """Return a rule as a sentence for the user; names that are not rules of text files stay as they are."""
    return RULES.get(rule, rule)


def split_lines(lines: Iterable[str], rule: str) -> Iterator[str]:
    r"""Yield documents of a stream of lines (without line ends); texts of nothing but white space are dropped.

    >>> list(split_lines(["a", "b", "<|endoftext|>", "c"], "endoftext"))
    ['a\nb', 'c']
    >>> list(split_lines(["= = = A = = =", "x", "= = = B = = =", "y"], "titles"))
    ['= = = A = = =\nx', '= = = B = = =\ny']
    """
    for group in _GROUPERS[rule](lines):
        text = "".join(line if isinstance(line, Piece) else f"{line}\n" for line in group).strip("\n")
        if text.strip():
            yield text


def _at_marker(lines: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for line in lines:
        if is_mark(line):
            yield group
            group = []
        else:
            group.append(line)
    yield group


def _at_title(lines: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for line in lines:
        if _TITLE_LINE.match(line):
            yield group
            group = []
        group.append(line)
    yield group


def _at_blanks(lines: Iterable[str], needed: int) -> Iterator[list[str]]:
    group: list[str] = []
    blanks = 0
    for line in lines:
        if line.strip():
            if blanks >= needed and group:
                yield group
                group = []
            group.extend([""] * (blanks if group else 0))
            group.append(line)
            blanks = 0
        else:
            blanks += 1
    yield group


def _merged_blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for block in _at_blanks(lines, 1):
        length = sum(map(len, block)) + len(block)
        if group and size + length > MERGE_CHARACTERS:
            yield group
            group, size = [], 0
        group = [*group, "", *block] if group else block
        size += length
    yield group


def _by_count(lines: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for line in lines:
        group.append(line)
        if len(group) == LINES_PER_DOCUMENT:
            yield group
            group = []
    yield group


_GROUPERS = {
    "endoftext": _at_marker,
    "titles": _at_title,
    "two blank": lambda lines: _at_blanks(lines, 2),
    "blank": lambda lines: _at_blanks(lines, 1),
    "blocks": _merged_blocks,
    "lines": _by_count,
}
