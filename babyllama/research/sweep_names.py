"""Name the runs of a sweep after the values that tell them apart, so that folders and tables can be read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from babyllama.common.errors import ConfigError
from babyllama.config.yaml_reader import read_yaml

LONGEST = 40  # characters of one value in a name


def value_text(value: object) -> str:
    """Return a value as YAML reads it back, numbers as short as they go.

    >>> [value_text(v) for v in (0.003, 0.1, 1.37e-05, 6, 250000.0, True, None, "muon", "1e-3", [1, 2])]
    ['3e-3', '0.1', '1.37e-5', '6', '2.5e+5', 'true', 'null', 'muon', '"1e-3"', '[1, 2]']
    """
    if isinstance(value, float):
        plain = repr(value).removesuffix(".0")
        if value and math.isfinite(value) and not 0.01 <= abs(value) < 1e5:
            return f"{Decimal(repr(value)).normalize():e}"
        return plain
    if isinstance(value, str):
        try:
            if read_yaml(value, "value") == value:
                return value
        except ConfigError:
            pass
    return json.dumps(value, ensure_ascii=False)


def recipe_name(base: str, overrides: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the base's name and what is special about the recipe, fit for a folder.

    >>> recipe_name("Llama", {"training.lr": 0.003, "model.n_layer": 6}, ["training.lr", "model.n_layer"])
    'Llama-lr3e-3-layer6'
    """
    shorts = [_short(key) for key in keys]
    parts = []
    for key, short in zip(keys, shorts, strict=True):
        label = short if shorts.count(short) == 1 else key.replace(".", "_")
        value = overrides[key]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        parts.append(label + ("" if number and not label[-1].isdigit() else "-") + _slug(value))
    return "-".join([base, *parts])


def _short(key: str) -> str:
    return key.partition(".")[2].removeprefix("n_")


def _slug(value: object) -> str:
    """Letters that any file system takes; where that loses something, four of the value's hash tell values apart."""
    text = value_text(value)
    slug = re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_.")[:LONGEST]
    return slug if slug == text else f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:4]}"
