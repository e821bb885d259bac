"""One pass over a corpus: what it holds by domain, language and script, what is double, what of an evaluation is in it.

Documents are those that a training would see (`data/sources.py`), before cleaning. Lines, words and bytes of a file are
those of `wc`, which also counts what parts documents. Work goes to all cores batch by batch; the result depends on the
text alone, so two surveys of one text are equal to the byte.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from babyllama.common.process_pool import ordered_map
from babyllama.common.records import open_binary
from babyllama.common.scripts import count_scripts
from babyllama.corpus.duplicates import Copy, exact_copies, near_copies
from babyllama.corpus.facts import BatchFacts, DocumentFacts, FactFinder
from babyllama.corpus.overlap import LEAKED, OverlapIndex, build_index, evaluation_texts, leaks
from babyllama.data.documents import Document, batches_of, explain_rule
from babyllama.data.languages.byte_premiums import premium_of
from babyllama.data.languages.content import total_over_premium
from babyllama.data.languages.identify import UNDETERMINED, writing
from babyllama.data.sources import find_files, is_record_file, read_documents

SCHEMA_VERSION = 1
BATCH_CHARACTERS = 500_000
LONGEST_LINES = 10
LENGTH_BINS = (1, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
BLOCK_BYTES = 1 << 20
# White space of GNU `wc -w` in a UTF-8 locale: no-break spaces, too; NEL and the controls FS to US are none.
_WC_WORD = re.compile(r"[^\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2060\u3000]+")


@dataclass
class Survey:
    """What was found.

    Attributes:
        report: Figures as plain data, as they are written to corpus.json.
        exact: Exact copies of earlier documents.
        near: Near copies.
        leaked: Documents that hold items of an evaluation.
        troubled: Documents with trouble in their encoding.
        files: The files in their order.
        counts: Documents of each file.
    """

    report: dict[str, Any] = field(default_factory=dict)
    exact: list[Copy] = field(default_factory=list)
    near: list[Copy] = field(default_factory=list)
    leaked: set[int] = field(default_factory=set)
    troubled: set[int] = field(default_factory=set)
    files: list[Path] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def survey(
    path: str,
    against: Sequence[str] = (),
    *,
    dev: str | None = None,
    near: float | None = 0.5,
    processes: int = 1,
    seen: Callable[[int], None] = lambda count: None,
) -> Survey:
    """Look a corpus through.

    Args:
        path: A folder, a file or a glob: the training text.
        against: Evaluation sets to look for in it.
        dev: Held-out text to look for in it; None: the folder's own *.dev files, where there are any.
        near: Least Jaccard index of near copies; None: near copies are not looked for.
        processes: Processes that work.
        seen: Told the bytes of text that were looked at.

    Raises:
        DataError: Nothing is there, or it cannot be read.
    """
    files = find_files(path, "train", "corpus")
    index = build_index(_items(path, dev, against))
    made = Survey(files=files)
    # Documents in batches through the workers.
    rules: dict[str, str] = {}
    facts: list[DocumentFacts] = []
    characters: dict[str, Counter[str]] = {}
    for batch in ordered_map(
        FactFinder(index, near is not None), batches_of(_counted(made, rules), BATCH_CHARACTERS), processes
    ):
        _gather(batch, facts, characters, index)
        seen(sum(document.bytes for document in batch.documents))
    # What needs all documents.
    names = document_names(made)
    made.exact = exact_copies([document.digest for document in facts])
    skip = {copy.document for copy in made.exact}
    if near is not None:
        made.near = near_copies([document.signature for document in facts], skip=skip, threshold=near)
    made.leaked = _leaking(index, facts)
    made.troubled = {number for number, document in enumerate(facts) if document.trouble}
    made.report = {
        "schema_version": SCHEMA_VERSION,
        "path": path,
        **_ledger(facts, characters),
        "rules": {domain: explain_rule(rule) for domain, rule in sorted(rules.items())},
        "lengths": _histogram([document.words for document in facts]),
        "duplicates": {
            "exact": _copies(made.exact, facts, names),
            "near": _copies(made.near, facts, names) if near is not None else None,
            "near_threshold": near,
        },
        "overlap": leaks(index, names),
        "encoding": _trouble(facts),
        **_raw(files, facts, made.counts),
    }
    return made


def document_names(made: Survey) -> list[str]:
    """Return how each document is named for a person: its file and its number there."""
    counted = zip(made.files, made.counts, strict=True)
    return [f"{file.name}: document {number + 1}" for file, count in counted for number in range(count)]


def _items(path: str, dev: str | None, against: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Held-out documents and evaluation items."""
    folder = Path(path).expanduser()
    if (
        dev is None
        and folder.is_dir()
        and any(p.name.lower().split(".")[1:2] == ["dev"] for p in folder.rglob("*.dev*"))
    ):
        dev = path
    for file in find_files(dev, "eval", "--dev") if dev is not None else ():
        for number, document in enumerate(read_documents(file, "replace")[1], start=1):
            yield f"held out: {document.domain}", f"{file.name}: document {number}", document.text
    for given in against:
        yield from evaluation_texts(given)


