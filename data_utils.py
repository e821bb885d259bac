"""From text to chunks of tokens: read, clean, split into documents, train a tokenizer, tokenize, chunk, cache.

    from babyllama.config.schema import DataConfig
    from data_utils import DataProcessor

    data = DataProcessor(DataConfig(train_path="my_texts/")).prepare_dataset()
    data["train"][0]["input_ids"]

`prepare_dataset` gives a `datasets.DatasetDict` of chunks for a loop of your own; the training itself uses `prepare`,
whose memory-mapped tokens feed `babyllama.data.packing.PackedDataset`. The result is cached under a key made of the
files' content, the tokenizer and the code that reads and cleans; a second run starts in about a second.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.cache_folders import cache_home, content_key, read_store, remember_large, seal_store
from babyllama.common.console import transfer
from babyllama.common.disk_space import check_space
from babyllama.common.errors import ConfigError, DataError
from babyllama.common.files import Building
from babyllama.common.process_pool import worker_count
from babyllama.config.schema import DataConfig
from babyllama.data import sources
from babyllama.data.cleaners import (
    CLEANER_VERSION,
    DomainCleaners,
    create_cleaner_registry,
    spell_turns,
    spelling_key,
)
from babyllama.data.corpus import (
    CorpusText,
    Source,
    cache_lock,
    clearing_up,
    keep_held_out,
    kept_held_out,
    train_on,
    unfinished,
)
from babyllama.data.documents import Document
from babyllama.data.held_out.rule import SplitRule
from babyllama.data.prepared import PreparedData, cleaner_names, document_notes, find_tokenizer, path_content, path_key
from babyllama.data.splits import at_most_words, bounded_share
from babyllama.data.text_shards import HELD, TEST, TRAIN
from babyllama.data.token_build import build_splits
from babyllama.data.token_store import TokenSplit, open_split, reading_code, write_split

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

__all__ = ["DataProcessor", "DomainCleaners", "PreparedData", "clean_folder", "create_cleaner_registry"]

DISK_SHARE = 2  # of the files' size: cleaned text, pieces of tokens and the tokens, before all but the last go


class DataProcessor:
    """The data path of one configuration.

    Args:
        data: The config's `data` section.
        cleaners: Rules per domain; subclass DomainCleaners to change one.
    """

    def __init__(self, data: DataConfig, cleaners: DomainCleaners | None = None) -> None:
        self.data = data
        self.cleaners = create_cleaner_registry(cleaners)
        self.rules: dict[str, str] = {}
        self.notes: list[str] = []
        self._text: CorpusText | None = None

    # Reading

    def load_text_files(self, path: str, split: str = "train") -> list[Document]:
        """Cleaned documents of a path.

        Args:
            path: Folder, file, glob, `synthetic` or `hf:org/name[:config]`.
            split: `train` or `eval`: which files of a folder are meant.

        Raises:
            DataError: Nothing is there, or it cannot be read; the line says what, where and what to do.
        """
        return list(self._documents(path, split))

    def clean_text(self, text: str, domain: str = "default") -> str:
        """Return a text cleaned by its domain's rules, and freed of speaker labels where the config says so."""
        if self.data.clean:
            text = self.cleaners.get(domain, self.cleaners["default"])(text)
        return spell_turns(text, domain, self.data, known=domain in self.cleaners).strip("\n")

    def _documents(self, path: str, split: str) -> Iterator[Document]:
        return self._cleaned(self._read(path, split))

    def _cleaned(self, documents: Iterable[tuple[Document, bool]]) -> Iterator[Document]:
        for document, clean in documents:
            text = self.clean_text(document.text, document.domain) if clean else document.text
            if text.strip():
                yield Document(text, document.domain, document.source)

    def _read(self, path: str, split: str) -> Iterator[tuple[Document, bool]]:
        """Yield documents as they are, each with whether it is to be cleaned."""
        if path == "synthetic":
            yield from ((document, False) for document in self._synthetic(split))
            return
        if path.startswith("hf:"):
            names = {"train": "train", "eval": "validation"}
            bound, key = self.data.max_words if split == "train" else None, self.data.text_key
            yield from ((document, False) for document in sources.hub_documents(path, names[split], bound, key))
            return
        for file in sources.find_files(path, split, path_key(split)):
            yield from self._read_file(file)

    def _read_file(self, file: Path) -> Iterator[tuple[Document, bool]]:
        rule, documents = sources.read_documents(file, self.data.encoding_errors, self.data.text_key)
        self.rules[sources.domain_of_file(file)] = rule
        clean = not sources.is_record_file(file)
        yield from ((document, clean) for document in documents)

    def _synthetic(self, split: str) -> Iterator[Document]:
        from babyllama.data import synthetic

        self.rules["synthetic"] = "as generated"
        seed = self.data.synthetic_seed
        made = (
            synthetic.generate_documents(self.data.synthetic_words, seed)
            if split == "train"
            else synthetic.held_out(seed)
        )
        for document in made:
            yield Document(document.text, "synthetic", "synthetic")

    # Splitting

    def _own_eval_path(self) -> str | None:
        """Return the path whose held-out files are used, None where documents of the training text are held out."""
        if self.data.eval_path:
            return self.data.eval_path
        path = self.data.train_path
        return path if path == "synthetic" or sources.has_dev_files(path) else None

    def _bounded(self, share: float) -> float:
        """A share of the documents to set aside, less of a very large text (`splits.bounded_share`)."""
        return bounded_share(share, sources.total_bytes(self.data.train_path, "train") or 0)

    def _split_rule(self) -> SplitRule:
        """Return which documents of the training text are held out, and which are set aside as a test."""
        share = self._bounded(self.data.holdout) if self._own_eval_path() is None else 0.0
        sizes = sources.file_sizes(self.data.train_path) if self.data.holdout_by == "file" else {}
        return SplitRule(share, self._bounded(self.data.test), self.data.holdout_by, sizes)

    def _parts(self, wanted: int) -> Iterator[Document]:
        """Read the training text anew: its documents of one mark."""
        documents = self._documents(self.data.train_path, "train")
        return (document for document, mark in self._split_rule().parts(documents) if mark == wanted)

    def train_documents(self) -> Iterator[Document]:
        """Training documents in their files' order, bounded by data.max_words."""
        yield from at_most_words(self._parts(TRAIN), self.data.max_words)

    def held_out_documents(self, split: str | None = None, *, test: bool = False) -> list[Document]:
        """Held-out documents, the same in the same order as `prepare().valid`; never trained on.

        `prepare` keeps them in the cache; without it, or where they are damaged, the text is read again.

        Args:
            split: The `split_fingerprint` of a preparation, where the files may have changed since; None: as they are.
            test: Give what `data.test` sets aside instead: no training sees it and nothing is chosen by it.

        Raises:
            ConfigError: A test is asked for, and no share was set aside.
        """
        if test and not self.data.test:
            raise ConfigError("data.test: this run has set no test share aside; train with --set data.test=0.05")
        kept = kept_held_out(self.cache_dir(), split or self.split_fingerprint(), test=test)
        if kept is not None:
            self.rules.update(kept[1])
            return kept[0]
        path = self._own_eval_path()
        if test or path is None:
            return list(self._parts(TEST if test else HELD))
        return self.load_text_files(path, "eval")

    def set_aside(self, split: str) -> tuple[list[Document], list[Document]]:
        """Return held-out documents and those of `data.test` (none where there is no such share).

        Args:
            split: The `split_fingerprint` of a preparation.
        """
        return self.held_out_documents(split), self.held_out_documents(split, test=True) if self.data.test else []

    def _corpus_text(self, cache: Path, split: str) -> CorpusText:
        """Return the text as marked shards, made once; the held-out documents go to their own place in the cache."""
        if self._text is not None:
            return self._text
        folder = unfinished(cache, split) / "text"
        text = CorpusText(folder, self.clean_text, worker_count(self.data.num_proc))
        own = self._own_eval_path()
        size = sources.total_bytes(self.data.train_path, "train") or 0
        check_space(cache, DISK_SHARE * size, f"preparing {self.data.train_path}", "set data.cache_dir")
        text.collect(
            self._source(self.data.train_path, "train"),
            None if own is None else self._source(own, "eval"),
            rule=self._split_rule(),
            max_words=self.data.max_words,
        )
        self.rules = text.rules
        keep_held_out(text, cache, split, test=self.data.test > 0)
        self._text = text
        return text

    def _source(self, path: str, split: str) -> Source:
        rules: dict[str, str] = {}

        def documents() -> Iterator[tuple[Document, bool]]:
            self.rules = rules
            return self._read(path, split)

        return Source(documents, rules, sources.total_bytes(path, split), repeatable=not path.startswith("hf:"))

    # Tokenizing

    def split_fingerprint(self) -> str:
        """Return SHA-256 of files' content, cleaners and split: what the documents depend on."""
        data = self.data
        parts: list[Any] = [CLEANER_VERSION, data.clean, data.speaker_labels, data.encoding_errors, data.max_words]
        parts += [data.text_key] if data.text_key != "text" else []
        parts += spelling_key(data)
        parts += [cleaner_names(self.cleaners), path_content(data.train_path, "train", self.cache_dir(), data)]
        parts += [data.holdout_by, data.test] if data.holdout_by != "document" or data.test else []
        path = self._own_eval_path()
        parts += [self._bounded(data.holdout)] if path is None else [path_content(path, "eval", self.cache_dir(), data)]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def train_or_load_tokenizer(self, cache: Path, split: str) -> PreTrainedTokenizerFast:
        """Return the tokenizer of `data.tokenizer_path`, or one trained on the training text and cached.

        Args:
            cache: The cache folder.
            split: The text's `split_fingerprint`, of which the tokenizer's key is made.
        """
        tokenizer, notes = find_tokenizer(self.data, cache, split, lambda: self._train_tokenizer(cache, split))
        self.notes += notes
        return tokenizer

    def _train_tokenizer(self, cache: Path, split: str) -> PreTrainedTokenizerFast:
        text = self._corpus_text(cache, split)
        if not text.train.total("words", TRAIN):
            raise DataError(f"data.train_path: {self.data.train_path}: no text in it (empty, or only white space)")
        tokenizer, notes = train_on(text, self.data.vocab_size, prefix_space=self.data.prefix_space)
        self.notes += notes
        return tokenizer

    def prepare(self) -> PreparedData:
        """Return documents, tokenizer and tokens, from the cache where they are there.

        Raises:
            DataError: The text cannot be used.
            ConfigError: The tokenizer cannot be used.
        """
        from babyllama.data.tokenizer import tokenizer_fingerprint

        started = time.perf_counter()
        cache = self.cache_dir()
        split = self.split_fingerprint()
        # Tokens from the cache, or made now; one process at a time.
        with cache_lock(cache, split), clearing_up(cache, split):
            tokenizer = self.train_or_load_tokenizer(cache, split)
            fingerprint = content_key(split, tokenizer_fingerprint(tokenizer))
            folder = cache / "tokens" / content_key(fingerprint, reading_code())
            meta = read_store(folder)
            from_cache = meta is not None
            if meta is None:
                if folder.exists():
                    self.notes.append(f"cache: {folder} was damaged or incomplete, built anew")
                meta = self._build(cache, split, folder, tokenizer)
        # Map them, and say what was found.
        train, valid = open_split(folder, "train"), open_split(folder, "valid")
        self._check_sizes(train, valid)
        return PreparedData(
            tokenizer=tokenizer,
            train=train,
            valid=valid,
            fingerprint=fingerprint,
            split_fingerprint=split,
            rules=meta["rules"],
            cache_dir=folder,
            read_set_aside=partial(self.set_aside, split),
            notes=[
                *self.notes,
                *sources.left_out(self.data.train_path, own_eval=self.data.eval_path is None),
                *document_notes(meta["rules"], meta["inner_marks"]),
            ],
            source_nats=self._source_nats(),
            from_cache=from_cache,
            seconds=time.perf_counter() - started,
        )

    def _build(self, cache: Path, split: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        text = self._corpus_text(cache, split)
        pieces = unfinished(cache, split) / "pieces" / folder.name
        size = sum(selection.shards.total("bytes", selection.mark) for selection in text.selections())
        with Building(folder) as temporary:
            with transfer("tokenizing", size) as seen:
                build_splits(temporary, pieces, text.selections(), tokenizer, text.processes, seen)
            self._check_sizes(open_split(temporary, "train"), open_split(temporary, "valid"))
            meta = seal_store(temporary, {"rules": text.rules, "inner_marks": text.inner_marks})
        remember_large(folder, meta)
        self._text = None
        return meta

    def _check_sizes(self, train: TokenSplit, valid: TokenSplit) -> None:
        for split, key, path in (
            (train, "data.train_path", self.data.train_path),
            (valid, "data.eval_path", self.data.eval_path or self.data.train_path),
        ):
            if len(split.tokens) - 2 * (len(split.starts) - 1) < 2:
                raise DataError(f"{key}: {path}: fewer than two tokens of text: there is nothing to learn from")

    def _source_nats(self) -> float | None:
        if self._own_eval_path() != "synthetic":
            return None
        from babyllama.data import synthetic

        return sum(document.nats for document in synthetic.held_out(self.data.synthetic_seed))

    def cache_dir(self) -> Path:
        """`data.cache_dir`, else the user's cache folder."""
        return Path(self.data.cache_dir).expanduser() if self.data.cache_dir else cache_home()

    # Chunks as a datasets.Dataset

    def tokenize_and_chunk(self, documents: Sequence[Document | str], tokenizer: PreTrainedTokenizerFast) -> Dataset:
        """Return chunks of `data.seq_length` tokens: input_ids and labels, -100 where the last one is padded.

        Args:
            documents: Documents or plain strings, joined in order as `<s> ... </s>`; nothing is dropped.
            tokenizer: Tokenizer of `prepare` or `load_tokenizer`.
        """
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            made = [d if isinstance(d, Document) else Document(d, "default") for d in documents]
            write_split(Path(name), "all", made, tokenizer)
            return self._as_dataset(open_split(Path(name), "all"), tokenizer)

    def prepare_dataset(self) -> DatasetDict:
        """`train` and `validation` as chunks (documents in order, cut points fixed), for a loop of your own."""
        from datasets import DatasetDict

        data = self.prepare()
        splits = {"train": data.train, "validation": data.valid}
        return DatasetDict({name: self._as_dataset(split, data.tokenizer) for name, split in splits.items()})

    def _as_dataset(self, split: TokenSplit, tokenizer: PreTrainedTokenizerFast) -> Dataset:
        from babyllama.data.packing import as_dataset

        return as_dataset(split, self.data.seq_length, pad_id=tokenizer.pad_token_id or 0)


def raw_documents(paths: Sequence[str]) -> list[Document]:
    """Return documents of evaluation texts given by path, as they are: not cleaned."""
    processor = DataProcessor(DataConfig(clean=False))
    return [document for path in paths for document in processor.load_text_files(path, "eval")]


def clean_folder(path: str, output: Path, split: str, domains: set[str] | None, speaker_labels: str) -> Iterator[str]:
    """Clean each text file of a path into `output/<domain>.<split>` (babyllama/corpus/prepare.py).

    Args:
        path: A folder, file or glob of text.
        output: The folder to write.
        split: `train` or `dev`.
        domains: Clean only these; the others are copied as read. None: all.
        speaker_labels: `keep` or `remove`.

    Yields:
        A line per file written, and a line about what is left out.
    """
    from babyllama.corpus.prepare import prepare_folder

    def read(file: Path, clean: bool) -> Iterator[Document]:
        processor = DataProcessor(DataConfig(clean=clean, speaker_labels=speaker_labels if clean else "keep"))
        return processor._cleaned(processor._read_file(file))

    yield from prepare_folder(path, output, split, domains, read)
