"""Sweeps: the plan as tables, its folder met again, and small ones trained, killed, crashed and resumed to the end."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import main
from babyllama import plugins
from babyllama.common.command import run_command
from babyllama.common.errors import ConfigError, Interrupted
from babyllama.common.files import read_json, write_json
from babyllama.comparison.options import run_folders
from babyllama.config.loading import load_config
from babyllama.config.schema import Config
from babyllama.config.yaml_reader import read_yaml
from babyllama.research.sweep_names import recipe_name, value_text
from babyllama.research.sweep_plan import Axis, Run, SweepOptions, SweepPlan, check_extension, plan_sweep
from babyllama.research.sweep_runs import Sweep, _last_words, _run_child, plan_line, results_table, runs_as_csv
from babyllama.training.stop_signals import StopSignals

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows' exit codes name no signal")

ROOT = Path(__file__).resolve().parents[2]
BASE = {"model.type": "Llama", "model.name": "m", "model.hidden_size": 64, "training.batch_size": 8}


def build(overrides: Mapping[str, Any]) -> Config:
    return load_config(None, (), BASE | dict(overrides))


def plan(*grids: str, **more: Any) -> SweepPlan:
    return plan_sweep(SweepOptions(grids=grids, **more), build)


def names(found: SweepPlan) -> list[str]:
    return [run.name for run in found.runs]


def test_a_grid_is_every_combination_and_seeds_go_round_outermost() -> None:
    found = plan("training.lr=1e-3,3e-3", "model.n_layer=4,6", seeds=2)
    assert found.name == "m-sweep"
    assert found.keys == ("training.lr", "model.n_layer")
    first = ["m-lr1e-3-layer4-seed1", "m-lr1e-3-layer6-seed1", "m-lr3e-3-layer4-seed1", "m-lr3e-3-layer6-seed1"]
    assert names(found) == first + [name.replace("seed1", "seed2") for name in first]
    assert found.runs[5].overrides == {"training.lr": 0.001, "model.n_layer": 6}
    assert found.runs[5].seed == 2
    assert "training.lr" not in found.base
    assert found.base["training.batch_size"] == 8


def test_seeds_alone_are_a_sweep() -> None:
    assert names(plan(seeds=3)) == ["m-seed1", "m-seed2", "m-seed3"]


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["nothing to sweep: --grid training.lr=1e-3,3e-3, or --random N with --range, or --seeds N"]),
    ({"grids": ["training.lr"]}, ["--grid training.lr: write --grid section.key=VALUE,VALUE"]),
    ({"grids": ["training.lr="]}, ["--grid training.lr=: no values: --grid section.key=VALUE,VALUE"]),
    ({"grids": ["training.lr=1e-3,0.001"]}, ["--grid training.lr=1e-3,0.001: 1e-3 twice"]),
    ({"grids": ["training.lrr=1,2"]}, ["--grid training.lrr: unknown key; did you mean training.lr?"]),
    ({"grids": ["training.lr=fast"]}, ["--grid training.lr: 'fast': input should be a valid number"]),
    ({"grids": ["model.n_head=5,8"]}, ["command line: model.n_head: 5 does not divide hidden_size 64; these do: "]),
    (
        {"grids": ["training.seed=1,2"]},
        ["--grid training.seed: the sweep sets it: --seeds N trains each recipe with the seeds 1 to N"],
    ),
    (
        {"seeds": 2, "taken": {"training.seed": "--seed"}},
        ["--seed: the sweep sets it: --seeds N trains each recipe with the seeds 1 to N"],
    ),
    (
        {"grids": ["model.name=a,b"]},
        ["--grid model.name: the sweep names its runs; --model-name NAME is what they begin with"],
    ),
    (
        {"grids": ["training.lr=1,2"], "taken": {"training.lr": "--lr"}},
        ["--grid training.lr: --lr sets it too: leave one of them out"],
    ),
    (
        {"grids": ["training.lr=1,2", "training.lr=3"]},
        ["training.lr: given 2 times: put all its values into one flag"],
    ),
    ({"ranges": ["training.lr=1e-3..1e-2"]}, ["--range: say how many recipes to draw: --random N"]),
    ({"draws": 3}, ["--random: from what? --range training.lr=1e-4..1e-2:log"]),
    ({"draws": 0, "ranges": ["training.lr=1..2"]}, ["--random 0: at least 1"]),
    ({"seeds": 0, "grids": ["training.lr=1"]}, ["--seeds 0: at least 1"]),
    (
        {"draws": 1, "ranges": ["training.lr=1e-3"]},
        ["--range training.lr=1e-3: write --range section.key=LOW..HIGH, with :log and :int behind it"],
    ),
    ({"draws": 1, "ranges": ["training.lr=2..1"]}, ["--range training.lr=2..1: 2 is not below 1"]),
    ({"draws": 1, "ranges": ["training.lr=0..1:log"]}, ["--range training.lr=0..1:log: a logarithmic range begins"]),
    ({"draws": 1, "ranges": ["training.lr=1..2:exp"]}, ["--range training.lr=1..2:exp: exp: unknown; known: log, int"]),
    ({"draws": 1, "ranges": ["model.n_layer=1..2.5"]}, ["--range model.n_layer=1..2.5: its ends must be whole"]),
    ({"draws": 1, "ranges": ["training.lr=11..12"]}, ["--range training.lr: 11", "input should be less than 10"]),
]


@pytest.mark.parametrize(("options", "messages"), BAD, ids=[row[1][0][:50] for row in BAD])
def test_a_fault_in_the_flags_is_one_line(options: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_sweep(SweepOptions(**options), build)
    assert len(caught.value.problems) == 1
    for message in messages:
        assert message in caught.value.problems[0]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        plan("x", "training.lrr=1", "model.n_layer=a,4,2.5", "training.lr=1e-3", taken={"training.lr": "--lr"})
    assert len(caught.value.problems) == 5
    with pytest.raises(ConfigError) as caught:
        plan(f"model.n_head={','.join(str(n) for n in range(100, 150))}")
    assert caught.value.problems[20:] == ["and 30 more problems"]


def test_draws_are_the_same_again_and_a_longer_search_begins_with_the_shorter() -> None:
    ranges = ["training.lr=1e-4..1e-2:log", "model.n_layer=2..6", "training.weight_decay=0..0.2"]
    few, more = (plan("training.optimizer=adamw,muon", ranges=ranges, draws=n).recipes for n in (5, 9))
    assert more[:5] == few
    turned = plan("training.optimizer=adamw,muon", ranges=ranges[::-1], draws=9).recipes
    assert [r.overrides for r in turned] == [r.overrides for r in more]  # whatever the order of the flags
    assert plan(ranges=ranges, draws=9, draw_seed=1).recipes[0] != plan(ranges=ranges, draws=9).recipes[0]
    first = plan(ranges=ranges[:1], draws=1).recipes[0]
    assert first.overrides == {"training.lr": 0.00488}  # random.Random(0).random() is 0.844 on every machine
    assert {type(recipe.overrides["model.n_layer"]) for recipe in more} == {int}  # without :int, from the schema


def test_a_small_space_gives_what_it_has() -> None:
    found = plan("training.optimizer=adamw,muon", ranges=["model.n_layer=2..3"], draws=50)
    assert len(found.recipes) == 4
    assert found.notes == ("--random 50: there are only 4 different recipes",)


def test_a_range_is_covered_evenly_and_never_left() -> None:
    axis = Axis("training.lr", low=1.2345e-4, high=1e-2, log=True)
    drawn = [axis.draw(i / 1000) for i in range(1000)]
    assert min(drawn) == 1.2345e-4
    assert max(drawn) <= 1e-2
    assert sum(value < 1.1111e-3 for value in drawn) == pytest.approx(500, abs=5)  # below the geometric mean
    layers = Axis("model.n_layer", low=2, high=5, whole=True)
    counts = [sum(layers.draw(i / 1000) == n for i in range(1000)) for n in (2, 3, 4, 5)]
    assert counts == [250] * 4


@pytest.mark.parametrize("value", [0.003, 1.37e-5, 0.1, 1.0, 6, 250000.0, True, None, "muon", "1e-3", "a: b", [1, "x"]])
def test_a_value_is_read_back_as_it_was(value: Any) -> None:
    assert read_yaml(value_text(value), "value") == value


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"training.adam_beta1": 0.9}, "m-adam_beta1-0.9"),
        ({"data.clean": False}, "m-clean-false"),
        ({"training.max_steps": None}, "m-max_steps-null"),
        ({"data.train_path": "../texts/a b"}, "m-train_path-texts_a_b-76e3"),
        ({"model.dropout": 0.1, "training.dropout": 0.2}, "m-model_dropout0.1-training_dropout0.2"),
    ],
)
def test_names_of_recipes(overrides: dict[str, Any], name: str) -> None:
    assert recipe_name("m", overrides, list(overrides)) == name


def test_values_that_a_folder_name_cannot_hold_stay_apart() -> None:
    found = plan("data.train_path=/a/b,a_b", "data.eval_path=x")
    assert len({recipe.name for recipe in found.recipes}) == 2


def saved(found: SweepPlan) -> dict[str, Any]:
    runs = [{"name": run.name} for run in found.runs]
    return {"base": dict(found.base), "keys": list(found.keys), "runs": runs, "failed": {}}


def test_more_seeds_and_values_go_into_the_same_folder() -> None:
    old = saved(plan("training.lr=1e-3,3e-3", seeds=1))
    assert check_extension("f", old, plan("training.lr=3e-3,1e-3", seeds=1)) == 0
    assert check_extension("f", old, plan("training.lr=1e-3,3e-3,1e-2", seeds=2)) == 4


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (["training.lr=1e-3"], "m-lr3e-3-seed1 is not in this plan"),
        (["training.lr=1e-3,3e-3", "model.n_layer=2"], "swept keys: training.lr -> training.lr, model.n_layer"),
    ],
)
def test_another_grid_in_the_same_folder_is_refused(grids: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_extension("f", saved(plan("training.lr=1e-3,3e-3")), plan(*grids))
    way_out = "Choose another --model-name, or replace it with --overwrite."
    assert str(caught.value) == f"f: holds another sweep ({message}). {way_out}"


def test_another_base_in_the_same_folder_is_refused() -> None:
    old = saved(plan("training.lr=1e-3"))
    old["base"] |= {"training.max_steps": 20, "training.batch_size": 16, "model.n_layer": 1, "plugins": ["x"]}
    with pytest.raises(ConfigError) as caught:
        check_extension("f", old, plan("training.lr=1e-3"))
    assert "training.max_steps: 20 -> null" in str(caught.value)
    assert "; and 1 more)" in str(caught.value)


# The folder


def finished(folder: Path, run: Run, bits: float) -> None:
    figures = {"eval_bits_per_byte": bits, "eval_perplexity": 9.0, "eval_loss": 2.2, "train_tokens": 100}
    more = {"train_seconds": 2.0, "num_parameters": 1000, "held_out_fingerprint": "same", "finished": True}
    write_json(folder / run.name / "training_metrics.json", figures | more)


def documented() -> set[str]:
    text = (
        (ROOT / "docs/results.md")
        .read_text(encoding="utf-8")
        .split("## sweep_results.json (version 1)")[1]
        .split("\n## ")[0]
    )
    return set(re.findall(r"`([\w.]+)`", text))


def test_recipes_are_ranked_by_their_means_and_one_with_failed_seeds_is_not_best(tmp_path: Path) -> None:
    sweep = Sweep(plan("training.lr=1e-3,3e-3,1e-2", seeds=2), tmp_path, [])
    bits = {"m-lr1e-3": (2.0, 2.2), "m-lr3e-3": (1.9, 1.7), "m-lr0.01": (1.0, None)}
    for run in sweep.plan.runs:
        if (value := bits[run.recipe][run.seed - 1]) is not None:
            finished(tmp_path, run, value)
    sweep.failed = {"m-lr0.01-seed2": {"exit_code": 4, "error": "NaN"}}
    assert plan_line(sweep) == "6 runs: 3 recipes x 2 seeds; 5 finished, 1 left, about 2.0 s of training"
    results = sweep.results()
    assert [row["name"] for row in results["recipes"]] == ["m-lr0.01", "m-lr3e-3", "m-lr1e-3"]
    assert results["best"] == "m-lr3e-3"
    assert results["recipes"][1]["bits_per_byte"] == pytest.approx(1.8)
    assert results["recipes"][1]["sd"] == pytest.approx(0.2 / 2**0.5)
    assert "optimistic" in results["notes"][0]
    assert "failed seeds" in results["notes"][1]
    assert set(results) | set(results["runs"][0]) | set(results["recipes"][0]) <= documented()
    table = results_table(results, 2)
    assert table.rows[1] == ("2", "3e-3", "1.8000 ± 0.1414", "2 of 2", "2.0 s", "1,000")
    rows = list(csv.DictReader(runs_as_csv(results).splitlines()))
    assert [row["state"] for row in rows] == ["finished"] * 5 + ["failed"]
    assert rows[1] == rows[1] | {"training.lr": "3e-3", "seed": "1", "bits_per_byte": "1.9"}


def test_runs_without_their_plan_are_not_taken_over(tmp_path: Path) -> None:
    sweep = Sweep(plan("training.lr=1e-3"), tmp_path, [])
    (tmp_path / "m-lr1e-3-seed1").mkdir()
    with pytest.raises(ConfigError, match=r"holds runs without a whole sweep\.json"):
        sweep.open(overwrite=False)
    sweep.open(overwrite=True)
    assert not (tmp_path / "m-lr1e-3-seed1").exists()
    assert read_json(tmp_path / "sweep.json")["keys"] == ["training.lr"]


def test_overwrite_touches_no_folder_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "m-lr1e-3-seed1").mkdir()
    (tmp_path / "m-lr1e-3-seed1" / "thesis.tex").write_text("text", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a run of ours"):
        Sweep(plan("training.lr=1e-3"), tmp_path, []).open(overwrite=True)
    assert (tmp_path / "m-lr1e-3-seed1" / "thesis.tex").exists()


def test_a_sweeps_folder_stands_for_its_finished_runs(tmp_path: Path) -> None:
    sweep = Sweep(plan("training.lr=1e-3,3e-3"), tmp_path / "s", [])
    sweep.open(overwrite=False)
    finished(tmp_path / "s", sweep.plan.runs[1], 2.0)
    (tmp_path / "t").mkdir()
    assert run_folders([str(tmp_path / "*")]) == [tmp_path / "s" / "m-lr3e-3-seed1", str(tmp_path / "t")]


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_command(main.main, ["sweep", "--seeds", "2"]) == 2
    assert "error: sweep: start it as one process, without torchrun" in capsys.readouterr().err


# Children

CHILD = """
import os, sys, time
from babyllama.training.stop_signals import StopSignals
with StopSignals() as signals:
    print("started", os.getpid(), flush=True)
    for _ in range(3000):
        if signals.received:
            break
        time.sleep(0.01)
    time.sleep(float(sys.argv[1]))
