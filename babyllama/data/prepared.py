"""What a training needs of its text."""

from __future__ import annotations

import difflib
import hashlib
import marshal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.common.cache_folders import content_key, read_store, seal_store
from babyllama.common.errors import ConfigError
from babyllama.common.file_hashes import file_hash
from babyllama.common.files import Building, read_json, write_text_atomic
from babyllama.config.run_layout import TRAINING_METRICS
from babyllama.config.schema import DataConfig
from babyllama.data import sources
from babyllama.data.documents import END_OF_TEXT, Document, explain_rule
from babyllama.data.token_store import TokenSplit, document_hashes, reading_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_DOMAIN_LINES = 12  # a corpus of 1,500 small files had 1,500 lines


@dataclass
class PreparedData:
    """What a training needs of its text.

    Attributes:
        tokenizer: Trained on the training text, or the given one.
        train: Training documents as memory-mapped tokens.
        valid: Held-out documents.
        fingerprint: Hash of files, cleaners, split and tokenizer.
        split_fingerprint: Hash of files, cleaners and split only: equal for runs that share a held-out set.
        rules: Domain -> rule by which documents were told apart.
        cache_dir: Where the tokens lie.
        notes: Lines for the user.
        read_set_aside: Function that reads the held-out documents and those of `data.test`.
        source_nats: Exact -log probability of the held-out documents where the source is known, else None.
        from_cache: Nothing had to be built.
        seconds: Time it took.
    """

    tokenizer: PreTrainedTokenizerFast
    train: TokenSplit
    valid: TokenSplit
    fingerprint: str
    split_fingerprint: str
    rules: dict[str, str]
    cache_dir: Path
    read_set_aside: Callable[[], tuple[list[Document], list[Document]]]
    notes: list[str] = field(default_factory=list)
    source_nats: float | None = None
    from_cache: bool = False
    seconds: float = 0.0

    @cached_property
    def _set_aside(self) -> tuple[list[Document], list[Document]]:
        return self.read_set_aside()

    @property
    def held_out_documents(self) -> list[Document]:
        """The held-out documents in the order of `valid`, read once."""
        return self._set_aside[0]

    @property
    def test_documents(self) -> list[Document]:
        """The documents that `data.test` sets aside, read once."""
        return self._set_aside[1]

    @property
    def origin(self) -> str:
        """Where the tokens came from, in words."""
        return "from the cache" if self.from_cache else "prepared"

    @property
    def train_words(self) -> int:
        """Words of the training documents."""
        return int(self.train.words.sum())

    @cached_property
    def held_out_in_training(self) -> int:
        """Held-out documents that stand word for word among the training documents, counted."""
        return int(np.isin(document_hashes(self.valid), document_hashes(self.train)).sum())


def cleaner_names(cleaners: dict[str, Any]) -> list[str]:
    """Return what tells one set of cleaning rules from another: domain and function, a user's own by its source."""
    return sorted(
        f"{name}:{getattr(cleaner, '__qualname__', type(cleaner).__qualname__)}{_own_source(cleaner)}"
        for name, cleaner in cleaners.items()
    )


def _own_source(cleaner: object) -> str:
    """SHA-256 of the file that a cleaner of the user's own stands in, or of its code; nothing for one of ours."""
    module = getattr(cleaner, "__module__", None) or type(cleaner).__module__
    if module.split(".")[0] == "babyllama":
        return ""
    code = getattr(cleaner, "__code__", None) or getattr(type(cleaner).__call__, "__code__", None)
    path = Path(code.co_filename) if code is not None else Path()
    if path.is_file():
        return ":" + hashlib.sha256(path.read_bytes()).hexdigest()
    return ":" + hashlib.sha256(marshal.dumps(code) if code is not None else repr(cleaner).encode()).hexdigest()


def path_content(path: str, split: str, cache: Path, data: DataConfig) -> list[Any]:
    """Return what a path's text is: names and SHA-256 of its files, or the generator's version and sizes."""
    if path == "synthetic":
        from babyllama.data.synthetic import SYNTHETIC_VERSION

        return ["synthetic", SYNTHETIC_VERSION, data.synthetic_words, data.synthetic_seed, split]
    if path.startswith("hf:"):
        local = Path(path.removeprefix("hf:").partition(":")[0]).expanduser()
        if not local.is_dir():
            return [path, split]  # the hub's own cache holds the content; a data set's name is taken at its word
        files = sorted(file for file in local.rglob("*") if file.is_file())
        return [path, split, *((str(file.relative_to(local)), file_hash(file, cache / "hashes")) for file in files)]
    return [(f.name, file_hash(f, cache / "hashes")) for f in sources.find_files(path, split, path_key(split))]


