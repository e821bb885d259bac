"""Results are kept by task, and a plugin's task that raises costs its own result only."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from babyllama import plugins
from babyllama.evaluation.results.files import mark_measured, write_results
from babyllama.evaluation.results.tasks import run_tasks

RAISES = """
from babyllama.plugins import register_task


def broken(evaluator, options):
    return {}["x"]


register_task("broken", broken)
"""


def results(weights: str, **figures: Any) -> dict[str, Any]:
    found = {"weights": weights, "command": " ".join(figures), "created": "now", **figures}
    mark_measured(found, {task: [task] for task in figures})
    return found


def read(folder: Path) -> tuple[dict[str, Any], list[str]]:
    found = json.loads((folder / "evaluation_results.json").read_text(encoding="utf-8"))
    lines = gzip.decompress((folder / "evaluation_items.jsonl.gz").read_bytes()).decode().splitlines()
    return found, [json.loads(line)["task"] for line in lines]


def test_an_earlier_task_stays_until_it_is_measured_again_or_the_weights_change(tmp_path: Path) -> None:
    target = tmp_path / "evaluation_results.json"
    write_results(results("a", minimal_pairs={"accuracy": 0.6}), [{"task": "minimal_pairs"}] * 2, target)
    write_results(results("a", completion={"accuracy": 0.1}), [{"task": "completion"}], target)
    found, items = read(tmp_path)
    assert (found["minimal_pairs"]["accuracy"], found["completion"]["accuracy"]) == (0.6, 0.1)
    assert [found["measured"][task]["command"] for task in ("minimal_pairs", "completion")] == [
        *("minimal_pairs", "completion")
    ]
    assert items == ["minimal_pairs", "minimal_pairs", "completion"]
    write_results(results("a", minimal_pairs={"accuracy": 0.7}), [{"task": "minimal_pairs"}], target)
    found, items = read(tmp_path)
    assert (found["minimal_pairs"]["accuracy"], items) == (0.7, ["completion", "minimal_pairs"])
    write_results(results("b", completion={"accuracy": 0.2}), [{"task": "completion"}], target)
    found, items = read(tmp_path)
    assert "minimal_pairs" not in found
    assert items == ["completion"]


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"{}", b'{"measured": []}', b'{"weights": "a", "measured": {"perplexity": {"seed": 1}}}', b"\xff"],
    ids=["cut", "a list", "nothing measured", "measured is a list", "a task without its keys", "no UTF-8"],
)
def test_a_damaged_results_file_costs_a_line_and_not_what_was_just_measured(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "evaluation_results.json"
    target.write_bytes(content)
    write_results(results("a", completion={"accuracy": 0.1}), [{"task": "completion"}], target)
    assert f"{target}: damaged (" in capsys.readouterr().out.replace("\n", "")
    assert read(tmp_path)[0]["completion"] == {"accuracy": 0.1}
    write_results(results("a", perplexity={"loss": 2.0}), [{"task": "perplexity"}], target)
    found, items = read(tmp_path)
    assert (found["completion"], found["perplexity"]) == ({"accuracy": 0.1}, {"loss": 2.0})
    assert items == ["completion", "perplexity"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip", "no object"])
def test_items_that_a_damaged_sidecar_loses_are_told(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target, sidecar = tmp_path / "evaluation_results.json", tmp_path / "evaluation_items.jsonl.gz"
    items = [{"task": "minimal_pairs", "uid": f"{number * 7919 % 1009}"} for number in range(300)]
    write_results(results("a", minimal_pairs={"accuracy": 0.6}), items, target)
    whole = sidecar.read_bytes()
    middle = len(whole) // 2
    flipped = [
        whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :] for place in range(middle, middle + 40)
    ]
    contents = {"cut": [whole[:middle]], "flipped": flipped, "no gzip": [b"x"], "no object": [gzip.compress(b"1\n")]}
    for content in contents[damage]:
        sidecar.write_bytes(content)
        capsys.readouterr()
        write_results(results("a", completion={"accuracy": 0.1}), [{"task": "completion"}], target)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "evaluation_items" in line]
        assert str(sidecar) in line.replace("\n", "")
        assert "minimal_pairs" in line
        found, tasks = read(tmp_path)
        assert tasks == ["completion"]
        assert found["minimal_pairs"] == {"accuracy": 0.6}, "the figures stay"
        target.unlink()
        write_results(results("a", minimal_pairs={"accuracy": 0.6}), items, target)


def test_a_plugin_s_task_that_raises_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(RAISES, encoding="utf-8")
    plugins.load_plugins([tmp_path / "mine.py"])
    try:
        found: dict[str, Any] = {"weights": "a"}
        own = {"completion": lambda: {"accuracy": 0.5}}
        call = dict.fromkeys(("flat",), ())
        failed = run_tasks(found, ["broken", "completion"], own, lambda task: task(None, {}), asked=True, **call)
    finally:
        del plugins.TASKS["broken"]
    assert failed == ["broken"]
    assert found["completion"] == {"accuracy": 0.5}
    said = capsys.readouterr().err
    assert f"error: broken: plugins: {tmp_path / 'mine.py'}:6: task broken failed: KeyError: 'x'" in said