sys.exit(128 + signals.received)
"""


def _stop(log: Path, signals: StopSignals, also_child: bool) -> None:
    while not re.search(r"started \d+\n", log.read_text(encoding="utf-8") if log.exists() else ""):
        time.sleep(0.01)
    if also_child:
        os.kill(int(log.read_text(encoding="utf-8").split("started ")[1].split()[0]), signal.SIGTERM)
    signals.received = signal.SIGTERM


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux has them")
@pytest.mark.parametrize("also_child", [False, True], ids=["only we got it", "the whole group got it"])
def test_a_signal_reaches_a_child_exactly_once(
    tmp_path: Path, also_child: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one would end it at once (training/stop_signals.py): it could not sleep and say its own code."""
    log, signals = tmp_path / "log", StopSignals()
    threading.Thread(target=_stop, args=(log, signals, also_child), daemon=True).start()
    started = time.monotonic()
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert _run_child([sys.executable, str(tmp_path / "child.py"), "2"], log, signals) == 128 + signal.SIGTERM
    assert time.monotonic() - started > 2
    assert log.read_text(encoding="utf-8").count("finishing the step") == 1


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("$ old\nerror: old\n$ new\nloss 1\nerror: data: no such file\n", 2, "data: no such file"),
        ("$ c\ninternal error: ValueError: x\n", 1, "internal error: ValueError: x"),
        pytest.param("$ c\n", -9, "ended by SIGKILL (the system may have run out of memory)", marks=posix),
        pytest.param("$ c\n", -11, "ended by SIGSEGV", marks=posix),
        ("$ c\n", 3, "it did not say why"),
    ],
)
def test_why_a_run_ended(tmp_path: Path, text: str, code: int, words: str) -> None:
    (tmp_path / "log").write_text(text, encoding="utf-8")
    assert _last_words(tmp_path / "log", code) == words


