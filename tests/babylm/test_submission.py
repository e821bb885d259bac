"""From a run folder to the uploaded file, in miniature: what is scored, resumed, collated, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from babyllama.babylm import submission, validator
from babyllama.babylm.data_folder import DataFolder
from babyllama.babylm.rules import load_rules
from babyllama.babylm.tree import COLLATED, MAIN, Tree, read_predictions
from babyllama.common.command import run_command
from main import main
from tests.babylm.mini import write_data, write_rules, write_run

NAMES = ["chck_10k", "chck_50k", "chck_100k"]


@pytest.fixture(scope="module", params=[2025, 2026])
def scored(request: Any, tiny_llama: Any, tiny_tokenizer: Any, tmp_path_factory: Any) -> dict[str, Any]:
    """A scored and fine-tuned run in miniature: paths, rules and the year."""
    folder = tmp_path_factory.mktemp(f"babylm{request.param}")
    data = write_data(folder / "evaluation_data", request.param)
    rules = write_rules(folder / "rules.yaml", request.param, data, [name.removeprefix("chck_") for name in NAMES])
    run = write_run(folder / "models" / "tiny", tiny_llama, tiny_tokenizer, NAMES)
    common = [str(run), "--data", str(data), "--output", str(folder / "results"), "--rules", str(rules)]
    assert main(["babylm", "score", *common]) == 0
    assert main(["babylm", "finetune", *common, "--epochs", "1", "--seeds", "1,2"]) == 0
    return {"folder": folder, "data": data, "rules": rules, "run": run, "common": common, "year": request.param}


def _tree(scored: dict[str, Any]) -> tuple[Tree, DataFolder]:
    rules = load_rules(scored["rules"])
    return Tree(scored["folder"] / "results", scored["run"], rules, rules.track("strict-small")), DataFolder(
        scored["data"], rules
    )


@pytest.mark.integration
def test_every_task_of_every_checkpoint_is_scored_and_a_second_call_scores_nothing(
    scored: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tree, data = _tree(scored)
    assert validator.check_tree(tree, data) == []
    before = {path: path.stat().st_mtime_ns for path in tree.root.rglob("predictions.json")}
    assert len(before) > 30
    assert main(["babylm", "score", *scored["common"]]) == 0
    assert {path: path.stat().st_mtime_ns for path in tree.root.rglob("predictions.json")} == before
    told = capsys.readouterr().out
    assert "of 4 models to score" in told
    assert "overall" in told


def test_evaluate_and_the_page_show_the_same_figures(scored: dict[str, Any], tmp_path: Path) -> None:
    from babyllama.pages.run_page import learning, render
    from evaluate import ModelEvaluator

    tree, _ = _tree(scored)
    (scored["run"] / "babylm_results.json").write_bytes((tree.root / "babylm_results.json").read_bytes())
    header = ModelEvaluator(scored["run"], "cpu").header()
    found = header["babylm"]
    assert found["rules"] == scored["year"]
    page = render({}, {}, [], "", learning(scored["run"]))
    assert f"BabyLM {scored['year']}, strict-small" in page
    assert f"{100 * found['averages']['overall']:.2f}" in page
    (scored["run"] / "babylm_results.json").write_text(
        json.dumps(found | {"weights": "of another model"}), encoding="utf-8"
    )
    assert "babylm" not in ModelEvaluator(scored["run"], "cpu").header()
    (scored["run"] / "babylm_results.json").unlink()


def test_a_killed_score_goes_on_where_it_stopped(scored: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    tree, _ = _tree(scored)
    task = tree.rules.tasks["ewok"]
    path = tree.predictions("chck_50k", task, True)
    content = path.read_bytes()
    (path.parent / "score.json").unlink()  # killed before the task was complete
    path.write_bytes(content[: len(content) // 2])
    assert main(["babylm", "score", *scored["common"]]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("chck_")]
    assert len(told) == 1
    assert told[0].startswith("chck_50k ewok (fast)")
    assert path.read_bytes() == content


def test_a_right_submission_is_collated(scored: dict[str, Any]) -> None:
    tree, _data = _tree(scored)
    assert main(["babylm", "submit", *scored["common"], "--license", "mit"]) == 0
    content = json.loads((tree.root / COLLATED).read_text(encoding="utf-8"))
    if scored["year"] == 2026:
        assert set(content["aoa"]) == {"aoa"}
        assert {entry["step"] for entry in content["aoa_surprisals"]["results"]} == set(NAMES)
        assert "entity_tracking_filtered" in content
        assert "entity_tracking" not in content
    else:
        assert {entry["step"] for entry in content["aoa"]["results"]} == set(NAMES)
        assert "wug_past" in content["fast_eval_results"]
    assert set(content["glue"]) == {"boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc"}
    lists = content["fast_eval_results"]
    assert all(len(entries) == 3 for entries in lists.values())
    assert set(lists["reading"][0]) == {"spr", "rt"}
    # The figures in the file are those that were printed while scoring.
    for number, name in enumerate(NAMES):
        for task in tree.rules.tasks.values():
            if task.fast and task.kind not in ("reading", "wug"):
                cells = tree.score(name, task, True)["cells"]
                assert lists[task.collated][number] == pytest.approx(cells)
    form = (tree.root / "submission_form.md").read_text(encoding="utf-8")
    assert "track: strict-small" in form
    assert "license: mit" in (scored["run"] / "README.md").read_text(encoding="utf-8")


def test_a_wrong_cell_exits_2_and_names_file_cell_found_and_wanted(
    scored: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(scored["folder"] / "results", results)
    path = next(results.rglob("chck_50k/zero_shot/causal/blimp/blimp_fast/predictions.json"))
    content = json.loads(path.read_text(encoding="utf-8"))
    uid = next(iter(content))
    content[uid]["predictions"].pop()
    path.write_text(json.dumps(content), encoding="utf-8")
    arguments = [*scored["common"]]
    arguments[arguments.index("--output") + 1] = str(results)
    assert run_command(main, ["babylm", "submit", *arguments]) == 2
    told = capsys.readouterr().err
    found = len(content[uid]["predictions"])
    assert f"{path}: cell {uid.lower()}: {found} found, {found + 1} wanted" in told
    assert not list(results.rglob(COLLATED))


@pytest.mark.parametrize("broken", ["answer", "aoa", "type", "json"])
def test_other_faults_of_a_submission(
    scored: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    results = tmp_path / "results"
    shutil.copytree(scored["folder"] / "results", results)
    main_dir = next(results.glob("*/main"))
    if broken == "answer":
        path = main_dir / "zero_shot/causal/comps/comps/predictions.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["base"]["predictions"][2]["pred"] = "A gnu can fly."
        wanted = "cell base: prediction 2: 'A gnu can fly.' found"
    elif broken == "aoa":
        path = next(results.glob("*/chck_50k")) / "zero_shot/causal/AoA_word/surprisal.json"
        content = json.loads(path.read_text(encoding="utf-8"))[:-1]
        wanted = "surprisal.json: cell chck_50k: 9 surprisals found, 10 wanted"
    elif broken == "type":
        path = main_dir / "finetune/rte/predictions.json"
        content = {"rte": {"predictions": [{"id": f"rte_{n}", "pred": "1"} for n in range(12)]}}
        wanted = "cell rte: first prediction is str found, int wanted"
    else:
        path, content, wanted = main_dir / "zero_shot/causal/reading/predictions.json", None, "cannot be read"
    path.write_text("{" if content is None else json.dumps(content), encoding="utf-8")
    arguments = [*scored["common"]]
    arguments[arguments.index("--output") + 1] = str(results)
    assert run_command(main, ["babylm", "submit", *arguments]) == 2
    assert wanted in capsys.readouterr().err


def test_missing_checkpoints_cost_points_unless_they_are_filled_and_told(
    scored: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, run = tmp_path / "results", tmp_path / "tiny"
    shutil.copytree(scored["folder"] / "results", results)
    shutil.copytree(scored["run"], run)
    shutil.rmtree(run / "chck_100k")
    shutil.rmtree(results / "tiny" / "chck_100k")
    arguments = [str(run), *scored["common"][1:]]
    arguments[arguments.index("--output") + 1] = str(results)
    code = run_command(main, ["babylm", "submit", *arguments])
    told = capsys.readouterr()
    if scored["year"] == 2025:
        assert code == 2
        assert "chck_100k" in told.err
    else:
        assert code == 0
        assert "missing, counts as 0" in told.out
        content = json.loads((results / "tiny" / COLLATED).read_text(encoding="utf-8"))
        assert content["aoa_surprisals"] is None
        assert content["fast_eval_results"]["blimp"][2] is None
    assert run_command(main, ["babylm", "submit", *arguments, "--fill-missing"]) == 0
    assert "chck_100k is missing: the predictions of chck_50k stand in for it" in capsys.readouterr().out
    form = (results / "tiny" / "submission_form.md").read_text(encoding="utf-8")
    assert "predictions repeated: chck_100k = chck_50k" in form
    content = json.loads((results / "tiny" / COLLATED).read_text(encoding="utf-8"))
    surprisals = content["aoa" if scored["year"] == 2025 else "aoa_surprisals"]["results"]
    last = [entry for entry in surprisals if entry["step"] == "chck_100k"]
    assert len(last) == 10
    assert last[0]["word_count"] == 100_000
    assert content["fast_eval_results"]["blimp"][2] == content["fast_eval_results"]["blimp"][1]
    # Without the flag the copies go away again.
    run_command(main, ["babylm", "submit", *arguments])
    assert not (results / "tiny" / "chck_100k").exists()


def test_data_that_lacks_an_item_is_one_line(
    scored: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scored["data"], data)
    path = data / "full_eval/comps/comps_base.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    arguments = [*scored["common"]]
    arguments[arguments.index("--data") + 1] = str(data)
    assert run_command(main, ["babylm", "score", *arguments]) == 2
    told = capsys.readouterr().err.strip()
    assert "full_eval/comps: cell base: 8 found, 9 wanted" in told
    assert told.count("\n") == 0


def test_tasks_without_data_are_named_with_their_source(
    scored: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(scored["data"], data)
    shutil.rmtree(data / "full_eval/ewok_filtered")
    arguments = [*scored["common"]]
    arguments[arguments.index("--data") + 1] = str(data)
    arguments[arguments.index("--output") + 1] = str(tmp_path / "results")
    assert main(["babylm", "score", *arguments, "--tasks", "ewok,comps"]) == 0
    told = capsys.readouterr().out
    assert "missing: ewok" in told
    assert "ewok-core/ewok-core-1.0" in told
    assert run_command(main, ["babylm", "score", *arguments, "--tasks", "rte"]) == 2
    assert "known: blimp" in capsys.readouterr().err


def test_fill_missing_needs_a_checkpoint(tmp_path: Path, tiny_run: Path) -> None:
    rules = load_rules(2026)
    tree = Tree(tmp_path, tiny_run, rules, rules.track("strict-small"))
    assert len(tree.missing_checkpoints()) == 19
    with pytest.raises(Exception, match="none of the 19 checkpoints"):
        submission.fill_missing(tree)


def test_the_reading_file_holds_a_bare_nan(scored: dict[str, Any]) -> None:
    tree, _ = _tree(scored)
    path = tree.predictions(MAIN, tree.rules.tasks["reading"], False)
    assert "NaN" in path.read_text(encoding="utf-8")
    assert isinstance(read_predictions(path)["reading"]["predictions"][0]["pred"], float)


def test_a_task_with_too_long_texts_does_not_keep_the_others_waiting(
    tiny_gpt2: Any, tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", 2026, glue=False)
    path = data / "full_eval/comps/comps_wugs.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[0]["prefix_acceptable"] = "The dog ran to school. " * 200
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rules = write_rules(tmp_path / "rules.yaml", 2026, data, ["10k"])
    run = write_run(tmp_path / "gpt", tiny_gpt2, tiny_tokenizer, [])
    common = ["--data", str(data), "--output", str(tmp_path / "results"), "--rules", str(rules)]
    assert main(["babylm", "score", str(run), *common, "--tasks", "comps,ewok,reading"]) == 1
    told = capsys.readouterr().out
    assert "not scored: main: comps: its longest text has" in told
    assert "main ewok: " in told
    assert "main reading: " in told
