"""The choice tasks against the slow reference, item by item, for both rule sets."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.babylm.rules import load_rules
from babyllama.babylm.tasks import zero_shot
from babyllama.babylm.tasks.forest import Query, lay_out, supports_forest, token_scores
from babyllama.babylm.tasks.items import Item, check_sizes, read_items
from babyllama.babylm.tasks.ranking import TextTooLong, choose, encode_spans, rank_items
from babyllama.common.errors import DataError
from tests.babylm import reference
from tests.babylm.conftest import made_items, write_jsonl

CASES = [  # year, task, made items, the reference's kind, file
    (2025, "blimp", "blimp", "blimp", "number"),
    (2026, "blimp_supplement", "supplement", "blimp", "turn_taking"),
    (2025, "ewok", "ewok", "ewok_2025", "d0"),
    (2026, "ewok", "ewok", "ewok_2026", "d0"),
    (2025, "entity_tracking", "entity", "entity", "move_contents"),
    (2026, "entity_tracking", "entity", "entity", "ambiref"),
    (2025, "comps", "comps", "comps", "comps_wugs_dist-in-between"),
    (2026, "comps", "comps", "comps", "comps_base"),
    (2026, "global_piqa_parallel", "piqa", "piqa", "eng_latn"),
    (2025, "wug_adj", "wug", "wug", "wug_adj_nominalization"),
    (2025, "wug_past", "wug", "wug", "wug_past_tense"),
]


@pytest.mark.parametrize(("year", "name", "made", "kind", "stem"), CASES)
def test_every_task_agrees_with_the_reference(
    pair: tuple[Any, Any], tmp_path: Path, year: int, name: str, made: str, kind: str, stem: str
) -> None:
    model, tokenizer = pair
    rules = load_rules(year)
    task = rules.tasks[name]
    lines = made_items(made)
    write_jsonl(tmp_path / f"{stem}.jsonl", lines)
    items = read_items(task, tmp_path)
    choices = rank_items(model, tokenizer, items, ties=rules.ties, mean=task.kind == "global_piqa", name=name)
    if kind == "entity" and year == 2026:
        lines = [line for line in lines if "nothing" not in " ".join(line["options"])]
        assert len(lines) == 4
    found = zero_shot.predictions(task, items, choices)
    expected: dict[str, list[Any]] = {}
    right: dict[str, list[bool]] = {}
    for line, choice in zip(lines, choices, strict=True):
        uid, texts, label = reference.candidates(kind, line, stem)
        scores = [reference.score(model, tokenizer, s, end, mean=kind == "piqa") for s, end, _ in texts]
        common = 0.0 if kind == "piqa" else scores[0] - choice.scores[0]  # what all candidates begin with
        assert choice.scores == pytest.approx([score - common for score in scores], abs=2e-4)
        best = max(scores)
        tied = [i for i, s in enumerate(scores) if s == best]
        assert choice.tied == (len(tied) > 1) == (len({t[0] for t in texts}) == 1)
        assert choice.index in tied
        assert year == 2026 or choice.index == tied[0]
        cell = expected.setdefault(uid, [])
        entry = {"id": f"{uid}_{len(cell)}", "pred": texts[choice.index][2]}
        if kind == "wug":
            a, b = (math.exp(s - best) for s in scores)
            entry["prob"] = pytest.approx(a / (a + b), abs=1e-4)
        cell.append(entry)
        right.setdefault(uid, []).append(texts[choice.index][2].strip() == texts[label][2].strip())
    assert found == {uid: {"predictions": cell} for uid, cell in expected.items()}
    figures = zero_shot.cell_figures(task, items, json.loads(json.dumps(found)))
    if kind != "wug":
        assert figures == {uid: sum(cell) / len(cell) for uid, cell in right.items()}


def test_wug_figure_is_the_rank_correlation(tmp_path: Path) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40) / 5.0, rng.normal(size=40)
    assert zero_shot.spearman(a, b) == pytest.approx(spearmanr(a, b)[0], abs=1e-12)
    assert zero_shot.spearman([1.0, 1.0], [0.2, 0.4]) == 0.0


def test_entity_tracking_averages_files_of_unequal_cells() -> None:
    task = load_rules(2026).tasks["entity_tracking"]
    cells = {"regular_0_ops": 1.0, "regular_1_ops": 0.0, "ambiref_0_ops": 1.0}
    assert zero_shot.task_figure(task, cells) == pytest.approx(0.75)


def test_ties_first_and_random() -> None:
    draws = np.random.default_rng(0)
    picks = {choose([-1.0, -3.0, -1.0], "random", draws).index for _ in range(50)}
    assert picks == {0, 2}
    assert choose([-1.0, -1.0], "first", draws).index == 0
    assert choose([math.nan, -5.0], "random", draws).index == 1
    assert choose([-5.0, math.nan], "first", draws).index == 1


def test_shared_beginnings_and_repeated_texts_are_computed_once(pair: tuple[Any, Any]) -> None:
    model, tokenizer = pair
    texts = ["The dog ran to the house.", "The dog ran to the river.", "The dog ran.", "A cat.", "The dog ran."]
    queries = encode_spans(tokenizer, [(text, text) for text in texts])
    assert supports_forest(model)
    rows = lay_out(queries)
    assert sum(len(row.ids) for row in rows) < sum(len(query.ids) - 1 for query in queries[:4])
    together = token_scores(model, queries, batch_tokens=64)
    model._babyllama_forest_ok = False  # the way of models that take no mask
    alone = token_scores(model, queries)
    model._babyllama_forest_ok = True
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_row_holds_at_most_its_limit() -> None:
    queries = [Query((1, 2, *range(10, 10 + n)), (1,)) for n in range(1, 60)]
    rows = lay_out(queries, row_tokens=16)
    assert sorted(number for row in rows for number, _ in row.wanted) == list(range(59))
    assert all(len(row.ids) <= 16 or len(row.wanted) == 1 for row in rows)


def test_a_token_across_the_border_counts_whole(tiny_tokenizer: Any) -> None:
    [query] = encode_spans(tiny_tokenizer, [("the dog", "og")])
    offsets = tiny_tokenizer("the dog", return_offsets_mapping=True)["offset_mapping"]
    assert query.counted == tuple(i for i, (_, end) in enumerate(offsets) if end > 5)


def test_a_corrupt_line_is_one_message(tmp_path: Path) -> None:
    task = load_rules(2026).tasks["comps"]
    write_jsonl(tmp_path / "comps_base.jsonl", made_items("comps"))
    with (tmp_path / "comps_base.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"prefix_acceptable": "A dax"}\n')
    with pytest.raises(DataError, match=r"comps_base.jsonl: line 10: not an item of comps: no `property_phrase`"):
        read_items(task, tmp_path)
    with pytest.raises(DataError, match="kanishka/comps"):
        read_items(task, tmp_path / "empty")


def test_wrong_sizes_name_cell_found_and_wanted() -> None:
    task = load_rules(2026).tasks["ewok"]
    counts = dict.fromkeys(task.sizes(True), 100)
    assert check_sizes(task, True, counts, "x") == []
    counts["social-relations"] = 99
    assert check_sizes(task, True, counts, "x") == ["x: cell social-relations: 99 found, 100 wanted"]
    piqa = load_rules(2026).tasks["global_piqa_parallel"]
    assert check_sizes(piqa, False, {f"eng_{n}": 1 for n in range(102)}, "y") == ["y: 102 items found, 103 wanted"]


def test_the_filter_of_2026_leaves_the_official_numbers_of_entity_items(tmp_path: Path) -> None:
    """Items in the form of entity tracking, in the numbers of 2025, of which some offer "nothing" in some place."""
    before, after = (load_rules(year).tasks["entity_tracking"] for year in (2025, 2026))
    files: dict[str, list[dict[str, Any]]] = {}
    for uid, number in before.sizes(False).items():
        stem, operations = uid.removesuffix("_ops").rsplit("_", 1)
        for place in range(number):
            options = ["the dax", "the wug", "the fep", "the zib", "the toma"]
            if place < number - after.sizes(False)[uid]:
                options[place % 5] = "nothing"
            item = {
                "sample_id": place,
                "numops": int(operations),
                "input_prefix": "Box 0 contains ",
                "options": options,
            }
            files.setdefault(stem, []).append(item)
    for stem, lines in files.items():
        write_jsonl(tmp_path / f"{stem}.jsonl", lines)
    for task, number in ((before, 9_483), (after, 6_780)):
        items = read_items(task, tmp_path)
        assert len(items) == number
        assert check_sizes(task, False, dict(Counter(item.uid for item in items)), "x") == []


def test_a_text_beyond_learned_positions_is_refused_and_beyond_rotary_ones_is_not(
    tiny_gpt2: Any, tiny_llama: Any, tiny_tokenizer: Any
) -> None:
    text = "The dog ran. " * 300
    items = [Item("x", (text + "It saw.", text + "It ate."), ("It saw.", "It ate."), ("It saw.", "It ate."))]
    with pytest.raises(TextTooLong, match=r"entity_tracking: its longest text has .* only 512 positions"):
        rank_items(tiny_gpt2, tiny_tokenizer, items, ties="first", name="entity_tracking")
    assert len(rank_items(tiny_llama, tiny_tokenizer, items, ties="first")) == 1