def _counted(made: Survey, rules: dict[str, str]) -> Iterator[Document]:
    """Yield the documents of all files; notes how many each file has and by which rule."""
    for file in made.files:
        rule, documents = read_documents(file, "replace")
        made.counts.append(0)
        for document in documents:
            rules[document.domain] = rule
            made.counts[-1] += 1
            yield document


def _gather(
    batch: BatchFacts, facts: list[DocumentFacts], characters: dict[str, Counter[str]], index: OverlapIndex
) -> None:
    for document in batch.documents:
        index.record(len(facts), document.overlap)
        facts.append(document)
    for domain, counts in batch.characters.items():
        characters.setdefault(domain, Counter()).update(counts)


def _leaking(index: OverlapIndex, facts: list[DocumentFacts]) -> set[int]:
    """Return documents that hold by themselves at least half of the runs of an item."""
    owners: dict[tuple[int, int], list[int]] = {}  # (length, run) -> leaked items that have it
    for number, item in enumerate(index.items):
        if index.overlap(item)[0] >= LEAKED:
            for gram in item.grams.tolist():
                owners.setdefault((item.length, gram), []).append(number)
    found = set()
    for number, document in enumerate(facts):
        held = Counter(
            owner
            for length, places in document.overlap.items()
            for gram in places.tolist()
            for owner in owners.get((length, gram), ())
        )
        if any(count >= LEAKED * len(index.items[owner].grams) for owner, count in held.items()):
            found.add(number)
    return found


def _ledger(facts: list[DocumentFacts], characters: dict[str, Counter[str]]) -> dict[str, Any]:
    """Return figures in total and by domain: documents, words, bytes, language, script, bytes over the byte premium."""
    domains = {}
    for domain in sorted(characters):
        chosen = [document for document in facts if document.domain == domain]
        domains[domain] = _figures(chosen, characters[domain])
    # The total, whose premium is one language's only where there is one language.
    every: Counter[str] = Counter()
    for counts in characters.values():
        every.update(counts)
    total = _figures(facts, every)
    if len({figures["byte_premium_of"] for figures in domains.values()}) > 1:  # one language's premium is not all's
        summed = {"byte_premium": None, "byte_premium_of": None, "bytes_over_premium": total_over_premium(domains)}
        total |= summed
    for figures in domains.values():
        figures["share_of_words"] = round(figures["words"] / max(total["words"], 1), 6)
    # Documents and words by language.
    languages: dict[str, dict[str, int]] = {}
    for document in facts:
        row = languages.setdefault(document.language, {"documents": 0, "words": 0})
        row["documents"] += 1
        row["words"] += document.words
    return {
        "total": total,
        "domains": domains,
        "languages": dict(sorted(languages.items(), key=lambda item: (-item[1]["words"], item[0]))),
        "scripts": count_scripts(every),
    }


