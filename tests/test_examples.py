"""The examples run with the commands that their docstrings show, on a tiny model."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from babyllama.jsonio import read_json

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def commands(path: Path) -> list[list[str]]:
    """The command lines of an example's docstring."""
    docstring = path.read_text().split('"""')[1]
    return [shlex.split(line.strip()) for line in re.findall(r"^    (python .*)$", docstring, re.M)]


def run(command: list[str], *replace: tuple[str, str], output: Path, more: tuple[str, ...] = ()) -> str:
    """Run a shown command with stand-ins for its paths."""
    stand_ins = dict(replace)
    arguments = [stand_ins.get(part, part) for part in command[1:]]
    done = subprocess.run(
        [sys.executable, *arguments, *more, "--output", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_shows_its_command_and_stands_in_the_docs() -> None:
    hub = (ROOT / "docs/README.md").read_text()
    for path in EXAMPLES:
        assert commands(path), path.name
        assert f"examples/{path.name}" in hub, path.name


@pytest.mark.integration
def test_domain_evaluator(tiny_run: Path, tmp_path: Path) -> None:
    [command] = commands(ROOT / "examples/domain_evaluator.py")
    out = run(command, ("models/Llama-10M", str(tiny_run)), output=tmp_path)
    assert "domain knowledge" in out
    assert 0 <= read_json(tmp_path / "evaluation_results.json")["domain_knowledge"]["mean"] <= 1
    assert "domain_knowledge" in (tmp_path / "report.html").read_text()


@pytest.mark.integration
def test_evaluation_task(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("The dog ran to the old house.\n" * 5)
    evaluate, benchmark = commands(ROOT / "examples/evaluation_task.py")
    data = ("--eval-data", str(tmp_path / "t.txt"))
    run(evaluate, ("models/Llama-10M", str(tiny_run)), output=tmp_path, more=data)
    assert read_json(tmp_path / "evaluation_results.json")["rhyme"]["num_words"] > 0
    run(benchmark, ("models/*", str(tiny_run)), output=tmp_path, more=data)
    [found] = read_json(tmp_path / "benchmark_results.json")["runs"].values()
    assert found["benchmarks"]["rhyme"]["num_words"] > 0
