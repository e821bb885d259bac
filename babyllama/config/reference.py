"""The configuration's keys as a page: docs/configuration.md is made from schema.py, and so is the flags' help.

    python -m babyllama.config.reference > docs/configuration.md

A key's meaning is written once, as the docstring under its field; a test finds the page stale when the code has moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from babyllama.config.flags import FLAGS, SWITCHES
from babyllama.config.schema import SECTIONS, Config

if TYPE_CHECKING:
    from babyllama.config.schema import Section

SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}
HEAD = """# Configuration

Made from `babyllama/config/schema.py` by `python -m babyllama.config.reference`; do not edit it by hand. A YAML file
has the sections below; every key but `model.type` has a default. `--set section.key=value` overrides any key, and the
frequent ones have a flag. `python main.py schema` prints the JSON Schema; `config/schema.json` gives editors
completion.

`plugins` stands beside the sections: {plugins}
"""


def description(key: str) -> str:
    """Return a key's meaning from its docstring.

    Args:
        key: `section.key`.
    """
    section, name = key.split(".")
    return " ".join((SECTIONS[section].model_fields[name].description or "").split())


def flag_help(key: str) -> str:
    """Return a key's meaning as argparse shows it."""
    text = description(key).removesuffix(".")
    return (text[0].lower() + text[1:] if text[1:2].islower() else text).replace("%", "%%")


def type_name(annotation: object) -> str:
    """Return a type as a reader of YAML calls it.

    >>> type_name(Literal["auto"] | bool), type_name(int | None), type_name(list[str])
    ('`auto`, true or false', 'whole number or null', 'list of text')
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(get_args(annotation)[0])
    if origin in (UnionType, Union):
        parts = [type_name(part) for part in get_args(annotation)]
        return ", ".join(parts[:-1]) + (", " if parts[-1] == "true or false" else " or ") + parts[-1]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin is list:
        return f"list of {type_name(get_args(annotation)[0])}"
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null"}
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))


def limits(field: FieldInfo) -> str:
    """Return the range of a field's values, empty where any is allowed."""
    told = []
    for rule in (*field.metadata, *_inner_rules(field.annotation)):
        told += [text for part in (rule, *getattr(rule, "metadata", ())) for text in _signs(part)]
    return ", ".join(dict.fromkeys(told))


def _signs(rule: object) -> list[str]:
    found = ((word, getattr(rule, sign, None)) for sign, word in SIGNS.items())
    return [f"{word} {bound:,}" for word, bound in found if bound is not None]


def _inner_rules(annotation: object) -> list[Any]:
    """Return the rules inside `Annotated[int, Field(ge=1)] | None`."""
    if get_origin(annotation) is Annotated:
        return list(get_args(annotation)[1:])
    return [rule for part in get_args(annotation) if not isinstance(part, str) for rule in _inner_rules(part)]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(needed)"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, bool):  # before numbers: 0 == False, and 1 == True
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flags() -> Mapping[str, str]:
    found = {key: flag for flag, key, *_ in [*FLAGS, *SWITCHES]}
    return found | {"logging.wandb": "--wandb"}


def _table(name: str, section: type[Section]) -> list[str]:
    flags, head = _flags(), ("key", "type", "default", "range", "meaning", "flag")
    lines = [f"## {name}", "", " ".join((section.__doc__ or "").split()), ""]
    lines += [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for key, field in section.model_fields.items():
        full = f"{name}.{key}"
        flag = f"`{flags[full]}`" if full in flags else ""
        cells = (f"`{key}`", type_name(field.annotation), _default(field), limits(field), description(full), flag)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def configuration_page() -> str:
    """Return docs/configuration.md: for each section a table of type, default, range, meaning and flag of its keys."""
    lines = [HEAD.format(plugins=" ".join((Config.model_fields["plugins"].description or "").split()))]
    for name, section in SECTIONS.items():
        lines += _table(name, section)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(configuration_page(), end="")
