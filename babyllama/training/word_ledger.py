"""The word ledger: which text a model, its tokenizer and its teachers have seen, in words and bytes over the premium.

Word budgets (BabyLM's and others') count the raw text as it stands in the files, before cleaning, and everything that
saw text. The ledger lists the training files with their hashes and words, the words per domain, the epochs and the
words shown, and the same of every teacher, as far as its own record says. It is written into training_metrics.json.

Beside words stand bytes, and bytes over the byte premium of each domain's language (babyllama/data/languages): a budget
in words means little in Finnish and nothing in Chinese.
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
from babyllama.data.languages.content import content, total_over_premium
from babyllama.data.sources import domain_of_file, find_files, is_record_file, read_documents, read_lines
from babyllama.data.words import count_words

if TYPE_CHECKING:
    from babyllama.data.prepared import PreparedData

OWN_TEXT = "the training text"
LEDGER = "ledger"
MOST_DOMAINS = 30  # above, all are taken together: a corpus of 1,500 files has as many domains
SAMPLE_DOCUMENTS, SAMPLE_TOKENS = 50, 200  # of a domain, to tell its language


def raw_words(path: Path, errors: str = "strict", key: str = "text") -> int:
    """Words of a file as it stands, markup and labels included; as `wc -w` counts them in scripts with spaces.

    Args:
        path: The file.
        errors: See `sources.read_lines`.
        key: Name of the key or column that holds the text, where the file has names.

    Raises:
        DataError: The file cannot be read.
    """
    if is_record_file(path):
        return sum(count_words(document.text) for document in read_documents(path, errors, key)[1])
    return sum(count_words(line) for line in read_lines(path, errors))


def training_files(config: Config) -> list[dict[str, Any]]:
    """Name, domain, SHA-256 and raw words of each training file; empty for the embedded corpus and the hub."""
    source = config.data.train_path
    if source == "synthetic" or source.startswith("hf:"):
        return []
    records = cache_home() / "files"
    return [
        {
            "name": path.name,
            "domain": domain_of_file(path),
            "sha256": file_hash(path, records),
            "words": raw_words(path, config.data.encoding_errors, config.data.text_key),
        }
        for path in find_files(source, "train")
    ]


def words_by_domain(data: PreparedData) -> dict[str, int]:
    """Return words of the training documents by domain, after cleaning and without what is held out."""
    split = data.train
    counts = np.bincount(split.domain_ids, weights=split.words, minlength=len(split.domains))
    return {name: int(count) for name, count in zip(split.domains, counts, strict=True)}


def content_by_domain(data: PreparedData) -> dict[str, dict[str, Any]]:
    """Return bytes, language, script and bytes over the byte premium of the training documents of each domain.

    Of more than MOST_DOMAINS domains all are taken together, under the name `*`.
    """
    split = data.train
    together = len(split.domains) > MOST_DOMAINS
    found = {}
    for number, name in enumerate(["*"] if together else split.domains):
        documents = np.arange(len(split.bytes)) if together else np.flatnonzero(split.domain_ids == number)
        found[name] = content(int(split.bytes[documents].sum()), _sample(data, documents))
    return found


def _sample(data: PreparedData, documents: np.ndarray) -> list[str]:
    """Return beginnings of evenly spread documents."""
    split = data.train
    chosen = documents[:: max(1, len(documents) // SAMPLE_DOCUMENTS)][:SAMPLE_DOCUMENTS]
    spans = [(int(split.starts[d]) + 1, int(split.starts[d + 1]) - 1) for d in chosen.tolist()]  # without <s>, </s>
    return [data.tokenizer.decode(split.tokens[a : min(a + SAMPLE_TOKENS, b)].tolist()) for a, b in spans]


def word_ledger(
    config: Config, data: PreparedData, epochs: float, words_seen: int, most_passes: float | None = None
) -> dict[str, Any]:
    """Assemble the ledger of a run.

    Args:
        config: Run configuration.
        data: Prepared text of the run.
        epochs: Passes over the training text.
        words_seen: Words shown in training, repetitions counted.
        most_passes: Passes over the domain that a mixture repeats most; None: all are read alike.

    Returns:
        domains (words trained on), words, content (bytes, language and bytes over premium by domain), bytes,
        bytes_over_premium, files, raw_words (None where the text is in no files), epochs, most_passes, words_seen,
        tokenizer, init_from and teachers.
    """
    files, domains, contents = training_files(config), words_by_domain(data), content_by_domain(data)
    teachers = config.distillation.teachers if config.distillation else []
    return {
        "source": config.data.train_path if not files else None,
        "domains": domains,
        "words": sum(domains.values()),
        "content": contents,
        "bytes": sum(figures["bytes"] for figures in contents.values()),
        "bytes_over_premium": total_over_premium(contents),
        "files": files,
        "raw_words": sum(entry["words"] for entry in files) if files else None,
        "epochs": epochs,
        "most_passes": epochs if most_passes is None else most_passes,
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
