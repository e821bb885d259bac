"""Age of acquisition: surprisals against the reference, the fits on curves whose answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.babylm.tasks import acquisition
from babyllama.common.errors import DataError
from tests.babylm import reference

MILESTONES = [10**6 * n for n in (*range(1, 11), *range(20, 101, 10))]


def write_aoa(folder: Path, words: list[str], middles: list[float]) -> Path:
    """Contexts and children's shares in the official form; a child says word n at `middles[n]` months."""
    folder.mkdir(parents=True, exist_ok=True)
    stats = {"count": 1, "frequency": 1.0, "log_freq_per_million": 6.0}
    contexts = [" The dog saw the", "It ran to a "]
    content = {word: [{"context": c, "word_in_context_stats": stats} for c in contexts] for word in words}
    content |= {"a": [{"context": "one letter", "word_in_context_stats": stats}], "empty": []}
    (folder / acquisition.CONTEXTS).write_text(json.dumps(content), encoding="utf-8")
    lines = [",word," + ",".join(map(str, range(16, 31)))]
    for number, (word, middle) in enumerate(zip(words, middles, strict=True)):
        shares = [1 / (1 + math.exp(-0.6 * (age - middle))) for age in range(16, 31)]
        lines.append(f"{number},{word}," + ",".join(f"{share:.5f}" for share in shares))
    (folder / acquisition.HUMAN).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_surprisals_agree_with_the_reference(pair: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = pair
    folder = write_aoa(tmp_path, ["dog", "school", "blicket"], [18, 20, 22])
    found = acquisition.read_contexts(folder / acquisition.CONTEXTS)
    assert [(o.word, o.number) for o in found] == [(w, n) for w in ("dog", "school", "blicket") for n in (0, 1)]
    values = acquisition.surprisals(model, tokenizer, found)
    expected = [reference.aoa_surprisal(model, tokenizer, o.context, o.word) for o in found]
    assert values == pytest.approx(expected, abs=2e-4)


def test_a_child_says_a_word_where_the_curve_passes_one_half(tmp_path: Path) -> None:
    human = acquisition.read_human(write_aoa(tmp_path, ["dog", "late"], [21.3, 60.0]) / acquisition.HUMAN)
    assert acquisition.child_age(human["dog"]) == pytest.approx(21.3, abs=0.01)
    assert acquisition.child_age(human["late"]) is None
    assert acquisition.child_age(np.full(15, np.nan)) is None


@pytest.mark.parametrize("bounded", [True, False])
def test_a_model_learns_a_word_between_chance_and_its_best(bounded: bool) -> None:
    x = np.log10(np.array(MILESTONES) + 1)
    values = 10 - 6 / (1 + np.exp(-5 * (x - 7.2)))  # from 10 nats down to about 4
    low = float(values.min())
    age = acquisition.model_age(MILESTONES, values.tolist(), chance=10.0, bounded=bounded)
    level = (10.0 + low) / 2
    expected = 7.2 - math.log(6 / (10 - level) - 1) / 5
    assert age == pytest.approx(expected, abs=1e-3)
    assert acquisition.model_age(MILESTONES, values.tolist(), chance=40.0, bounded=bounded) is None
    assert acquisition.model_age(MILESTONES[:2], values[:2].tolist(), 10.0, bounded) is None


def _results(words: list[str], middles: list[float], contexts: int = 3, noise: float = 0.0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"step": f"chck_{m // 10**6}M", "word_count": m, "target_word": word, "context_id": c, "context": "",
         "surprisal": 10 - 6 / (1 + math.exp(-6 * (math.log10(m) - middle))) + noise * float(rng.normal())}
        for m in MILESTONES for word, middle in zip(words, middles, strict=True) for c in range(contexts)
    ]  # fmt: skip


def test_the_figure_is_the_correlation_over_words_with_both_ages(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from scipy.stats import pearsonr

    words = ["the", "dog", "old", "cat"]
    children = [18.0, 21.0, 24.0, 26.0]
    human = acquisition.read_human(write_aoa(tmp_path, words, children) / acquisition.HUMAN)
    own = [6.6, 6.8, 7.1, 7.15]
    found = acquisition.figure(_results(words, own), human, tiny_tokenizer, "means")
    assert found["num_words"] == 4
    assert found["p_value"] < 0.1
    assert found["aoa"] == pytest.approx(pearsonr(own, children)[0], abs=0.02)
    against = acquisition.figure(_results(words, own[::-1]), human, tiny_tokenizer, "means")
    assert against["aoa"] < -0.9
    few = acquisition.figure(_results(words[:2], own[:2]), human, tiny_tokenizer, "means")
    assert few["aoa"] == 0.0
    assert few["num_words"] == 2
    unclear = acquisition.figure(_results(words, [6.9, 6.7, 7.0, 6.8]), human, tiny_tokenizer, "means")
    assert unclear["p_value"] > 0.1
    assert unclear["aoa"] == 0.0


def test_the_fits_of_both_years_on_the_same_points(tmp_path: Path, tiny_tokenizer: Any) -> None:
    words, children = ["the", "dog", "old", "cat"], [18.0, 21.0, 24.0, 26.0]
    human = acquisition.read_human(write_aoa(tmp_path, words, children) / acquisition.HUMAN)
    results = _results(words, [6.6, 6.8, 7.1, 7.15], noise=0.3)
    broken = [entry | {"surprisal": None} if entry["step"] == "chck_3M" else entry for entry in results]
    for fit in ("means", "points"):
        found = acquisition.figure(broken, human, tiny_tokenizer, fit)
        assert found["num_words"] == 0 or -1 <= found["aoa"] <= 1
    assert acquisition.figure(broken, human, tiny_tokenizer, "means")["num_words"] == 4
    assert acquisition.word_tokens(tiny_tokenizer, "dog") >= 1


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cdi_childes"):
        acquisition.read_contexts(tmp_path / acquisition.CONTEXTS)
    (tmp_path / acquisition.HUMAN).write_text("word,16\ndog,x\n", encoding="utf-8")
    with pytest.raises(DataError, match="cdi_human"):
        acquisition.read_human(tmp_path / acquisition.HUMAN)


@pytest.mark.integration
def test_the_real_contexts_are_complete(test_data: Path) -> None:
    found = acquisition.read_contexts(test_data / "evals/babylm/aoa" / acquisition.CONTEXTS)
    assert len(found) == 8005
