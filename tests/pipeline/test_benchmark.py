"""The comparison of runs from end to end on tiny real models, its tables, its page, its cache and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import benchmark
from babyllama import plugins
from babyllama.common.command import run_command
from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json, write_json
from babyllama.comparison.differences import ScoredRun, compare_all, group_runs, items_of, metrics_of
from babyllama.comparison.options import BenchmarkConfig, load_benchmark_config
from babyllama.comparison.paired_tests import holm
from babyllama.comparison.runs import BenchmarkRun, groups_of
from babyllama.evaluation.consistency import consistency
from babyllama.pages.comparison_figures import pareto_front
from babyllama.pages.comparison_page import render, verdicts
from babyllama.pages.comparison_tables import all_tables, quality_table
from babyllama.pages.tables import TableData
from babyllama.pages.tables import render as render_table
from benchmark import BenchmarkSuite

TEXT = "".join(
    f"The dog number {n} ran to the old house.\nShe looked at the little dog.\n<|endoftext|>\n" for n in range(12)
)


@pytest.fixture(scope="module")
def runs(
    tiny_llama: Any, tiny_gpt2: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two models of one tokenizer, and a text to score them on."""
    folder = tmp_path_factory.mktemp("runs")
    for name, model in (("llama", tiny_llama), ("gpt2", tiny_gpt2)):
        model.save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return {"llama": folder / "llama", "gpt2": folder / "gpt2", "text": folder / "text.txt"}


def config(runs: dict[str, Path], **keys: Any) -> BenchmarkConfig:
    return BenchmarkConfig(eval_data=[str(runs["text"])], num_samples=2, completion_items=8, **keys)


def test_all_benchmarks_results_and_page(runs: dict[str, Path], tmp_path: Path) -> None:
    suite = BenchmarkSuite([runs["llama"], runs["gpt2"]], device="cpu", config=config(runs))
    results = suite.run_all_benchmarks()
    page = suite.save(results, tmp_path)
    written = read_json(tmp_path / "benchmark_results.json")
    assert written["schema_version"] == 1
    assert set(written["runs"]) == {"llama", "gpt2"}
    for run in written["runs"].values():
        assert run["benchmarks"]["perplexity"]["bits_per_byte"] > 0
        assert run["benchmarks"]["speed"]["batch_1_tokens_per_second"] > 0
        assert -1 <= run["benchmarks"]["consistency"]["consistency"] <= 1
        assert run["cost"]["train_seconds"] is None
    [entry] = [c for c in written["comparisons"] if c["metric"] == "bits_per_byte"]
    values = [written["runs"][name]["benchmarks"]["perplexity"]["bits_per_byte"] for name in (entry["a"], entry["b"])]
    assert entry["difference"] == pytest.approx(values[0] - values[1], abs=1e-9)
    assert "one seed each" in entry["note"]
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert "not about their recipes: the seeds" in html
    assert "BLiMP" in " ".join(written["notes"])


