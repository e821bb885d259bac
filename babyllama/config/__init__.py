"""The configuration: keys, strict YAML, checks between keys, flags, the fingerprint, names of a run and its files.

This room imports only from common. `from babyllama.config import load_config` is what users write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def __getattr__(name: str) -> Callable[..., Any]:
    """Hand on `load_config` and `save_config` when they are asked for: pydantic takes a third of `--help`'s time."""
    if name in {"load_config", "save_config"}:
        from babyllama.config import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