# The command

TINY = """
model: {type: Mine, name: tiny, hidden_size: 32, n_head: 2}
data: {vocab_size: 400, seq_length: 32, synthetic_words: 2000}
training: {batch_size: 8, max_steps: 6, device: cpu, torch_compile: false, bf16: false}
"""
PLUGIN = """
import os, pathlib, signal
from babyllama.models.architectures import build_model
from babyllama.plugins import register_architecture

def build(config, tokenizer):
    if config.model.n_layer == 2 and config.training.lr == 0.01 and pathlib.Path(MARK).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    own = config.model_copy(deep=True)
    own.model.type = "Llama"
    return build_model(own, tokenizer)

register_architecture("Mine", build)
"""


def _arguments(folder: Path, *more: str) -> list[str]:
    (folder / "tiny.yaml").write_text(TINY + f"plugins: [{folder / 'mine.py'}]\n", encoding="utf-8")
    (folder / "mine.py").write_text(PLUGIN.replace("MARK", repr(str(folder / "crash"))), encoding="utf-8")
    grid = ["--grid", "training.lr=3e-3,1e-2", "--grid", "model.n_layer=1,2"]
    return ["sweep", "--config", str(folder / "tiny.yaml"), "--output-dir", str(folder / "models"), *grid, *more]


def _until(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def _killed_in_the_second_run(arguments: Sequence[str], sweep: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "main.py", *arguments], cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL
    )
    _until(lambda: len(list(sweep.glob("*/training_config.yaml"))) == 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_a_sweep_is_killed_crashes_and_comes_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "models" / "tiny-sweep"
    arguments = _arguments(tmp_path)
    _killed_in_the_second_run(arguments, sweep)
    first = sweep / "tiny-lr3e-3-layer1-seed1" / "training_metrics.json"
    written = first.stat().st_mtime_ns
    assert not (sweep / "sweep_results.json").exists()

    (tmp_path / "crash").touch()
    capsys.readouterr()
    assert run_command(main.main, arguments) == 1
    told = capsys.readouterr()
    assert "4 runs: 4 recipes x 1 seed; 1 finished, 3 left" in told.out
    assert "2/4 tiny-lr3e-3-layer2-seed1: going on" in told.out
    assert "error: 4/4 tiny-lr0.01-layer2-seed1: failed (exit -9): ended by SIGKILL" in told.err
    assert first.stat().st_mtime_ns == written  # a finished run is not trained again
    assert [row["state"] for row in read_json(sweep / "sweep_results.json")["runs"]] == ["finished"] * 3 + ["failed"]

    (tmp_path / "crash").unlink()
    assert run_command(main.main, [*arguments, "--dry-run"]) == 0
    assert "4 runs: 4 recipes x 1 seed; 3 finished, 1 left" in capsys.readouterr().out
    assert run_command(main.main, arguments) == 0
    told = capsys.readouterr()
    assert "4/4 tiny-lr0.01-layer2-seed1: " in told.out
    assert "optimistic figure" in told.out
    results = read_json(sweep / "sweep_results.json")
    assert [row["state"] for row in results["runs"]] == ["finished"] * 4
    bits = [row["bits_per_byte"] for row in results["recipes"]]
    assert bits == sorted(bits)
    assert all(bits)
    assert "tiny-lr0.01-layer2-seed1" in (sweep / "benchmark_comparison.html").read_text(encoding="utf-8")
    assert len((sweep / "sweep_results.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert not list(sweep.glob("*/checkpoint-*"))
    best = load_config(sweep / "best.yaml")
    assert best.model.name == results["best"]
    assert best.training.lr == results["recipes"][0]["overrides"]["training.lr"]
    plugins.ARCHITECTURES.pop("Mine", None)


@pytest.mark.integration
def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(tmp_path)
    for more, message in (
        (["--benchmarks", "perplexitty"], "--benchmarks: perplexitty: unknown; known: perplexity, "),
        (["--minimal-pairs", "/nowhere"], "--minimal-pairs: /nowhere: not there"),
        (["--train-path", "/nowhere/at"], "data.train_path: /nowhere/at: no such file or folder"),
        (["--resume_from_checkpoint", "x"], "--resume_from_checkpoint: a sweep goes on by itself"),
        (["--lr", "1"], "--grid training.lr: --lr sets it too: leave one of them out"),
        (["--set", "training.lr=1"], "--grid training.lr: --set training.lr=1 sets it too: leave one of them out"),
    ):
        assert run_command(main.main, [*arguments, *more]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    assert not (tmp_path / "models").exists()
    plugins.ARCHITECTURES.pop("Mine", None)


def test_a_signal_between_runs_ends_the_sweep_with_the_command_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(plan("training.lr=1e-3,3e-3"), tmp_path, [])
    for run in sweep.plan.runs:
        finished(tmp_path, run, 2.0)
    monkeypatch.setattr(sys, "argv", ["main.py", "sweep", "--overwrite", "--seeds", "2"])
    monkeypatch.setattr(sweep, "state", lambda name: signal.raise_signal(signal.SIGTERM) or "finished")
    with pytest.raises(Interrupted) as caught:
        sweep.train_all()
    assert str(caught.value) == "stopped at run 1 of 2; go on with the same command: python main.py sweep --seeds 2"
    assert caught.value.exit_code == 143
