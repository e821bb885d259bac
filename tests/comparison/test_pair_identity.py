"""Table, ranking and test are of the same items under one identity; a score is of the pairs, not of a folder's name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from babyllama.common.errors import ConfigError, DataError
from babyllama.comparison.options import BenchmarkConfig
from babyllama.evaluation.minimal_pairs import load_pair_sets
from benchmark import BenchmarkSuite


def write_pairs(folder: Path, count: int = 40, ids: int | None = None, uid: str = "rule") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("dog", "cat", "girl", "boy", "bird")
    rows = [
        {
            "sentence_good": f"The {names[n % 5]} runs to the {names[(n + 2) % 5]} {n}.",
            "sentence_bad": f"The {names[n % 5]} run to the {names[(n + 2) % 5]} {n}.",
            "pairID": str(n % ids if ids else n),
            "UID": uid,
        }
        for n in range(count)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def two_runs(tiny_run: Path, tiny_gpt2: object, tmp_path: Path) -> list[Path]:
    a, b = Path(shutil.copytree(tiny_run, tmp_path / "a")), Path(shutil.copytree(tiny_run, tmp_path / "b"))
    tiny_gpt2.save_pretrained(b)
    return [a, b]


def compare(runs: list[Path], folders: list[Path]) -> dict:
    config = BenchmarkConfig(benchmarks=["minimal_pairs"], minimal_pairs=[str(folder) for folder in folders])
    return BenchmarkSuite(runs, device="cpu", config=config).run_all_benchmarks()


def test_repeated_ids_give_one_figure_everywhere(two_runs: list[Path], tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", count=40, ids=2)
    results = compare(two_runs, [folder])
    ranking = next(m for m in results["metrics"] if m["name"] == "minimal_pairs:pairs")["ranking"]
    for row in ranking:
        table = results["runs"][row["name"]]["benchmarks"]["minimal_pairs"]["pairs"]["accuracy"]
        assert row["value"] == pytest.approx(table)
    test = next(c for c in results["comparisons"] if c["metric"] == "minimal_pairs:pairs")
    assert test["units"] == 40


def test_a_renamed_folder_is_compared(two_runs: list[Path], tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs")
    compare(two_runs[:1], [folder])
    moved = folder.rename(tmp_path / "pairs_v2")
    results = compare(two_runs, [moved])
    assert all(list(run["benchmarks"]["minimal_pairs"]) == ["pairs_v2"] for run in results["runs"].values())
    assert any(c["metric"] == "minimal_pairs:pairs_v2" for c in results["comparisons"])


def test_folders_of_one_name_are_told(tmp_path: Path) -> None:
    blimp = write_pairs(tmp_path / "blimp" / "data", uid="one")
    supplement = write_pairs(tmp_path / "supplement" / "data", count=10, uid="two")
    with pytest.raises(ConfigError, match="both called data; give one a name"):
        load_pair_sets([str(blimp), str(supplement)])
    sets = load_pair_sets([f"blimp={blimp}", str(supplement)])
    assert {name: len(pairs) for name, pairs in sets.items()} == {"blimp": 40, "data": 10}


def test_ids_filter_two_folders_together(tmp_path: Path) -> None:
    folders = [str(write_pairs(tmp_path / name, uid=uid)) for name, uid in (("x", "one"), ("y", "two"))]
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps({"one": [1, 2], "two": [3]}), encoding="utf-8")
    assert {name: len(pairs) for name, pairs in load_pair_sets(folders, ids).items()} == {"x": 2, "y": 1}
    ids.write_text(json.dumps({"one": [1, 2], "two": [300]}), encoding="utf-8")
    with pytest.raises(DataError, match="the first that is not: two/300"):
        load_pair_sets(folders, ids)
