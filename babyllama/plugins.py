"""What a user's own Python file can add: architectures, difficulties, callbacks, cleaners, evaluation tasks.

A plugin is a plain Python file named in the config (`plugins: [my_experiment.py]`) or on the command line
(`--plugin FILE`). It calls the functions below when it is imported. Only a file that the user named is ever run: a
path found inside a checkpoint is not, one is only told that it is needed. What a plugin's code raises, wherever it is
called, becomes one line that names its file (`blamed`).

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
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.errors import BabyLlamaError, ConfigError, PluginError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from babyllama.config.schema import Config

ARCHITECTURES: dict[str, Callable[..., Any]] = {}
"""Name -> builder(config, tokenizer) -> model."""
CLEANERS: dict[str, Callable[[str], str]] = {}
"""Domain (a file's stem) -> cleaner(text) -> text."""
TASKS: dict[str, Callable[..., dict[str, Any]]] = {}
"""Name -> task(evaluator, options) -> results."""
BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {}
"""Name -> benchmark(run) -> figures."""
DIFFICULTIES: dict[str, Callable[[Any], float]] = {}
"""Name -> function(document) -> difficulty of a curriculum."""
CALLBACKS: list[Callable[[Any], Any]] = []
"""Factories: factory(config) -> TrainerCallback."""

_LOADED: dict[Path, str] = {}


def register_architecture(
    name: str, builder: Callable[..., Any], model_class: type[PreTrainedModel] | None = None
) -> None:
    """Make `model.type: <name>` build a model of the user's own.

    Args:
        name: What the config calls it.
        builder: `builder(config, tokenizer) -> transformers.PreTrainedModel`: takes the whole Config and the
            tokenizer, returns a causal language model whose forward takes `input_ids` (B, T) and `labels` (B, T) and
            gives `.loss`.
        model_class: The model's class where it is the user's own, with a `config_class` whose `model_type` is its own:
            makes AutoModelForCausalLM load what was saved, wherever this plugin is imported.
    """
    ARCHITECTURES[name] = builder
    if model_class is not None:
        from transformers import AutoConfig, AutoModelForCausalLM

        AutoConfig.register(model_class.config_class.model_type, model_class.config_class, exist_ok=True)
        AutoModelForCausalLM.register(model_class.config_class, model_class, exist_ok=True)


def register_difficulty(name: str, function: Callable[[Any], float]) -> None:
    """Make `curriculum.difficulty: <name>` order the text: `function(document) -> float`, higher is harder.

    A document has `.text` and `.domain`; a chunk's difficulty is the mean over its tokens (difficulty.py).
    """
    DIFFICULTIES[name] = function


def register_callback(factory: Callable[[Any], Any]) -> None:
    """Watch trainings: `factory(config) -> transformers.TrainerCallback`; `args.output_dir` is the run folder."""
    CALLBACKS.append(factory)


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
            before = len(CALLBACKS)
            try:
                _import(path)
            except ConfigError:
                del CALLBACKS[before:]
                raise
            _LOADED[path] = hashlib.sha256(path.read_bytes()).hexdigest()


def loaded_sources() -> list[str]:
    """SHA-256 of the source of every plugin that this process imported, in order."""
    return sorted(_LOADED.values())


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


def require_plugins(paths: Iterable[str | Path], checkpoint: Path) -> None:
    """See that a run's plugins were loaded, for one may clean its held-out text; a moved file is known by its name.

    Raises:
        ConfigError: Those that the user has to name: a path found in a checkpoint is never run.
    """
    names = {path.name for path in _LOADED}
    missing = " ".join(f"--plugin {path}" for path in paths if Path(path).name not in names)
    if missing:
        raise ConfigError(f"{checkpoint}: its run had plugins, which may change its held-out text: add {missing}")


@contextmanager
def blamed(function: Callable[..., Any], doing: str) -> Iterator[None]:
    """Turn what a plugin's function raises into one line.

    Args:
        function: Whose file is named.
        doing: What it was called for.

    Raises:
        ConfigError: With the file, what was being done and the error.
    """
    try:
        yield
    except BabyLlamaError:
        raise
    except Exception as error:  # whatever the user's code raises is the user's to mend
        file = getattr(getattr(function, "__code__", None), "co_filename", None) or _file_of(type(function))
        place = f"{file}{_line_in(file, error)}"
        raise PluginError(f"plugins: {place}: {doing} failed: {type(error).__name__}: {error}") from error


def _line_in(file: str, error: Exception) -> str:
    """`:LINE` of the last frame of an error that lies in a file; nothing where none does."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f":{lines[-1]}" if lines else ""


def _file_of(kind: type) -> str:
    return str(getattr(sys.modules.get(kind.__module__), "__file__", kind.__module__))


def build_own_model(name: str, config: Config, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Build a registered architecture and see that what it saves can be loaded again.

    Raises:
        ConfigError: The builder fails, or AutoModelForCausalLM would load another class, silently.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

    builder = ARCHITECTURES[name]
    with blamed(builder, f"building {name}"):
        model = builder(config, tokenizer)
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"it returned a {type(model).__name__}, not a transformers PreTrainedModel")
        known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model.config), None)
        if known is not type(model):
            instead = f"be loaded as {known.__name__}" if known else "not be loaded"
            raise TypeError(
                f"a saved {type(model).__name__} would {instead}: give it a config class with a model_type of its own "
                "and call register_architecture(name, builder, model_class)"
            )
    return model


def own_callbacks(config: Config) -> list[Any]:
    """Return the registered callbacks; what they raise in a training names their file."""
    from transformers import TrainerCallback

    made = []
    for factory in CALLBACKS:
        with blamed(factory, "making its callback"):
            callback = factory(config)
            if not isinstance(callback, TrainerCallback):
                raise TypeError(f"the factory returned a {type(callback).__name__}, not a TrainerCallback")
        for event in [name for name in dir(TrainerCallback) if name.startswith("on_")]:
            setattr(callback, event, _guarded(getattr(callback, event), event))
        made.append(callback)
    return made


def _guarded(method: Callable[..., Any], event: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> object:
        with blamed(getattr(method, "__func__", method), f"its callback's {event}"):
            return method(*args, **kwargs)

    return call
