"""The root files' classes and functions for a program of your own, from a clone or an install.

    from babyllama.api import BenchmarkSuite, DataProcessor, ModelEvaluator, build_trainer, create_model, train

The root files import each other by plain names (`from data_utils import DataProcessor`), which are theirs only while
they are loaded: afterwards `import evaluate` is HuggingFace's package again. In a process whose path begins with the
root files (a script in a clone, a plugin of the command line) those very modules are handed on, so that no class
exists twice.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from babyllama.app import FOLDER

NAMES = ("data_utils", "evaluate", "benchmark", "train")  # in this order: each imports only from those before it

__all__ = ["BenchmarkSuite", "DataProcessor", "ModelEvaluator", "build_trainer", "create_model", "train"]


def _is_ours(name: str) -> bool:
    """Whether a plain `import name` would give the root file."""
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        spec = find_spec(name)
        origin = spec.origin if spec is not None else None
    return origin is not None and Path(origin).resolve() == (FOLDER / f"{name}.py").resolve()


def _load() -> dict[str, ModuleType]:
    if all(map(_is_ours, NAMES)):
        return {name: import_module(name) for name in NAMES}
    others = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    try:
        for name in NAMES:
            sys.modules[name] = import_module(f"babyllama.app.{name}")
        return {name: sys.modules[name] for name in NAMES}
    finally:
        for name in NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(others)


_modules = _load()
DataProcessor = _modules["data_utils"].DataProcessor
ModelEvaluator = _modules["evaluate"].ModelEvaluator
BenchmarkSuite = _modules["benchmark"].BenchmarkSuite
train = _modules["train"].train
create_model = _modules["train"].create_model
build_trainer = _modules["train"].build_trainer