def document_notes(rules: dict[str, str], inner_marks: int = 0) -> list[str]:
    """Say how documents are told apart: a line a domain, or a line a rule where there are many domains.

    Args:
        rules: Domain -> rule.
        inner_marks: Marks between documents that stand inside lines, counted.
    """
    if inner_marks:
        told = (
            f"{inner_marks:,} times {END_OF_TEXT} stands inside a line: there it is text, which the model learns to "
            f"write. On lines of their own they part documents: sed 's/{END_OF_TEXT}/\\n&\\n/g'"
        )
        return [*document_notes(rules), told]
    if len(rules) <= MOST_DOMAIN_LINES:
        return [f"documents of {domain}: {explain_rule(rule)}" for domain, rule in rules.items()]
    counts = Counter(rules.values())
    return [f"documents of {count:,} of {len(rules):,} files: {explain_rule(rule)}" for rule, count in counts.items()]


def path_key(split: str) -> str:
    """Return the configuration's key of a split's path, for messages."""
    return "data.train_path" if split == "train" else "data.eval_path"


def missing_tokenizer(path: Path) -> ConfigError:
    """Return the error about a tokenizer that is not there, with the nearest name beside it."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
    hint = f"did you mean {path.parent / near[0]}? " if near else ""
    return ConfigError(
        f"data.tokenizer_path: {path}: no such file or folder; {hint}"
        "To train one on this text and keep it there: data.tokenizer_output."
    )


def find_tokenizer(
    data: DataConfig, cache: Path, split: str, train: Callable[[], PreTrainedTokenizerFast]
) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Return the tokenizer of `data.tokenizer_path`, or one that is trained once and cached, and lines for the user.

    Args:
        data: The configuration's section.
        cache: The cache folder.
        split: The text's `split_fingerprint`, of which the tokenizer's key is made.
        train: Trains a tokenizer on the text.

    Raises:
        ConfigError: The tokenizer is not there or cannot be used.
    """
    from babyllama.data.tokenizer import load_tokenizer, save_tokenizer

    # A given one.
    given, output = data.tokenizer_path, data.tokenizer_output
    path = Path(given or output).expanduser() if given or output else None
    if given and not path.exists():
        raise missing_tokenizer(path)
    if path is not None and path.exists():
        tokenizer = load_tokenizer(path)
        foreign = tokenizer_text(path) != split
        return tokenizer, [f"tokenizer: {path} was trained on other text than this run's"] if foreign else []

    # The text's own, from the cache or trained now.
    prefix = ["prefix space"] * data.prefix_space
    folder = cache / "tokenizers" / content_key(split, reading_code(), data.vocab_size, *prefix)
    if read_store(folder) is not None:
        tokenizer = load_tokenizer(folder)
    else:
        tokenizer = train()
        with Building(folder) as temporary:
            save_tokenizer(tokenizer, temporary)
            seal_store(temporary, {})
    if path is not None:
        keep_tokenizer(tokenizer, path, split)
    return tokenizer, []


def keep_tokenizer(tokenizer: PreTrainedTokenizerFast, path: Path, split: str) -> None:
    """Save a tokenizer as a folder or as one *.json file, and beside it what it was trained on.

    Args:
        tokenizer: Tokenizer trained on the text.
        path: Folder or *.json file.
        split: The text's `split_fingerprint`.
    """
    if path.suffix == ".json":
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.backend_tokenizer.save(str(path))
    else:
        tokenizer.save_pretrained(str(path))
    write_text_atomic(_text_record(path), split + "\n")


def _text_record(path: Path) -> Path:
    return path.with_name(f"{path.name}.trained_on.txt") if path.suffix == ".json" else path / "trained_on.txt"


def tokenizer_text(path: Path) -> str | None:
    """Return the `split_fingerprint` of the text that a tokenizer was trained on; None where that is not known.

    Args:
        path: Folder or *.json file of `keep_tokenizer`, or the folder of a finished run.
    """
    try:
        if (path / TRAINING_METRICS).is_file():
            return read_json(path / TRAINING_METRICS).get("split_fingerprint")
        return _text_record(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError, AttributeError):
        return None