def _figures(facts: Sequence[DocumentFacts], characters: Counter[str]) -> dict[str, Any]:
    words: Counter[str] = Counter()
    for document in facts:
        words[document.language] += document.words
    language = min(words, key=lambda code: (code == UNDETERMINED, -words[code], code), default=UNDETERMINED)
    script = writing(characters)
    size = sum(document.bytes for document in facts)
    premium = premium_of(language, script)
    return {
        "documents": len(facts),
        "words": sum(words.values()),
        "bytes": size,
        "characters": sum(characters.values()),
        "language": language,
        "script": script,
        "byte_premium": premium.premium if premium else None,
        "byte_premium_of": premium.language if premium else None,
        "bytes_over_premium": round(size / premium.premium) if premium else None,
    }


def _copies(copies: Sequence[Copy], facts: list[DocumentFacts], names: list[str]) -> dict[str, Any]:
    return {
        "documents": len(copies),
        "words": sum(facts[copy.document].words for copy in copies),
        "found": [
            {"document": names[c.document], "of": names[c.of], "similarity": round(c.similarity, 4)} for c in copies
        ],
    }


def _trouble(facts: list[DocumentFacts]) -> dict[str, Any]:
    """By domain: documents with trouble, and how often each kind occurs."""
    found: dict[str, Counter[str]] = {}
    for document in facts:
        if document.trouble:
            found.setdefault(document.domain, Counter()).update({**document.trouble, "documents": 1})
    return {domain: dict(sorted(counts.items())) for domain, counts in sorted(found.items())}


def _histogram(words: Sequence[int]) -> list[dict[str, int]]:
    """Return how many documents have at least so many words and fewer than the next bin's."""
    bins = [0, *LENGTH_BINS]
    ends = [*LENGTH_BINS, None]
    return [
        {"from": low, "documents": sum(low <= n and (high is None or n < high) for n in words)}
        for low, high in zip(bins, ends, strict=True)
    ]


def _raw(files: Sequence[Path], facts: list[DocumentFacts], counts: Sequence[int]) -> dict[str, Any]:
    """Return lines, words and bytes of each file as `wc` counts them, and the longest lines of all."""
    rows, longest = [], []
    start = 0
    # A file's figures; the longest lines of all are kept on the way.
    for file, count in zip(files, counts, strict=True):
        chosen = facts[start : start + count]
        start += count
        row: dict[str, Any] = {"file": file.name, "documents": count}
        if is_record_file(file):  # rows of a table: their texts are counted
            row |= {"lines": count, "words": sum(d.words for d in chosen), "bytes": sum(d.bytes for d in chosen)}
        else:
            lines, words, size = 0, 0, 0
            for number, block in _blocks(file):
                least = -longest[-1][0] if len(longest) == LONGEST_LINES else 0
                long = ((i, line) for i, line in enumerate(block.split(b"\n")) if len(line) >= least)
                found = ((-len(line), file.name, number + i, line) for i, line in long)
                longest = heapq.nsmallest(LONGEST_LINES, [*longest, *found])
                lines, words, size = lines + block.count(b"\n"), words + count_like_wc(block), size + len(block)
            row |= {"lines": lines, "words": words, "bytes": size}
        rows.append(row)
    # The longest lines, cut to what can be shown.
    shown = [
        {"file": name, "line": number, "bytes": -size, "begins": line[:320].decode("utf-8", "replace")[:80]}
        for size, name, number, line in longest
    ]
    return {"files": rows, "longest_lines": shown}


def _blocks(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield a file in blocks that end with a line, each with the number of its first line."""
    number, carry = 1, b""
    with open_binary(file) as handle:
        while block := handle.read(BLOCK_BYTES):
            data = carry + block
            cut = data.rfind(b"\n") + 1
            if cut:
                yield number, data[:cut]
                number += data.count(b"\n", 0, cut)
            carry = data[cut:]
    if carry:
        yield number, carry


def count_like_wc(block: bytes) -> int:
    r"""Return words of a block as `wc -w` counts them in a UTF-8 locale.

    >>> count_like_wc("two\u00a0words, one\x1fword".encode())
    3
    """
    if block.isascii():
        return len(block.split())
    return len(_WC_WORD.findall(block.decode("utf-8", "replace")))
