"""The word ledger: which text a model, its tokenizer and its teachers have seen, in whitespace-separated words.

Word budgets (BabyLM's and others') count the raw text as it stands in the files, before cleaning, and everything that
saw text. The ledger lists the training files with their hashes and words, the words per domain, the epochs and the
words shown, and the same of every teacher, as far as its own record says. It is written into training_metrics.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from babyllama.common.cache_folders import cache_home
from babyllama.common.file_hashes import file_hash
from babyllama.common.files import read_json
from babyllama.config.run_layout import TRAINING_CONFIG, TRAINING_METRICS
from babyllama.config.schema import Config
from babyllama.data.cleaners import domain_of
from babyllama.data.sources import find_files, is_record_file, read_documents, read_lines

if TYPE_CHECKING:
    from babyllama.data.prepared import PreparedData

OWN_TEXT = "the training text"
LEDGER = "ledger"


def raw_words(path: Path, errors: str = "strict") -> int:
    """Whitespace-separated words of a file as it stands, markup and labels included.

    Raises:
        DataError: The file cannot be read.
    """
    if is_record_file(path):
        return sum(len(document.text.split()) for document in read_documents(path, errors)[1])
    return sum(len(line.split()) for line in read_lines(path, errors))


def training_files(config: Config) -> list[dict[str, Any]]:
    """Name, domain, SHA-256 and raw words of each training file; empty for the embedded corpus and the hub."""
    source = config.data.train_path
    if source == "synthetic" or source.startswith("hf:"):
        return []
    records = cache_home() / "files"
    return [
        {
            "name": path.name,
            "domain": domain_of(path),
            "sha256": file_hash(path, records),
            "words": raw_words(path, config.data.encoding_errors),
        }
        for path in find_files(source, "train")
    ]


def words_by_domain(data: PreparedData) -> dict[str, int]:
    """Return words of the training documents by domain, after cleaning and without what is held out."""
    split = data.train
    counts = np.bincount(split.domain_ids, weights=split.words, minlength=len(split.domains))
    return {name: int(count) for name, count in zip(split.domains, counts, strict=True)}


def word_ledger(config: Config, data: PreparedData, epochs: float, words_seen: int) -> dict[str, Any]:
    """Assemble the ledger of a run.

    Args:
        config: Run configuration.
        data: Prepared text of the run.
        epochs: Passes over the training text.
        words_seen: Words shown in training, repetitions counted.

    Returns:
        domains (words trained on), words, files, raw_words (None where the text is in no files), epochs, words_seen,
        tokenizer, init_from and teachers.
    """
    files, domains = training_files(config), words_by_domain(data)
    teachers = config.distillation.teachers if config.distillation else []
    return {
        "source": config.data.train_path if not files else None,
        "domains": domains,
        "words": sum(domains.values()),
        "files": files,
        "raw_words": sum(entry["words"] for entry in files) if files else None,
        "epochs": epochs,
        "words_seen": words_seen,
        "tokenizer": _tokenizer_text(config),
        "init_from": model_text(config.model.init_from) if config.model.init_from else None,
        "teachers": [model_text(path) for path in teachers],
    }


def _tokenizer_text(config: Config) -> dict[str, Any]:
    """Return text that the tokenizer was trained on: the run's own, or that of the run in whose folder it lies."""
    path = config.data.tokenizer_path
    if path is None:
        return {"text": OWN_TEXT}
    return {"text": path, **_facts(Path(path).expanduser())}


def model_text(path: str) -> dict[str, Any]:
    """Return text that another model was trained on, as far as its run folder says.

    Args:
        path: A run folder.
    """
    return {"path": path, **_facts(Path(path).expanduser())}


def _facts(folder: Path) -> dict[str, Any]:
    """Known text of a run folder: source, files, words; `known` is False where its record does not say."""
    record = folder / TRAINING_METRICS
    found = read_json(record).get(LEDGER) if record.is_file() else None
    if not found:
        return {"known": False, "is_run": (folder / TRAINING_CONFIG).is_file()}
    keys = ("source", "files", "words", "raw_words", "epochs", "words_seen", "teachers")
    return {"known": True, **{key: found.get(key) for key in keys}}
