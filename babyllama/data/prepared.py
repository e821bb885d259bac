"""What a training needs of its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.file_hashes import file_hash
from babyllama.config.schema import DataConfig
from babyllama.data import sources
from babyllama.data.token_store import TokenSplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
    notes: list[str] = field(default_factory=list)
    source_nats: float | None = None
    from_cache: bool = False
    seconds: float = 0.0

    @property
    def train_words(self) -> int:
        """Words of the training documents."""
        return int(self.train.words.sum())


def cleaner_names(cleaners: dict[str, Any]) -> list[str]:
    """Return what tells one set of cleaning rules from another: domain and function of each."""
    return sorted(f"{name}:{getattr(cleaner, '__qualname__', cleaner)}" for name, cleaner in cleaners.items())


def path_content(path: str, split: str, cache: Path, data: DataConfig) -> list[Any]:
    """Return what a path's text is: names and SHA-256 of its files, or the generator's version and sizes."""
    if path == "synthetic":
        from babyllama.data.synthetic import SYNTHETIC_VERSION

        return ["synthetic", SYNTHETIC_VERSION, data.synthetic_words, data.synthetic_seed, split]
    if path.startswith("hf:"):
        return [path, split]  # the hub's own cache holds the content; a data set's name is taken at its word
    return [(f.name, file_hash(f, cache / "hashes")) for f in sources.find_files(path, split, path_key(split))]


def path_key(split: str) -> str:
    """Return the configuration's key of a split's path, for messages."""
    return "data.train_path" if split == "train" else "data.eval_path"
