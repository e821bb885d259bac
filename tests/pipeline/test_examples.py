"""The examples run with the commands that their docstrings show, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from babyllama.common.files import read_json

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def commands(path: Path) -> list[list[str]]:
    """The command lines of an example's docstring."""
    docstring = re.sub(
        r"\\\n\s*", "", path.read_text(encoding="utf-8").split('"""')[1]
    )  # a command that goes on in the next line
    return [shlex.split(line.strip()) for line in re.findall(r"^    (python .*)$", docstring, re.M)]


def run(command: list[str], *replace: tuple[str, str], output: Path, more: tuple[str, ...] = ()) -> str:
    """Run a shown command with stand-ins for its paths."""
    stand_ins = dict(replace)
    arguments = [stand_ins.get(part, part) for part in command[1:]]
    done = subprocess.run(
        [sys.executable, *arguments, *more, "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_shows_its_command_and_stands_in_the_docs() -> None:
    hub = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for path in EXAMPLES:
        assert commands(path), path.name
        assert f"examples/{path.name}" in hub, path.name


@pytest.mark.integration
def test_a_script_runs_from_a_clone_that_is_not_installed(tmp_path: Path) -> None:
    scripts = [path for path in EXAMPLES if "argparse" in path.read_text(encoding="utf-8")]
    assert len(scripts) >= 4
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = [
        subprocess.Popen([sys.executable, path, "--help"], cwd=tmp_path, env=bare, stderr=subprocess.PIPE)
        for path in scripts
    ]
    for path, process in zip(scripts, started, strict=True):
        _, said = process.communicate()
        assert process.returncode == 0, f"{path.name}: {said.decode()}"


@pytest.mark.integration
def test_domain_evaluator(tiny_run: Path, tmp_path: Path) -> None:
    [command] = commands(ROOT / "examples/domain_evaluator.py")
    out = run(command, ("models/Llama-10M", str(tiny_run)), output=tmp_path)
    assert "domain knowledge" in out
    assert 0 <= read_json(tmp_path / "evaluation_results.json")["domain_knowledge"]["mean"] <= 1
    assert "domain_knowledge" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.integration
def test_evaluation_task(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("The dog ran to the old house.\n" * 5, encoding="utf-8")
    evaluate, benchmark = commands(ROOT / "examples/evaluation_task.py")
    data = ("--eval-data", str(tmp_path / "t.txt"))
    run(evaluate, ("models/Llama-10M", str(tiny_run)), output=tmp_path, more=data)
    assert read_json(tmp_path / "evaluation_results.json")["rhyme"]["num_words"] > 0
    run(benchmark, ("models/*", str(tiny_run)), output=tmp_path, more=data)
    [found] = read_json(tmp_path / "benchmark_results.json")["runs"].values()
    assert found["benchmarks"]["rhyme"]["num_words"] > 0


def train_command(command: list[str], output: Path) -> Path:
    """Run a shown training command, its run folder under `output`."""
    done = subprocess.run(
        [sys.executable, *command[1:], "--output-dir", str(output)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    (output / "told.txt").write_text(done.stdout, encoding="utf-8")
    return output / command[command.index("--model-name") + 1]


@pytest.mark.integration
def test_custom_architecture(tmp_path: Path) -> None:
    """It trains, and is scored by the shown command; without the plugin one line says what to add."""
    trains, scores = commands(ROOT / "examples/custom_architecture.py")
    run_dir = train_command(trains, tmp_path)
    assert read_json(run_dir / "config.json")["model_type"] == "alibi_llama"
    card = (run_dir / "README.md").read_text(encoding="utf-8")
    assert "load_plugins(['custom_architecture.py'])" in card
    out = run(scores, ("models/alibi", str(run_dir)), output=tmp_path / "scores")
    assert "bits per byte" in out
    found = read_json(tmp_path / "scores/evaluation_results.json")["average_loss"]
    assert found == pytest.approx(read_json(run_dir / "training_metrics.json")["eval_loss"], rel=1e-6)
    bare = [part for part in scores if "custom_architecture" not in part and part != "--plugin"]
    bare = [str(run_dir) if part == "models/alibi" else part for part in bare]
    refused = subprocess.run([sys.executable, *bare[1:]], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert refused.returncode == 3
    assert "its architecture 'alibi_llama' comes from a plugin" in refused.stderr
    assert f"--plugin {ROOT / 'examples/custom_architecture.py'}" in refused.stderr


@pytest.mark.integration
def test_curriculum(tmp_path: Path) -> None:
    [command] = commands(ROOT / "examples/curriculum.py")
    run_dir = train_command(command, tmp_path)
    told = (tmp_path / "told.txt").read_text(encoding="utf-8")
    assert "curriculum: clauses, root, from 10% of the chunks to all of them at step 6 of 10" in told
    curve = read_json(run_dir / "curriculum.json")["curve"]
    assert [point["step"] for point in curve] == list(range(1, 11))
    assert curve[0]["difficulty"] < curve[-1]["difficulty"]


@pytest.mark.integration
def test_two_teachers(tmp_path: Path) -> None:
    [command] = commands(ROOT / "examples/two_teachers.py")
    out = run(command, output=tmp_path)
    assert re.search(r"^student of both +\d\.\d{3} bits per byte$", out, re.M)
    assert len(read_json(tmp_path / "student/training_metrics.json")["teachers"]) == 2


@pytest.mark.integration
def test_sentence_start(tiny_run: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [
        json.dumps({"sentence_good": f"The dog ran to {n}.", "sentence_bad": f"The dog run to {n}.", "pairID": str(n)})
        for n in range(20)
    ]
    pairs.write_text("\n".join(lines), encoding="utf-8")
    [command] = commands(ROOT / "examples/sentence_start.py")
    out = run(command, ("models/Llama-10M", str(tiny_run)), ("data/blimp", str(pairs)), output=tmp_path / "out")
    assert "after neutral sentence" in out
    found = read_json(tmp_path / "out/evaluation_results.json")["sentence_start"]
    assert found["starts"][:3] == ["", "\n", " "]
    plain = found["pairs.jsonl"]["<s>"]
    assert plain["soft_accuracy_difference"]["difference"] == 0
    assert 0 < plain["soft_accuracy"] < 1


def test_quarter_of_text(tmp_path: Path) -> None:
    [command] = commands(ROOT / "examples/quarter_of_text.py")
    source, target = tmp_path / "whole", tmp_path / "quarter"
    source.mkdir()
    (source / "wikinews.train").write_text(
        "\n\n\n".join(f"Item {n} has a few words." for n in range(10)) + "\n", encoding="utf-8"
    )
    (source / "wikinews.dev").write_text("Held out.\n", encoding="utf-8")
    stand_ins = {"data/babylm_like": str(source), "data/quarter": str(target)}
    done = subprocess.run(
        [sys.executable, *[stand_ins.get(part, part) for part in command[1:]]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    kept = (target / "wikinews.train").read_text(encoding="utf-8").split("<|endoftext|>\n")
    assert [text.strip() for text in kept if text] == [f"Item {n} has a few words." for n in (0, 4, 8)]
    assert (target / "wikinews.dev").read_text(encoding="utf-8") == "Held out.\n"


def test_blimp_by_phenomenon(tmp_path: Path) -> None:
    """A paradigm counts once in its phenomenon; a run without BLiMP is one line."""
    scored = {
        "p1": {"accuracy": 0.5, "num_pairs": 10},
        "p2": {"accuracy": 0.7, "num_pairs": 1000},
        "p3": {"accuracy": 0.9, "num_pairs": 10},
    }
    run_dir = tmp_path / "mine"
    run_dir.mkdir()
    results = {"minimal_pairs": {"supplement": {"paradigms": {}}, "blimp": {"paradigms": scored}}}
    (run_dir / "evaluation_results.json").write_text(json.dumps(results), encoding="utf-8")
    rows = [("p1", "binding", 0.6), ("p2", "binding", 0.8), ("p3", "ellipsis", 1.0), ("overall", "overall", 0.8)]
    published = tmp_path / "models_summary.jsonl"
    lines = [json.dumps({"UID": uid, "linguistics_term": term, "gpt2": share}) for uid, term, share in rows]
    published.write_text("\n".join(lines), encoding="utf-8")
    [command] = commands(ROOT / "examples/blimp_by_phenomenon.py")
    stand_ins = {"models/Llama-10M": str(run_dir), "blimp/raw_results/summary/models_summary.jsonl": str(published)}
    shown = [sys.executable, *[stand_ins.get(part, part) for part in command[1:]], "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(shown, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out/blimp_by_phenomenon.tsv").read_text(encoding="utf-8").splitlines()
    wanted = ["phenomenon mine gpt2", "ellipsis 90.0 100.0", "binding 60.0 70.0", "all paradigms 70.0 80.0"]
    assert [line.replace("\t", " ") for line in table] == wanted
    assert (tmp_path / "out/blimp_by_phenomenon.png").stat().st_size > 10_000
    results["minimal_pairs"].pop("blimp")
    (run_dir / "evaluation_results.json").write_text(json.dumps(results), encoding="utf-8")
    refused = subprocess.run(shown, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "not scored on BLiMP" in refused.stderr
