"""Read YAML so that a value means what its writer meant, and write it so that it is read back as the same.

PyYAML follows YAML 1.1: `3e-4` stays a string, `1:30` becomes 90, `no` becomes False and the second of two equal keys
wins in silence. Here numbers are read as people write them; duplicate keys and tags are errors with line and column.
(ruamel.yaml reads YAML 1.2 and would save these 45 lines, but pyyaml is what the field's configurations are read with.)
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from babyllama.common.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Safe YAML without duplicate keys, tags and sexagesimal numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(getattr(key_node, "value", key_node))
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}: keep one of the two", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refuse_tag(loader: yaml.SafeLoader, node: yaml.Node) -> None:
    raise yaml.constructor.ConstructorError(
        None, None, f"tag {node.tag!r} is not allowed: write plain values", node.start_mark
    )


def _flat_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.yaml_implicit_resolvers = {
    letter: [
        (tag, pattern) for tag, pattern in resolvers if tag not in {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
    ]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NUMBERS = (
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
        ),
        list("-+0123456789."),
    ),
)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either this reader or one of YAML 1.1 takes for a number: a run may be called 1e3."""


for _resolver in _NUMBERS:
    _Loader.add_implicit_resolver(*_resolver)
    _Dumper.add_implicit_resolver(*_resolver)
_Loader.add_constructor(None, _refuse_tag)
_Loader.add_constructor("tag:yaml.org,2002:float", _flat_float)


def read_yaml(text: str, source: str) -> Any:  # noqa: ANN401 - YAML
    """Parse YAML strictly.

    Raises:
        ConfigError: With file, line and column.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise ConfigError(f"{source}: {place}{problem}") from None


def write_yaml(value: object, *, width: int = 80) -> str:
    """Return YAML that `read_yaml` reads as the same value, keys in their order.

    Args:
        value: Dicts, lists and scalars.
        width: Columns after which a long text goes on in the next line.

    >>> print(write_yaml({"name": "1e3", "lr": 0.001}), end="")
    name: '1e3'
    lr: 0.001
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
