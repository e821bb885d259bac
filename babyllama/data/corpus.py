"""A corpus's two splits as shards of cleaned text: made once, found again after a kill, held-out documents kept.

Between reading and tokenizing, the text lies in `<cache>/texts/<key>/`, named after the files' content, cleaners and
split, until its tokens are complete. It is what a data set that is streamed from the hub is spooled to, so that it is
streamed once. The held-out documents stay for good (`<cache>/held_out/<key>/`, at most 20 MB of a text that holds some
out by itself): scoring a run needs them, and neither reads nor cleans the corpus again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from babyllama.common.cache_folders import content_key, read_store, seal_store
from babyllama.common.console import transfer
from babyllama.common.errors import ConfigError, DataError
from babyllama.common.files import Building
from babyllama.common.glibc_memory import give_back_memory
from babyllama.common.process_pool import WorkerLost
from babyllama.data.documents import Document
from babyllama.data.held_out.rule import SplitRule
from babyllama.data.splits import part_document
from babyllama.data.text_shards import HELD, SHARD_CHARACTERS, TEST, TRAIN, UNUSED, Selection, TextShards
from babyllama.data.token_store import reading_code

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from transformers import PreTrainedTokenizerFast

SAMPLE_BYTES = 300_000_000  # of text that a tokenizer is trained on; more is sampled evenly


@dataclass
class Source:
    """One stream of documents.

    Attributes:
        documents: Begins the stream: documents in order, each with whether to clean it.
        rules: Filled while it is read: domain -> rule.
        total_bytes: Bytes of the source's files, None where that is not known before.
        repeatable: It is certainly the same when it is read again.
    """

    documents: Callable[[], Iterable[tuple[Document, bool]]]
    rules: dict[str, str] = field(default_factory=dict)
    total_bytes: int | None = None
    repeatable: bool = True


class CorpusText:
    """Both splits' documents in shards.

    Args:
        folder: Where the shards are, named after the text's content.
        clean: `clean(text, domain)`.
        processes: Number of processes that clean.
    """

    def __init__(self, folder: Path, clean: Callable[[str, str], str], processes: int) -> None:
        self.folder = folder
        self.clean = clean
        self.processes = processes
        self.train = TextShards(folder / "train")
        self.valid = self.train

    def collect(self, train: Source, valid: Source | None, *, rule: SplitRule, max_words: int | None) -> None:
        """Read and clean what is not there yet, and mark every document.

        Args:
            train: The training text.
            valid: The held-out text; None: the rule holds out some of the training text.
            rule: What of the training text is held out, and what is set aside as a test.
            max_words: See `splits.at_most_words`.

        Raises:
            DataError: The rule finds too little to set aside.
        """
        self._fill(self.train, train, max_words if valid is not None and not rule.test else None)
        if len(self.train.words) == 1 and valid is None and rule.by == "document":
            self._part(rule)
            return
        marks = rule.marks(self.train.sources)
        if rule.test and len(marks) and not (marks == TEST).any():
            raise DataError(f"data.test: {rule.test} of {len(marks):,} documents is none; raise it")
        self.train.mark(np.where(marks == TRAIN, _first_words(self.train.words, marks == TRAIN, max_words), marks))
        if valid is None:
            return
        self.valid = TextShards(self.folder / "valid")
        self._fill(self.valid, valid, None)
        self.valid.mark(np.full(len(self.valid.words), HELD, dtype=np.uint8))

    def _fill(self, shards: TextShards, source: Source, max_words: int | None) -> None:
        if shards.complete():
            return
        with transfer("reading and cleaning", source.total_bytes) as seen:
            shards.fill(
                source.documents(),
                self.clean,
                processes=self.processes,
                trusted=source.repeatable,
                max_words=max_words,
                seen=seen,
            )
        shards.finish(source.rules)

    def _part(self, rule: SplitRule) -> None:
        """A corpus of one document becomes two."""
        if rule.test:
            raise DataError("data.test: the text is one document; nothing can be set aside")
        (whole,) = self.train.everything()
        rules = self.train.rules
        self.train = self.valid = TextShards(self.folder / "parted")
        self.train.write(part_document(whole, rule.share), rules)
        self.train.mark(np.array([TRAIN, HELD][: len(self.train.words)], dtype=np.uint8))

    @property
    def rules(self) -> dict[str, str]:
        """Domain -> rule by which documents were told apart."""
        return {**self.train.rules, **self.valid.rules}

    @property
    def inner_marks(self) -> int:
        """Marks between documents that stand inside lines of both splits, counted."""
        return self.train.inner_marks + (self.valid.inner_marks if self.valid is not self.train else 0)

    def selections(self) -> list[Selection]:
        """Return the documents of `train` and `valid`."""
        return [Selection("train", self.train, TRAIN), Selection("valid", self.valid, HELD)]

    def training_texts(self, every: int, seen: Callable[[int], None]) -> Iterator[str]:
        """Yield one of `every` training documents, evenly spread over the corpus, in order.

        Args:
            every: 1: all.
            seen: Told the bytes of each shard's.
        """
        passed = 0
        for number, wanted in self.train.marked(TRAIN):
            count = np.cumsum(wanted) - 1 + passed
            passed += int(wanted.sum())
            chosen = wanted & (count % every == 0)
            yield from (document.text for document in self.train.documents(number, chosen))
            seen(int(self.train.indexes[number].bytes[chosen].sum()))

    def test(self) -> Iterator[Document]:
        """Yield the documents that are set aside, in order."""
        for number, wanted in self.train.marked(TEST):
            yield from self.train.documents(number, wanted)

    def held_out(self) -> Iterator[Document]:
        """Yield the held-out documents in order."""
        for number, wanted in self.valid.marked(HELD):
            yield from self.valid.documents(number, wanted)


def _first_words(words: np.ndarray, candidates: np.ndarray, max_words: int | None) -> np.ndarray:
    """TRAIN for the candidates (D,) bool that come before the bound is reached, else UNUSED."""
    before = np.cumsum(words * candidates) - words * candidates
    reached = np.zeros(len(words), dtype=bool) if max_words is None else before >= max_words
    return np.where(candidates & ~reached, TRAIN, UNUSED).astype(np.uint8)


def train_on(
    text: CorpusText, vocab_size: int | Literal["auto"], *, prefix_space: bool = False
) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """A tokenizer of at most `vocab_size` tokens trained on a corpus's training documents, and lines for the user."""
    from babyllama.data.tokenizer import AUTO_SIZES, carried_size, train_tokenizer

    words, size = (text.train.total(what, TRAIN) for what in ("words", "bytes"))
    every, notes = sample_step(size), []
    if every > 1:
        notes.append(f"tokenizer: trained on one of {every} documents, {size / every / 1e6:,.0f} MB of text")
    wanted = AUTO_SIZES[-1] if vocab_size == "auto" else vocab_size
    carried = max(260, min(wanted, carried_size(words)))
    with transfer("training the tokenizer", size // every) as seen:
        tokenizer = train_tokenizer(text.training_texts(every, seen), carried, prefix_space=prefix_space)
    give_back_memory()
    if vocab_size == "auto":
        return _of_chosen_size(tokenizer, text, notes)
    if len(tokenizer) < vocab_size:
        notes.append(f"vocabulary: {len(tokenizer):,} tokens, not {vocab_size:,}: {words:,} words carry no more")
    return tokenizer, notes


def _of_chosen_size(
    tokenizer: PreTrainedTokenizerFast, text: CorpusText, notes: list[str]
) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """The tokenizer cut down to the size that `auto` stands for, chosen on an even sample of the training documents."""
    from babyllama.data.tokenizer import AUTO_SAMPLE, choose_vocab_size, shortened

    every = max(1, text.train.total("bytes", TRAIN) // AUTO_SAMPLE)
    size, why = choose_vocab_size(tokenizer, list(text.training_texts(every, lambda count: None)))
    return shortened(tokenizer, size), [*notes, why]


def sample_step(total_bytes: int) -> int:
    """Of how many documents one is taken to train a tokenizer on text of this size.

    >>> sample_step(300_000_000), sample_step(300_000_001), sample_step(2_000_000_000)
    (1, 2, 7)
    """
    return max(1, -(-total_bytes // SAMPLE_BYTES))


def held_out_folder(cache: Path, split_fingerprint: str, *, test: bool = False) -> Path:
    """Return where the held-out documents of a text are kept, or those that are set aside as a test."""
    return cache / "held_out" / content_key(split_fingerprint, reading_code(), *["test"] * test)


def keep_held_out(text: CorpusText, cache: Path, split_fingerprint: str, *, test: bool) -> None:
    """Write the held-out documents, and those that are set aside, where `kept_held_out` finds them."""
    for is_test, documents in ((False, text.held_out), *([(True, text.test)] if test else [])):
        folder = held_out_folder(cache, split_fingerprint, test=is_test)
        if read_store(folder) is None:
            with Building(folder) as temporary:
                TextShards(temporary).write(documents(), text.rules)
                seal_store(temporary, {})


def kept_held_out(
    cache: Path, split_fingerprint: str, *, test: bool = False
) -> tuple[list[Document], dict[str, str]] | None:
    """Held-out documents and rules, None where they were not kept or are damaged."""
    folder = held_out_folder(cache, split_fingerprint, test=test)
    shards = TextShards(folder)
    if read_store(folder) is None or not shards.complete():
        return None
    return list(shards.everything()), shards.rules


def unfinished(cache: Path, split_fingerprint: str) -> Path:
    """Return where the parts of a text's preparation wait for the rest, also after a kill."""
    return cache / "unfinished" / content_key(split_fingerprint, reading_code(), SHARD_CHARACTERS)


@contextmanager
def clearing_up(cache: Path, split_fingerprint: str) -> Iterator[None]:
    """Remove the text's unfinished parts when all is done or the text cannot be used.

    They stay where the work was broken off (a kill, Ctrl-C, a lost worker): the next start goes on from them.
    """
    folder = unfinished(cache, split_fingerprint)
    try:
        yield
    except WorkerLost:
        raise
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def cache_lock(cache: Path, key: str) -> BaseFileLock:
    """Return two processes that prepare the same text: the second waits and finds it done.

    Raises:
        ConfigError: The cache cannot be written.
    """
    from filelock import FileLock

    try:
        (cache / "locks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data.cache_dir: {cache} cannot be written: {error}. Set data.cache_dir.") from error
    return FileLock(str(cache / "locks" / f"{key[:32]}.lock"))
