"""Pages of the API, made from signatures and docstrings: one a room, one of the root files, and an index.

griffe reads the sources without importing them, so that the site builds without torch. A docstring's text is Markdown
already; its `Args:`, `Returns:` and `Raises:` become definition lists.
"""

from __future__ import annotations

import logging
import re
import textwrap
from pathlib import Path

import griffe

logging.getLogger("griffe").setLevel(logging.ERROR)
ROOT_FILES = ("main", "train", "evaluate", "benchmark", "data_utils")
OPTIONS = {"returns_multiple_items": False, "returns_named_value": False}  # the text of `Returns:` is one sentence
DOORS = ("api", "plugins")  # modules at the top of the package
TITLES = {
    griffe.DocstringSectionKind.parameters: "Arguments",
    griffe.DocstringSectionKind.returns: "Returns",
    griffe.DocstringSectionKind.yields: "Yields",
    griffe.DocstringSectionKind.raises: "Raises",
    griffe.DocstringSectionKind.attributes: "Attributes",
}


def write_api_pages(root: Path, folder: Path) -> None:
    """Write the pages anew.

    Args:
        root: The project's root.
        folder: Where the pages go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    package = griffe.load("babyllama", search_paths=[str(root)], docstring_parser="google", docstring_options=OPTIONS)
    rooms = sorted(name for name, member in package.modules.items() if member.is_init_module and name != "app")
    pages = {"pipeline": _pipeline(root), "doors": _doors(package)}
    pages |= {room: _room(room, package.modules[room]) for room in rooms}
    for path in folder.glob("*.md"):
        if path.stem not in pages and path.stem != "index":
            path.unlink()
    for name, text in pages.items():
        _write(folder / f"{name}.md", text)
    listed = "\n".join(["pipeline", "doors", *rooms])
    _write(
        folder / "index.md",
        "# Modules\n\nEvery public name, from the sources. Import it from the module under whose heading it stands; "
        "`babyllama.api` hands on what most programs need.\n\n```{toctree}\n:maxdepth: 1\n\n" + listed + "\n```\n",
    )


def _write(path: Path, text: str) -> None:
    """Write a page where its text is another: what is unchanged is not built again."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _pipeline(root: Path) -> str:
    parts = [
        "# The pipeline: root files\n\nIn a program of your own: `from babyllama.api import train, ModelEvaluator`.\n"
    ]
    for name in ROOT_FILES:
        module = griffe.load(name, search_paths=[str(root)], docstring_parser="google", docstring_options=OPTIONS)
        parts.append(_module(module, name))
    return "\n".join(parts)


def _doors(package: griffe.Module) -> str:
    return "# Doors of the package\n\n" + "\n".join(_module(package.modules[n], f"babyllama.{n}") for n in DOORS)


def _room(name: str, module: griffe.Module) -> str:
    parts = [f"# {name}\n", _text(module.docstring)]
    parts += [_module(member, f"babyllama.{name}.{path}") for path, member in _modules(module)]
    return "\n".join(parts)


def _modules(module: griffe.Module, prefix: str = "") -> list[tuple[str, griffe.Module]]:
    """All modules of a room with their dotted names, folders of it after its files."""
    found = []
    for name, member in sorted(module.modules.items(), key=lambda pair: (pair[1].is_init_module, pair[0])):
        found.append((prefix + name, member))
        if member.is_init_module:
            found += _modules(member, f"{prefix}{name}.")
    return found


def _module(module: griffe.Module, path: str) -> str:
    parts = [f"## {path}\n", _text(module.docstring)]
    for name, member in module.members.items():
        if not name.startswith("_") and not member.is_alias and not member.is_module:
            if member.is_class:
                parts.append(_class(member))
            elif member.is_function:
                parts.append(_function(member, 3))
    return "\n".join(parts)


def _class(member: griffe.Class) -> str:
    bases = ", ".join(str(base) for base in member.bases)
    parts = [f"### {member.name}\n", _code(f"class {member.name}({bases})" if bases else f"class {member.name}")]
    parts.append(_docstring(member))
    fields = [
        (name, str(attribute.annotation or ""), attribute.docstring.value)
        for name, attribute in member.attributes.items()
        if attribute.docstring is not None and not name.startswith("_")
    ]
    if fields:
        parts.append(_definitions("Keys", fields))
    for name, method in member.functions.items():
        if not name.startswith("_") and not method.is_alias:
            parts.append(_function(method, 4))
    return "\n".join(parts)


def _function(member: griffe.Function, level: int) -> str:
    name = member.name
    if "property" in member.labels or "cached_property" in getattr(member, "labels", ()):
        return f"{'#' * level} {name}\n\n" + _code(f"{name}: {member.returns}") + "\n" + _docstring(member)
    return f"{'#' * level} {name}\n\n" + _code(_signature(member)) + "\n" + _docstring(member)


def _signature(member: griffe.Function) -> str:
    """The signature on one line, or a parameter a line where that is long."""
    parts, star = [], False
    for parameter in member.parameters:
        if parameter.name in {"self", "cls"}:
            continue
        kind = parameter.kind.value if parameter.kind is not None else ""
        if kind == "keyword-only" and not star:
            parts.append("*")
            star = True
        marks = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        star = star or marks == "*"
        text = marks + parameter.name.lstrip("*")
        text += f": {parameter.annotation}" if parameter.annotation is not None else ""
        text += f" = {parameter.default}" if parameter.default is not None and not marks else ""
        parts.append(text)
    end = f" -> {member.returns}" if member.returns is not None else ""
    line = f"{member.name}({', '.join(parts)}){end}"
    if len(line) <= 100:
        return line
    return f"{member.name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"


def _docstring(member: griffe.Object) -> str:
    if member.docstring is None:
        return ""
    parts = []
    for section in member.docstring.parsed:
        if section.kind in TITLES:
            entries = [
                (getattr(item, "name", "") or "", str(item.annotation or ""), item.description)
                for item in section.value
            ]
            parts.append(_definitions(TITLES[section.kind], entries))
        elif section.kind is griffe.DocstringSectionKind.examples:
            parts += [_examples("\n\n".join(text for _, text in section.value))]
        elif section.kind is griffe.DocstringSectionKind.text:
            parts.append(_markdown(section.value))
        else:
            parts.append(_markdown(getattr(section.value, "description", "") or ""))
    return "\n".join(parts)


def _definitions(title: str, entries: list[tuple[str, str, str]]) -> str:
    lines = [f"**{title}**\n"]
    for name, annotation, description in entries:
        term = " ".join(f"`{part}`" for part in (name, annotation) if part) or "`value`"
        text = textwrap.indent(_markdown(description or "").strip(), "  ").lstrip()
        lines.append(f"{term}\n: {text}\n")
    return "\n".join(lines)


def _text(docstring: griffe.Docstring | None) -> str:
    return "" if docstring is None else _markdown(docstring.value)


def _markdown(text: str) -> str:
    """Docstring text as Markdown: doctests in fences, indented blocks after a blank line, `$` as it is."""
    lines, fenced = [], False
    for line in text.split("\n"):
        is_test = line.lstrip().startswith(">>>")
        if is_test and not fenced:
            lines += ["", "```pycon"]
            fenced = True
        elif fenced and not line.strip():
            lines.append("```")
            fenced = False
        lines.append(line.strip() if fenced else line)
    if fenced:
        lines.append("```")
    return re.sub(r"^(#+) ", r"\\\1 ", "\n".join(lines), flags=re.M) + "\n"


def _examples(text: str) -> str:
    return _markdown(text)


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"
