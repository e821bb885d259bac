"""What a user's own Python file can add: architectures, cleaners, evaluation tasks.

A plugin is a plain Python file named in the config (`plugins: [my_experiment.py]`) or on the command line
(`--plugin FILE`). It calls the functions below when it is imported. Only a file that the user named is ever run: a
path found inside a checkpoint is not.

    # my_experiment.py
    from babyllama.plugins import register_architecture

    def create_custom_model(config, tokenizer):
        ...
        return model

    register_architecture("MyModel", create_custom_model)
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from babyllama.errors import ConfigError

ARCHITECTURES: dict[str, Callable[..., Any]] = {}
"""Name -> builder(config, tokenizer) -> model."""
CLEANERS: dict[str, Callable[[str], str]] = {}
"""Domain (a file's stem) -> cleaner(text) -> text."""
TASKS: dict[str, Callable[..., dict[str, Any]]] = {}
"""Name -> task(evaluator, options) -> results."""
BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {}
"""Name -> benchmark(run) -> figures."""

_LOADED: dict[Path, str] = {}


def register_architecture(name: str, builder: Callable[..., Any]) -> None:
    """Make `model.type: <name>` build a model of the user's own.

    Args:
        name: What the config calls it.
        builder: `builder(config, tokenizer) -> torch.nn.Module`: takes the whole Config and the tokenizer, returns a
            causal language model whose forward takes `input_ids` (B, T) and `labels` (B, T) and gives `.loss`.
    """
    ARCHITECTURES[name] = builder


def register_cleaner(domain: str, cleaner: Callable[[str], str]) -> None:
    """Clean the files whose stem is `domain` by a function of the user's own (pure, line structure kept)."""
    CLEANERS[domain] = cleaner


def register_task(name: str, task: Callable[..., dict[str, Any]]) -> None:
    """Add an evaluation task: `task(evaluator, options) -> dict`, shown in the same report under its name."""
    TASKS[name] = task


def register_benchmark(name: str, function: Callable[..., dict[str, Any]]) -> None:
    """Add a benchmark to comparisons: `function(run) -> figures`; run has .model, .tokenizer and .evaluator."""
    BENCHMARKS[name] = function


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Import the user's files, each once a process.

    Args:
        paths: Python files.

    Raises:
        ConfigError: A file is missing, or raises when it is imported; the line names the file and its error.
    """
    for given in paths:
        path = Path(given).expanduser().resolve()
        if path not in _LOADED:
            _import(path)
            _LOADED[path] = hashlib.sha256(path.read_bytes()).hexdigest()


def plugin_hashes(paths: Iterable[str | Path]) -> dict[str, str]:
    """SHA-256 of each plugin's source by file name: part of a run's fingerprint, for it can change the weights."""
    resolved = [Path(path).expanduser().resolve() for path in paths]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in resolved}


def _import(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"plugins: {path}: no such file. Give the path of a Python file.")
    name = f"babyllama_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plugins: {path}: not a Python file (its name must end in .py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises is the user's to mend
        del sys.modules[name]
        raise ConfigError(f"plugins: {path} failed on import: {type(error).__name__}: {error}") from error
