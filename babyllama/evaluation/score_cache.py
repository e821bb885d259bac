"""Scores kept by content, so that adding one run to a comparison scores only that one.

The key is made of the checkpoint's files (weights, config, tokenizer), of what was scored and how, of the source of the
code that scores (plugins among it) and of the libraries' versions: change any of them and the score is made anew.
Entries are small gzipped JSON files under the user's cache folder; one that cannot be read is a miss.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from babyllama.common.cache_folders import cache_home
from babyllama.common.files import atomic_path, sha256_of, to_json
from babyllama.config.run_layout import GENERATION_CONFIG, MODEL_CONFIG
from babyllama.plugins import loaded_sources

# What makes a score, from the package's root: whole rooms, so that a new module needs no entry here.
SCORING_SOURCES = (
    *("evaluation/**/*.py", "data/**/*.py", "data/languages/*", "models/**/*.py", "common/scripts.py"),
    *(
        "../evaluate.py",
        "../benchmark.py",
        "../data_utils.py",
        "app/evaluate.py",
        "app/benchmark.py",
        "app/data_utils.py",
    ),
)
SCORING_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "regex", "scipy")
WEIGHT_FILES = (
    *("*.safetensors", "*.safetensors.index.json", MODEL_CONFIG, GENERATION_CONFIG, "tokenizer*", "vocab*"),
    *("merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model"),
)


@lru_cache
def _source_and_libraries() -> str:
    package = Path(__file__).parents[1]
    files = sorted(path for pattern in SCORING_SOURCES for path in package.glob(pattern) if path.is_file())
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in files))
    digest.update(repr([(name, metadata.version(name)) for name in SCORING_LIBRARIES]).encode())
    return digest.hexdigest()


def scoring_version() -> str:
    """Return a name for everything that makes scores: our source, the libraries' versions, the plugins' source."""
    return hashlib.sha256(repr([_source_and_libraries(), loaded_sources()]).encode()).hexdigest()


def checkpoint_content(folder: Path) -> str:
    """Return SHA-256 over names and content of the files that decide what a checkpoint answers."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in WEIGHT_FILES for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name}\0{sha256_of(path)}\0".encode())
    return digest.hexdigest()


class ScoreCache:
    """Scores of checkpoints under their keys.

    Args:
        enabled: False: nothing is read or written.
        folder: Where; None: the user's cache folder.
    """

    def __init__(self, enabled: bool = True, folder: Path | None = None) -> None:
        self.enabled = enabled
        self.folder = folder or cache_home() / "scores"
        self.hits = 0

    def _path(self, content: str, task: str, options: object) -> Path:
        key = hashlib.sha256(to_json([scoring_version(), content, task, options], indent=None).encode()).hexdigest()
        return self.folder / f"{key}.json.gz"

    def get(self, content: str, task: str, options: object) -> dict[str, Any] | None:
        """Return what `put` stored for the same content, task and options; None where there is nothing."""
        path = self._path(content, task, options)
        if not self.enabled or not path.is_file():
            return None
        try:
            found = json.loads(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, ValueError):
            return None
        self.hits += 1
        return found

    def put(self, content: str, task: str, options: object, value: dict[str, Any]) -> None:
        """Store a score; a folder that cannot be written is no error, the score is then made again next time."""
        if not self.enabled:
            return
        try:
            with atomic_path(self._path(content, task, options)) as temporary:
                stored = to_json(value, indent=None).encode("utf-8", "backslashreplace")
                temporary.write_bytes(gzip.compress(stored, mtime=0))
        except OSError:
            self.enabled = False
