"""The rules' files: every count of the official collation, both years, and rules files of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from babyllama.babylm.rules import GLUE, load_rules
from babyllama.common.errors import ConfigError

SCHEDULE = [f"chck_{n}M" for n in (*range(1, 11), *range(20, 101, 10))]


@pytest.mark.parametrize("year", [2025, 2026])
def test_every_official_count_is_enforced(test_data: Path, year: int) -> None:
    wanted = json.loads((test_data / "evals/babylm/expected_counts.json").read_text(encoding="utf-8"))
    full, fast = wanted["full"], wanted["fast"]
    rules = load_rules(year)
    tasks = rules.tasks
    for name in ("blimp", "blimp_supplement", "ewok", "comps"):
        assert tasks[name].sizes(False) == full[name]
    assert tasks["entity_tracking"].sizes(False) == full[f"entity_tracking_{year}"]
    assert tasks["entity_tracking"].sizes(True) == fast[f"entity_tracking_{year}"]
    for name, key in (("blimp", "blimp_each"), ("blimp_supplement", "supplement_each"), ("ewok", "ewok_each")):
        assert tasks[name].sizes(True) == dict.fromkeys(full[name], fast[key])
    assert tasks["reading"].sizes(False) == {"reading": full["reading"]}
    assert tasks["reading"].sizes(True) == {"reading": fast["reading"]}
    assert tasks["aoa"].sizes(False) == {"aoa": full["aoa_per_checkpoint"]}
    assert {name: tasks[name].sizes(False)[name] for name in GLUE} == full["glue"]
    if year == 2025:
        assert tasks["wug_adj"].sizes(False) == tasks["wug_adj"].sizes(True) == {"wug_adj": full["wug_adj_2025"]}
        assert tasks["wug_past"].sizes(False) == tasks["wug_past"].sizes(True) == {"wug_past": full["wug_past_2025"]}
        assert rules.ties == "first"
    else:
        found = {n: tasks[n].one_each for n in ("global_piqa_parallel", "global_piqa_nonparallel")}
        assert found == full["global_piqa_2026"] == fast["global_piqa_2026"]
        assert rules.ties == "random"
    assert rules.track("strict-small").checkpoints == wanted["checkpoints"]["strict-small"] == SCHEDULE
    assert rules.track("strict").checkpoints == wanted["checkpoints"]["other"]


def test_the_places_in_the_submission_tree() -> None:
    tasks = load_rules(2026).tasks
    causal = Path("zero_shot/causal")
    assert tasks["blimp_supplement"].predictions(False) == causal / "blimp/supplement_filtered/predictions.json"
    assert (
        tasks["entity_tracking"].predictions(True) == causal / "entity_tracking/entity_tracking_fast/predictions.json"
    )
    assert tasks["reading"].predictions(True) == causal / "reading/predictions.json"
    assert tasks["aoa"].predictions(False) == causal / "AoA_word/surprisal.json"
    assert tasks["boolq"].predictions(False) == Path("finetune/boolq/predictions.json")
    piqa = tasks["global_piqa_parallel"]
    assert piqa.predictions(True) == causal / "global_piqa_parallel/global_piqa_parallel/predictions.json"


def test_a_rules_file_of_ones_own_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mini.yaml"
    path.write_text(
        "base: 2026\ntasks:\n  comps: null\n  ewok: {cells: {d0: 6}, fast_each: 2}\n"
        "tracks:\n  strict-small: {words: 100k, exposure: 1M, milestones: [10k, 100k]}\n",
        encoding="utf-8",
    )
    rules = load_rules(path)
    assert "comps" not in rules.tasks
    assert rules.tasks["ewok"].sizes(True) == {"d0": 2}
    assert rules.tasks["ewok"].kind == "ewok_contexts"
    assert rules.track("strict-small").checkpoints == ["chck_10k", "chck_100k"]
    assert rules.track("strict-small").epochs == 10
    assert load_rules(2026).tasks["ewok"].sizes(True)["social-relations"] == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: 2026\ntasks:\n  ewok: {colour: red}\n", "tasks.ewok: unknown keys colour"),
        ("base: 2026\ntasks:\n  ewok: {kind: guess}\n", "tasks.ewok.kind: 'guess' is none of"),
        ("base: 2026\nties: last\n", "ties is first or random"),
        ("year: 2027\n", "KeyError"),
        ("- 1\n", "not a rules file"),
    ],
)
def test_wrong_rules_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_rules(path)


def test_unknown_rules_and_tracks_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known are 2025, 2026"):
        load_rules("2024")
    with pytest.raises(ConfigError, match="strict-small, strict"):
        load_rules(2025).track("interaction")