def test_scores_come_from_the_cache_until_a_weight_changes(runs: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(runs["llama"], tmp_path / "llama")
    keys = {"benchmarks": ["perplexity", "completion"], "seed": 3}

    def hits() -> int:
        suite = BenchmarkSuite([copy, runs["gpt2"]], device="cpu", config=config(runs, **keys))
        suite.run_all_benchmarks()
        return suite.cache.hits

    assert (hits(), hits()) == (0, 4)
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert hits() == 2


def test_a_good_run_among_broken_ones(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    broken = shutil.copytree(runs["llama"], tmp_path / "broken")
    with (broken / "model.safetensors").open("r+b") as handle:
        handle.truncate(1000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    folders = [str(p) for p in (runs["llama"], broken, tmp_path / "empty", tmp_path / "notes.txt")]
    arguments = [*folders, "--eval-data", str(runs["text"]), "--benchmarks", "perplexity", "--device", "cpu"]
    assert run_command(benchmark.main, [*arguments, "--output", str(tmp_path), "--format", "markdown"]) == 1
    out, err = capsys.readouterr()
    assert "| llama |" in out
    assert len(err.strip().splitlines()) == 3
    for name in ("broken", "empty", "notes.txt"):
        assert name in err


def test_nothing_to_compare_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(benchmark.main, []) == 2
    assert "no finished run" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run_command(benchmark.main, [str(tmp_path / "empty")]) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--benchmarks", "perplexty"], "known: perplexity"),
        (["--group", "a"], "write --group NAME=RUN,RUN"),
        (["--group", "a=nobody"], "none of the compared runs"),
        (["--num-samples", "0"], "num_samples"),
        (["--custom-prompts", "nowhere.txt"], "nowhere.txt"),
        (["--benchmark-config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_flags(runs: dict[str, Path], arguments: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    given = [str(runs["llama"]), "--eval-data", str(runs["text"]), "--device", "cpu"]
    if "--group" in arguments:
        given += ["--benchmarks", "consistency"]
    assert run_command(benchmark.main, [*given, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "b.yaml"
    file.write_text("benchmarks: [speed]\nnum_samples: 3\ngroups:\n  base: [a, b]\n", encoding="utf-8")
    loaded = load_benchmark_config(file)
    assert (loaded.benchmarks, loaded.num_samples, loaded.groups) == (["speed"], 3, {"base": ["a", "b"]})
    file.write_text("benchmark: [speed]\nnum_samples: many\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_benchmark_config(file)
    assert len(error.value.problems) == 2
    assert "did you mean benchmarks?" in str(error.value)


def test_a_subclass_and_a_plugin_add_benchmarks(runs: dict[str, Path]) -> None:
    class Mine(BenchmarkSuite):
        def run_depth_benchmark(self) -> dict[str, Any]:
            return self.for_each("depth", lambda run: {"layers": run.model.config.num_hidden_layers})

    plugins.register_benchmark("vocabulary", lambda run: {"tokens": len(run.tokenizer)})
    try:
        keys = {"benchmarks": ["depth", "vocabulary"]}
        results = Mine([runs["llama"]], device="cpu", config=config(runs, **keys)).run_all_benchmarks()
    finally:
        plugins.BENCHMARKS.clear()
    found = results["runs"]["llama"]["benchmarks"]
    assert found["depth"] == {"layers": 2}
    assert found["vocabulary"]["tokens"] > 256
    assert "layers" in render(results)


def test_no_common_text_is_a_dash_with_its_reason(runs: dict[str, Path]) -> None:
    suite = BenchmarkSuite([runs["llama"]], device="cpu", config=BenchmarkConfig(benchmarks=["perplexity", "speed"]))
    results = suite.run_all_benchmarks()
    assert quality_table(results).rows[0][1] == "–"
    assert "give --eval-data" in results["notes"][0].lower() or "--eval-data" in results["notes"][0]


def test_models_beyond_the_memory_limit_are_loaded_one_at_a_time(runs: dict[str, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(benchmark, "MODELS_KEPT_BYTES", 0)
    suite = BenchmarkSuite([runs["llama"], runs["gpt2"]], device="cpu", config=config(runs, benchmarks=["consistency"]))
    suite.for_each("depth", lambda run: {"held": sum(other._evaluator is not None for other in suite.runs)})
    held = [run.results["depth"]["held"] for run in suite.runs]
    assert held == [1, 1], "the one that is measured; opening them to see that they load holds none"
    suite.for_each("layers", lambda run: {"layers": run.model.config.num_hidden_layers})
    assert [run._evaluator for run in suite.runs] == [None, None]
    suite.run_all_benchmarks()
    assert suite.runs[0].results["consistency"]["num_pairs"] == 24


def test_tokenizers_that_differ_leave_perplexity_out(runs: dict[str, Path]) -> None:
    results = BenchmarkSuite(
        [runs["llama"], runs["gpt2"]], device="cpu", config=config(runs, benchmarks=["perplexity"])
    ).run_all_benchmarks()
    assert "perplexity" in quality_table(results).head
    results["runs"]["gpt2"]["tokenizer"] = "another"
    assert "perplexity" not in quality_table(results).head
    assert "cannot be compared" in render(results)


def _scored(name: str, shift: float, count: int = 40) -> ScoredRun:
    records = [
        {"task": "perplexity", "item": n, "nll": 100.0 + n + shift * (1 + n % 3), "bytes": 50} for n in range(count)
    ]
    pairs = [
        {"task": "minimal_pairs", "set": "b", "uid": f"p{n % 4}", "item": n, "correct": (n * 7) % 10 > shift}
        for n in range(count)
    ]
    return ScoredRun(name, items_of([*records, *pairs]))


def test_recipes_with_seeds_are_told_apart_and_equal_ones_are_not() -> None:
    seeds = [0.0, 0.4, -0.3]
    runs = [_scored(f"a-seed{i}", s) for i, s in enumerate(seeds)]
    runs += [_scored(f"b-seed{i}", s + 0.05) for i, s in enumerate(seeds)]
    runs += [_scored(f"c-seed{i}", s + 6) for i, s in enumerate(seeds)]
    groups = group_runs([run.name for run in runs])
    assert [group.name for group in groups] == ["a", "b", "c"]
    found = compare_all(runs, groups, metrics_of(runs))
    holds = {(e["metric"], e["a"], e["b"]): e["better"] for e in found}
    assert holds["bits_per_byte", "a", "b"] is None
    assert holds["bits_per_byte", "a", "c"] == "a"
    assert holds["minimal_pairs:b", "b", "c"] == "b"
    reported = [e for e in found if not e["metric"].startswith(("isolated", "soft"))]
    assert [e["p_corrected"] for e in reported] == pytest.approx(holm([e["p_value"] for e in reported]))
    assert any(e["p_corrected"] > e["p_value"] for e in reported)
    assert found[0]["smallest_permutation_p"] == pytest.approx(0.1)


def test_a_recipe_against_a_single_run_borrows_its_noise() -> None:
    runs = [_scored("a-seed1", 0.0), _scored("a-seed2", 0.5), _scored("other", 0.2)]
    [first, *_] = compare_all(runs, group_runs([r.name for r in runs]), metrics_of(runs))
    assert "single seed" in first["note"]


@pytest.mark.parametrize(
    ("rates", "expected", "told"),
    [
        ({"a": 1, "a-seed1": 1, "a-seed2": 1}, {"a": ["a", "a-seed1", "a-seed2"]}, 0),
        ({"a": 2, "a-seed1": 1, "a-seed2": 1}, {"a": ["a"], "a-seed*": ["a-seed1", "a-seed2"]}, 1),
        ({"a-seed1": 1, "a-seed2": 2, "a-seed3": 2}, {"a-seed1": ["a-seed1"], "a": ["a-seed2", "a-seed3"]}, 1),
        ({"a-seed1": 1, "a-seed2": 2}, {"a-seed1": ["a-seed1"], "a-seed2": ["a-seed2"]}, 1),
        ({"a-seed1": None, "a-seed2": 2, "a-seed3": 2}, {"a": ["a-seed1", "a-seed2", "a-seed3"]}, 0),
    ],
)
def test_a_name_makes_no_seed_of_a_run_that_was_trained_otherwise(
    tmp_path: Path, rates: dict[str, int | None], expected: dict[str, list[str]], told: int
) -> None:
    """A spread between recipes, taken for the seeds', would hide or invent differences."""
    compared = []
    for number, (name, rate) in enumerate(rates.items()):
        (tmp_path / name).mkdir()
        if rate is not None:  # a foreign checkpoint says nothing
            own = {"training.seed": number, "teacher 1": str(number), "training.gradient_accumulation_steps": number}
            write_json(tmp_path / name / "run_fingerprint.json", {"training.lr": rate, "data": "x", **own})
        compared.append(BenchmarkRun(tmp_path / name, name, lambda path: None))
    groups, notes = groups_of(compared, {})
    assert {group.name: list(group.runs) for group in groups} == expected
    assert len(notes) == told
    assert all("training.lr" in note and "--group decides" in note for note in notes)
    asked, notes = groups_of(compared, {"all": list(rates)})
    assert ([group.name for group in asked], notes) == (["all"], []), "the user's word"


def test_a_cached_figure_is_of_this_window_and_device(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    suite, asked = BenchmarkSuite([runs["llama"]], device="cpu"), []
    monkeypatch.setattr(suite.cache, "get", lambda *key: asked.append(key))
    monkeypatch.setattr(suite.cache, "put", lambda *_: None)
    suite.for_each("depth", lambda run: {"layers": 1}, ["options"])
    run = suite.runs[0]
    assert asked == [(run.content, "depth", [run.evaluator.window, "cpu", ["options"]])]


def test_a_run_in_two_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="is also in"):
        group_runs(["x"], {"a": ["x"], "b": ["x"]})


def test_a_group_takes_no_run_that_it_does_not_name() -> None:
    with pytest.raises(ConfigError, match="a run outside the group has this name"):
        group_runs(["x", "y", "b"], {"b": ["x", "y"]})
    assert [group.runs for group in group_runs(["x", "b"], {"b": ["x", "b"]})] == [("x", "b")]


def test_verdicts_say_when_nobody_can_say() -> None:
    rows = [
        {"name": n, "value": v, "better_than": b} for n, v, b in (("a", 1.0, ["c"]), ("b", 1.1, []), ("c", 2.0, []))
    ]
    metric = {"name": "bits_per_byte", "label": "bits per byte", "ranking": rows}
    assert verdicts({"metrics": [metric]}) == ["Bits per byte: a has the best score and is not told apart from b."]
    assert "not told apart" in verdicts({"metrics": [metric | {"ranking": rows[1:]}]})[0]
    won = [rows[0] | {"better_than": ["b", "c"]}, *rows[1:]]
    assert "better than all 2 others" in verdicts({"metrics": [metric | {"ranking": won}]})[0]


def test_table_formats() -> None:
    table = TableData("A & B", ("run", "x_1"), (("r|1", "5%"), ("r2", "–")))
    assert "| r\\|1 | 5% |" in render_table(table, "markdown")
    assert render_table(table, "csv").splitlines()[1] == "A & B,r|1,5%"
    latex = render_table(table, "latex")
    for part in (r"\caption{A \& B}", r"r|1 & 5\% \\", r"x\_1"):
        assert part in latex


def test_hostile_names_and_samples_stay_text(runs: dict[str, Path]) -> None:
    results = BenchmarkSuite(
        [runs["llama"], runs["gpt2"]], device="cpu", config=config(runs, benchmarks=["perplexity", "repetition"])
    ).run_all_benchmarks()
    attack = "<script>alert(1)</script>"
    results["runs"][attack] = results["runs"].pop("gpt2")
    results["runs"][attack]["benchmarks"]["repetition"]["samples"] = [
        {"prompt": attack, "completion": "</pre>" + attack}
    ]
    for entry in results["comparisons"]:
        entry["a"] = attack
    page = render(results)
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page
    assert all_tables(results)


def test_consistency_of_equal_prompts_is_one(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    pairs = [("The dog", "The dog"), ("She looked at", "She looked at")]
    figures, items = consistency(tiny_llama, tiny_tokenizer, window=32, pairs=pairs)
    assert figures["paraphrase_divergence"] == pytest.approx(0, abs=1e-9)
    assert figures["consistency"] == pytest.approx(1)
    assert figures["unrelated_divergence"] > 0
    assert len(items) == 2


def test_pareto_front_with_higher_is_better() -> None:
    assert pareto_front([1, 1, 2, 3], [50.0, 60.0, 55.0, 70.0], higher_is_better=True) == [1, 3]


@pytest.mark.integration
def test_real_runs_share_their_held_out_text(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Two seeds of a recipe and another recipe, trained here; then a run on other text that shares nothing."""
    from tests.runs import config_for, corpus
    from train import train

    text, out = corpus(tmp_path / "text", 300), tmp_path / "models"
    for name, seed, rate in (("a-seed1", 1, 3e-3), ("a-seed2", 2, 3e-3), ("b", 1, 1e-5)):
        train(config_for(text, out, name=name, seed=seed, lr=rate, eval_steps=4))
    folders = [str(out / name) for name in ("a-seed1", "a-seed2", "b")]
    arguments = ["--output", str(tmp_path), "--device", "cpu", "--no-cache"]
    assert run_command(benchmark.main, [*folders, *arguments, "--benchmarks", "perplexity,speed"]) == 0
    printed = capsys.readouterr().out
    assert "Cost of training" in printed
    results = read_json(tmp_path / "benchmark_results.json")
    [entry] = results["comparisons"]
    assert (entry["a"], entry["b"], entry["better"]) == ("a", "b", "a")
    for name in ("a-seed1", "b"):
        metrics = read_json(out / name / "training_metrics.json")
        run = results["runs"][name]
        assert run["benchmarks"]["perplexity"]["bits_per_byte"] == pytest.approx(
            metrics["eval_bits_per_byte"], rel=1e-6
        )
        assert run["cost"]["train_tokens"] == metrics["train_tokens"]
    page = (tmp_path / "benchmark_comparison.html").read_text(encoding="utf-8")
    assert "How they learned" in page
    assert "Quality against cost" in page

    other = corpus(tmp_path / "other", 200)
    train(config_for(other, out, name="c"))
    suite = BenchmarkSuite([out / "b", out / "c"], device="cpu", config=BenchmarkConfig(benchmarks=["perplexity"]))
    assert "held out on different text (b; c)" in suite.run_all_benchmarks()["notes"][0]
    (text / "small.dev").write_text("Something else.\n" * 20, encoding="utf-8")
    gone = BenchmarkSuite([out / "b"], device="cpu", config=BenchmarkConfig(benchmarks=["perplexity"]))
    facts = gone.run_all_benchmarks()  # the run keeps what it held out, and is scored on that
    assert facts["notes"] == []
    assert "has changed since the training" in capsys.readouterr().out
    kept = read_json(out / "b" / "training_metrics.json")["eval_bits_per_byte"]
    assert facts["runs"]["b"]["benchmarks"]["perplexity"]["bits_per_byte"] == pytest.approx(kept, rel=1e-6)
    shutil.rmtree(text)
    gone = BenchmarkSuite([out / "b"], device="cpu", config=BenchmarkConfig(benchmarks=["perplexity"]))
    facts = gone.run_all_benchmarks()  # still: what it held out lies in its own folder
    assert "cannot be read here" in capsys.readouterr().out
    assert facts["runs"]["b"]["benchmarks"]["perplexity"]["bits_per_byte"] == pytest.approx(kept, rel=1e-6)


def test_a_score_at_another_window_is_another_score(runs: dict[str, Path]) -> None:
    """The window stands in the run's configuration, not in the weights: it belongs to the cache's key."""
    values = []
    for window in (16, 32):
        suite = BenchmarkSuite([runs["llama"]], device="cpu", config=config(runs, benchmarks=["perplexity"], seed=9))
        suite.runs[0].evaluator.window = window
        results = suite.run_all_benchmarks()
        values.append(results["runs"]["llama"]["benchmarks"]["perplexity"]["bits_per_byte"])
        assert suite.cache.hits == 0
    assert values[0] != values[1]
