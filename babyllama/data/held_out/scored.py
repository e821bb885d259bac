"""Held-out text is text that the model was never trained on.

A run keeps what it held out (kept.py). That is what is scored, whatever became of its corpus since:
a split made anew of a changed text would hold out documents that the model has seen, and the figure would be better
for it. A run without that record is scored on its corpus only as far as the corpus is still the one it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from babyllama.common.console import say
from babyllama.common.errors import BabyLlamaError, ConfigError, DataError
from babyllama.data.documents import Document, documents_fingerprint
from babyllama.data.held_out.kept import KeptText, kept_text, text_hashes
from babyllama.plugins import require_plugins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class CorpusReader(Protocol):
    """What makes the split of a run's corpus again: `data_utils.DataProcessor`."""

    def split_fingerprint(self) -> str:
        """Return the hash of what the split depends on."""

    def held_out_documents(self) -> list[Document]:
        """Return the documents that the split holds out."""


def held_out_documents(
    run_dir: Path,
    metrics: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    processor: CorpusReader,
    plugins: Sequence[str] = (),
    *,
    test: bool = False,
) -> list[Document]:
    """Return the documents that a run held out, or those that it set aside as a test.

    Args:
        run_dir: The run folder.
        metrics: Content of training_metrics.json, empty where the training has not ended.
        tokenizer: Tokenizer of the run.
        processor: The run's DataProcessor (data_utils), which makes the split of its corpus again.
        plugins: The run's, one of which may clean its text: needed only where the run keeps no held-out text.
        test: Give what `data.test` set aside.

    Raises:
        DataError: The run does not tell what it held out, and its corpus is gone or another one.
        ConfigError: A test is asked for, and the run set none aside.
    """
    kept = kept_text(run_dir)
    found = kept and (kept.test if test else kept.documents)
    if found is not None:
        _tell_of_change(metrics.get("split_fingerprint"), None if plugins else processor.split_fingerprint)
        return found
    try:
        require_plugins(plugins, run_dir)
        documents = processor.held_out_documents(test=test)
    except ConfigError:
        raise
    except BabyLlamaError as error:
        raise DataError(f"{error}. {run_dir.name} keeps no held-out text of its own: give --eval-data PATH") from None
    if test:
        return _never_seen(run_dir, documents, kept, tokenizer)
    recorded = metrics.get("held_out_fingerprint")
    if recorded is None or documents_fingerprint(documents) == recorded:
        return documents
    return _still_held_out(run_dir, documents, kept, tokenizer)


def _tell_of_change(recorded: str | None, split_now: Callable[[], str] | None) -> None:
    if recorded is None or split_now is None:
        return
    try:
        changed = "has changed since the training" if split_now() != recorded else ""
    except BabyLlamaError as error:
        changed = f"cannot be read here ({error})"
    if changed:
        say(f"the run's text {changed}: scored are the documents that the run held out, as it kept them")


def _still_held_out(
    run_dir: Path, documents: list[Document], kept: KeptText | None, tokenizer: PreTrainedTokenizerBase
) -> list[Document]:
    """Of a changed text the documents that were held out then."""
    changed = f"{run_dir.name}: its text has changed since the training"
    if kept is None:
        raise DataError(f"{changed}, and the run does not tell what it held out: give --eval-data PATH")
    hashes = text_hashes(tokenizer, [document.text for document in documents])
    same = np.isin(hashes, kept.held_out) & ~np.isin(hashes, kept.trained)
    if not same.any():
        raise DataError(f"{changed}: none of the {len(documents):,} held-out documents is left: give --eval-data PATH")
    say(f"{changed}: {int(same.sum()):,} of {len(documents):,} documents were held out then, these are scored")
    return [document for document, chosen in zip(documents, same, strict=True) if chosen]


def _never_seen(
    run_dir: Path, documents: list[Document], kept: KeptText | None, tokenizer: PreTrainedTokenizerBase
) -> list[Document]:
    """Of a test split made again the documents that the run has neither trained on nor held out."""
    if kept is None:
        raise DataError(f"{run_dir.name}: the run does not tell what it was trained on: give --eval-data PATH")
    hashes = text_hashes(tokenizer, [document.text for document in documents])
    new = ~np.isin(hashes, kept.trained) & ~np.isin(hashes, kept.held_out)
    if not new.any():
        raise DataError(f"{run_dir.name}: its text has changed: no test document is left: give --eval-data PATH")
    return [document for document, chosen in zip(documents, new, strict=True) if chosen]


def trained_on(
    run_dir: Path, tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document], clean: Callable[[str, str], str]
) -> int | None:
    """Count documents on which a run was trained, word for word, as they are or as its cleaning makes them.

    Args:
        run_dir: The run folder.
        tokenizer: Tokenizer of the run.
        documents: Any text.
        clean: `clean(text, domain)` of the run.

    Returns:
        The count; None where the run does not tell what it was trained on.
    """
    kept = kept_text(run_dir)
    if kept is None or not getattr(tokenizer, "is_fast", False):
        return None
    raw = text_hashes(tokenizer, [document.text for document in documents])
    cleaned = text_hashes(tokenizer, [clean(document.text, document.domain) for document in documents])
    return int((np.isin(raw, kept.trained) | np.isin(cleaned, kept.trained)).sum())
