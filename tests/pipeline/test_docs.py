"""The documents say what is there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_every_name_of_the_api_reference_exists() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)(?:\(.*?\))?` \| (.*) \|$", (ROOT / "API_REFERENCE.md").read_text(encoding="utf-8"), re.M
    )
    assert len(rows) > 15
    for name, text in rows:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        for method in re.findall(r"`\.(\w+)`", text):
            assert hasattr(found, method), f"{name}.{method}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_guides_messages_are_in_the_code() -> None:
    """Each message of the chapter is the text of a string in the code (f-string parts joined by anything)."""
    guide = (ROOT / "TRAINING_GUIDE.md").read_text(encoding="utf-8").split("## When something goes wrong")[1]
    messages = [m.strip("`") for m in re.findall(r"^\| (`.+?`+) \| ", guide, re.M)]
    code = "".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.py"), *(ROOT / "babyllama").rglob("*.py")]
    )
    joined = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that go on in the next line
    assert len(messages) > 25
    for message in messages:
        assert message in joined, message


def test_the_presets_of_the_readme_exist() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Presets")[1].split("## ")[0]
    named = set(re.findall(r"(?:llama|gpt|babylm|distillation)[\w-]*\d*M?[\w-]*", table))
    files = {path.stem for path in (ROOT / "config").glob("*.yaml")}
    assert files <= named
    first_column = " ".join(re.findall(r"^\| ([^|]+) \|", table, re.M))
    assert set(re.findall(r"(?:llama|gpt|babylm)-[\w-]+", first_column)) <= files


def _documented(section: str) -> set[str]:
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8").split(f"## {section}")[1].split("\n## ")[0]
    return set(re.findall(r"`([\w.*]+)`", text))


def test_every_key_of_an_evaluation_is_documented(tiny_run: Path, tmp_path: Path) -> None:
    from evaluate import TASKS, ModelEvaluator

    (tmp_path / "t.txt").write_text(
        "The dog ran to the old house. She looked at the little dog.\n" * 5, encoding="utf-8"
    )
    (tmp_path / "p.jsonl").write_text(
        '{"sentence_good": "The dog ran.", "sentence_bad": "Dog the ran."}\n', encoding="utf-8"
    )
    evaluator = ModelEvaluator(
        tiny_run,
        "cpu",
        eval_data=[str(tmp_path / "t.txt")],
        minimal_pairs=[str(tmp_path / "p.jsonl")],
        window=32,
        num_samples=1,
    )
    results = evaluator.run(TASKS)
    known = _documented("evaluation_results.json (version 1)")
    known |= {f"{key}_ci" for key in ("perplexity", "average_loss", "bits_per_byte")}
    found = set(results)
    for task in ("generation", "token_statistics", "completion", "speed"):
        found |= set(results[task])
    for figures in results["minimal_pairs"].values():
        found |= set(figures) | {key for row in figures["paradigms"].values() for key in row}
    assert found <= known
    items = {key for item in evaluator.items for key in item}
    assert items <= _documented("evaluation_items.jsonl.gz") | {"task"}


FRAGMENT = re.compile(r"(Of|Its|That|Their|In|As|By|To|With|Is|Are|For|From|Under|Gets|Gives|Fills|Makes|Takes)\b")


def _documented_names(docstring: str) -> list[tuple[str, str]]:
    """The entries of `Args:` and `Attributes:`: (name, first line)."""
    found, indent = [], None
    for line in docstring.split("\n"):
        heading = re.match(r"^(\s*)(\w+):\s*$", line)
        if heading:
            indent = len(heading[1]) + 4 if heading[2] in {"Args", "Attributes"} else None
        entry = re.match(r"^(\s+)([\w*]+): (.*)$", line)
        if entry and len(entry[1]) == indent:
            found.append((entry[2], entry[3]))
    return found


def test_an_argument_is_described_by_a_phrase_that_stands_alone() -> None:
    """`seed: Seed of the bootstrap draws.` and not `seed: Of the draws.`"""
    fragments = []
    for path in [*ROOT.glob("*.py"), *(ROOT / "babyllama").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                told = _documented_names(ast.get_docstring(node, clean=False) or "")
                fragments += [f"{path.name}: {name}: {text}" for name, text in told if FRAGMENT.match(text)]
    assert not fragments, "\n".join(fragments)
