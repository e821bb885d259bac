"""`python -m tests.gpu` itself: the whole command in small on a CPU, its planner, its limits, its tables."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.__main__ import QUICK_LIMIT, Runner, chosen_rows, parse, why_skipped
from tests.gpu.report import read_rows, speeds_table, write_report
from tests.gpu.rows import GROUPS, Report, Row, Spec, all_rows

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = Row("environment", "check", "environment:environment", 5, 60)


def runner_in(folder: Path, minutes: float | None = None) -> Runner:
    return Runner(Spec("cpu", True, folder), minutes)


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="trainings are forked and killed")
def test_the_whole_command_in_small(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "all", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    rows = {row["name"]: row for row in read_rows(tmp_path / "rows.jsonl")}
    wanted = {row.name for row in all_rows() if row.quick}
    assert set(rows) == wanted | {"environment"}
    assert all(row["skipped"] for row in rows.values() if row["state"] == "skipped")
    only_cuda = {row.name for row in all_rows() if "cuda" in row.needs}
    assert {name for name, row in rows.items() if row["state"] == "skipped"} <= only_cuda
    assert rows["a weight becomes NaN"]["figures"]["exit code"] == 4
    assert rows["curve, fp32"]["figures"]["largest difference of 20 steps' mean"] == 0
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "| kill -9 x 4 and SIGTERM | passed |" in page
    assert "| llama-10M, ours (quick) |" in page


def test_every_row_names_a_function_that_is_there() -> None:
    import importlib

    rows = all_rows()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        module, function = row.function.split(":")
        assert callable(getattr(importlib.import_module(f"tests.gpu.{module}"), function)), row.name
        assert row.group in GROUPS
        assert row.expected < row.limit
    first_half_hour = [row for row in rows if row.group in ("check", "faults")]
    assert sum(row.expected for row in first_half_hour) < 20 * 60


def test_flags_choose_the_rows() -> None:
    assert {row.group for row in chosen_rows(parse(["faults"]))} == {"faults"}
    assert [row.name for row in chosen_rows(parse(["--only", "optimizers"]))] == ["optimizers"]
    ours = "llama-10M, ours, round 1"
    assert [row.name for row in chosen_rows(parse(["--only", f"{ours};"]))] == [ours]
    chosen = [row.name for row in chosen_rows(parse(["--only", "bf16"]))]
    assert chosen == ["curve, CPU float32 (reference)", "curve, bf16", "reads in a step, bf16 AdamW"]
    assert all(row.quick for row in chosen_rows(parse(["--quick"])))


def test_a_row_that_does_not_fit_into_the_time_is_left_out(tmp_path: Path) -> None:
    runner = runner_in(tmp_path, minutes=0.1)
    found = runner.do(ENVIRONMENT)
    assert found["state"] == "skipped"
    assert "--minutes" in found["skipped"]


def test_a_row_that_needs_what_is_not_there_says_what(tmp_path: Path) -> None:
    cpu, cuda = Spec("cpu", True, tmp_path), Spec("cuda", False, tmp_path)
    row = Row("x", "check", "heads:head", 1, 2, needs=("cuda", "two", "data", "compiler"))
    assert why_skipped(row, cpu, {}) == "means something only on CUDA"
    assert why_skipped(row, cuda, {"gpus": 1}) == "needs two GPUs"
    assert why_skipped(row, cuda, {"gpus": 2}) == "needs --data"
    assert "compiler" in why_skipped(row, Spec("cuda", False, tmp_path, tmp_path), {"gpus": 2})
    assert not why_skipped(row, Spec("cuda", False, tmp_path, tmp_path), {"gpus": 2, "compiler": True})


@pytest.mark.integration
def test_a_row_ends_at_its_limit_and_a_crash_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_in(tmp_path)
    started = time.monotonic()
    monkeypatch.setattr("tests.gpu.__main__.QUICK_LIMIT", 0.3)
    slow = runner.do(ENVIRONMENT)
    assert slow["state"] == "failed"
    assert "took longer than its limit" in slow["problems"][0]
    assert time.monotonic() - started < 120  # it ends; a child that starts and is killed takes 35 s on a busy machine
    monkeypatch.setattr("tests.gpu.__main__.QUICK_LIMIT", QUICK_LIMIT)
    crashed = runner.do(Row("crash", "check", "heads:nothing", 1, 60))
    assert crashed["state"] == "failed"
    assert "AttributeError" in crashed["problems"][0]
    assert [row["name"] for row in read_rows(tmp_path / "rows.jsonl")] == ["environment", "crash"]


def test_a_limit_is_a_problem_above_it_and_for_nan() -> None:
    report = Report()
    report.limit("a", 0.5, 1.0)
    report.limit("a", 0.2, 1.0)
    assert report.figures == {"a": 0.5}
    assert not report.problems
    report.limit("a", float("nan"), 1.0)
    report.limit("b", 2.0, 1.0)
    assert len(report.problems) == 2


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"name": "cut sho', encoding="utf-8")
    return file


def test_the_newest_row_counts_and_a_cut_line_does_not(tmp_path: Path) -> None:
    base = {"group": "check", "seconds": 1.0}
    file = written(
        tmp_path,
        {"name": "a", "state": "failed", "problems": ["x | y"], **base},
        {"name": "a", "state": "passed", "figures": {"loss": 1e-7}, **base},
        {"name": "a", "state": "skipped", "skipped": "no time", **base},
    )
    [row] = read_rows(file)
    assert row["state"] == "passed"
    page = write_report(tmp_path, [row]).read_text(encoding="utf-8")
    assert "| a | passed | 1 | loss 1e-07 |" in page
    assert "not measured" in page


def test_rounds_become_their_median_beside_the_prediction() -> None:
    rows = [
        {
            "name": f"{n}",
            "group": "speed",
            "state": "passed",
            "options": {"config": "llama-10M", "variant": "ours", "steps": 300},
            "figures": {"tokens_per_second": rate, "quick": False},
        }
        for n, rate in enumerate((1_000_000.0, 3_000_000.0))
    ]
    assert speeds_table(rows)[-1].startswith("| llama-10M, ours | 900,000 | 2,000,000 |")
