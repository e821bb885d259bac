"""What a training needs of its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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
        fingerprint: Of files, cleaners, split and tokenizer.
        split_fingerprint: Of files, cleaners and split only: equal for runs that share a held-out set.
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
