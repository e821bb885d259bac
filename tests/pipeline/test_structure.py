"""Ratchets: imports point down, modules and functions stay readable, the README's file map is the tree."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOT_MODULES = {"main": 4, "train": 3, "benchmark": 3, "evaluate": 2, "data_utils": 1}
PACKAGE = sorted((ROOT / "babyllama").rglob("*.py"))
SOURCES = [*PACKAGE, *(ROOT / f"{name}.py" for name in ROOT_MODULES)]
# Rooms, top floor first; a room imports only from what stands beside it here. training and evaluation never meet.
BASE = {"config", "common", "plugins"}
ROOMS: dict[str, set[str]] = {
    "babylm": {"research", "comparison", "training", "evaluation", "corpus", "data", "models", "pages", *BASE},
    "research": {"comparison", "training", "evaluation", "data", "models", "pages", *BASE},
    "play": {"evaluation", "data", "models", "pages", *BASE},
    "sharing": {"research", "comparison", "training", "evaluation", "data", "models", "pages", *BASE},
    "comparison": {"evaluation", "data", "models", "pages", *BASE},
    "training": {"data", "models", "pages", *BASE},
    "evaluation": {"data", "models", "pages", *BASE},
    "corpus": {"data", "models", "pages", *BASE},
    "data": {"models", *BASE},
    "models": BASE,
    "pages": BASE,
    "config": {"common"},
    "plugins": {"common"},
    "common": set(),
}
# The doors of an install know the root files and load them; no room imports a door.
DOORS = {"__main__", "api", "app"}
MOST_FILES, MOST_LINES, MOST_FUNCTION_LINES, MOST_UNCOMMENTED = 14, 400, 55, 20


def _imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_part_knows_the_pipeline(path: Path) -> None:
    if _room(path) in DOORS:
        return
    assert not _imports(path) & set(ROOT_MODULES)


@pytest.mark.parametrize("name", [n for n in ROOT_MODULES if (ROOT / f"{n}.py").exists()])
def test_root_modules_import_only_downwards(name: str) -> None:
    for imported in _imports(ROOT / f"{name}.py") & set(ROOT_MODULES):
        assert ROOT_MODULES[imported] < ROOT_MODULES[name] or (name, imported) == ("main", "run_tests"), imported


def _late_root_imports(source: str) -> set[str]:
    """Root modules that are imported inside a function, by a statement or by their name as a string."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found & set(ROOT_MODULES)


@pytest.mark.parametrize("name", sorted(set(ROOT_MODULES) - {"main"}))
def test_root_modules_that_the_api_hands_on_import_each_other_at_the_top(name: str) -> None:
    """babyllama.api lends them their plain names only while it loads them; later `evaluate` is HuggingFace's."""
    assert not _late_root_imports((ROOT / f"{name}.py").read_text(encoding="utf-8"))


def test_a_late_import_is_seen_in_each_form() -> None:
    for line in ("import evaluate", "from evaluate import x", "import_module('evaluate')", "__import__('evaluate')"):
        assert _late_root_imports(f"def f():\n    if True:\n        {line}\n") == {"evaluate"}
    assert _late_root_imports("import evaluate\ndef f():\n    from babyllama.evaluation import scoring\n") == set()


def _room(path: Path) -> str:
    return path.relative_to(ROOT / "babyllama").with_suffix("").parts[0]


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_below_it(path: Path) -> None:
    """Imports inside functions count, too: between rooms there is no way up."""
    room = _room(path)
    if room in {"__init__", *DOORS}:
        return
    tops = {name.split(".")[1] for name in _imports(path) if name.startswith("babyllama.")} - {"__version__", "SPINS"}
    assert tops - {room} <= ROOMS[room], f"{room} may import {sorted(ROOMS[room])}"


def test_no_room_is_crowded() -> None:
    folders = {path.parent for path in PACKAGE}
    crowded = {f: n for f in folders if (n := sum(p.name != "__init__.py" for p in f.glob("*.py"))) > MOST_FILES}
    assert not crowded


def test_every_room_says_what_it_is_for_and_what_it_may_import() -> None:
    for name in ROOMS:
        init = ROOT / "babyllama" / name / "__init__.py"
        if init.exists():
            text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
            assert len(text) > 80, init
            assert "import" in text, init


def test_the_package_has_no_cycle() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE}
    graph = {name: {m for m in _imports(path, True) if m in names} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for below in graph.get(name, ()):
                visit(below, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES, f"{path.name}: {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno - body[0].lineno + 1) if body else 0
            assert lines <= MOST_FUNCTION_LINES, f"{path.name}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_long_function_says_its_steps(path: Path) -> None:
    """A function of more than 20 lines of code has at least two lines of comment."""
    lines = path.read_text(encoding="utf-8").split("\n")
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef):
            start = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
            own = [line.strip() for line in lines[start : node.end_lineno] if line.strip()]
            comments = sum(line.startswith("#") for line in own)
            assert len(own) - comments <= MOST_UNCOMMENTED or comments >= 2, f"{path.name}: {node.name}"


def test_the_file_map_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## File map")[1].split("```")[1].removeprefix("text")
    listed = {line.split()[0].rstrip("/") for line in block.strip().splitlines()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    ).stdout.split("\n")
    if not any(tracked):
        pytest.skip("not a git checkout: nothing to compare the map with")
    wanted = {name for name in tracked if name and "/" not in name and not name.startswith(".")}
    wanted |= {name.split("/")[0] for name in tracked if "/" in name and not name.startswith((".", "babyllama/"))}
    wanted |= {"/".join(name.split("/")[:2]) for name in tracked if re.match(r"babyllama/\w+/", name)}
    assert listed == wanted | {"babyllama/plugins.py", "babyllama/api.py"}


def test_the_tests_mirror_the_rooms() -> None:
    """A test file lies in its room's folder, of the root files in pipeline; the rest measures and breaks things."""
    known = {*ROOMS, "pipeline", "faults", "gpu", "speed"} - {"plugins"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.relative_to(ROOT / "tests").parts[0]
        assert folder in known or folder == "test_plugins.py", path


def _without_encoding(tree: ast.Module) -> list[int]:
    """Lines where text is read or written in the encoding of the system's language. ruff's PLW1514 misses some."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(k.arg in {"encoding", None} for k in node.keywords):
            continue
        called = ast.unparse(node.func)
        text = any(k.arg in {"text", "universal_newlines"} for k in node.keywords)
        place = {"read_text": 0, "write_text": 1}.get(called.rsplit(".", 1)[-1])
        if (place is not None and len(node.args) <= place) or (called.startswith("subprocess.") and text):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("folder", ["babyllama", "tests", "examples", "."])
def test_text_is_read_and_written_with_its_encoding(folder: str) -> None:
    """On Windows, and under LANG=C, the default is another one than UTF-8."""
    paths = (ROOT / folder).glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    assert not {str(path): lines for path, tree in trees.items() if (lines := _without_encoding(tree))}
