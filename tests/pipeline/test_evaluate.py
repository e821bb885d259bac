"""The evaluator from end to end on tiny real models: results, files, command line, and what it says when it cannot."""

from __future__ import annotations

import gzip
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import evaluate
from babyllama import plugins
from babyllama.common.command import run_command
from babyllama.common.errors import CheckpointError, ConfigError, DataError
from babyllama.common.files import read_json
from babyllama.data.documents import Document
from babyllama.evaluation.completion import completion_accuracy, completion_items
from babyllama.evaluation.generation import distinct, generate, generation_figures, repetition
from babyllama.evaluation.generation_speed import generation_speed
from babyllama.evaluation.token_statistics import token_statistics
from evaluate import ModelEvaluator

TEXT = "The dog ran to the old house. She looked at the little dog.\n" * 4
PAIR = {"sentence_good": "The dog ran.", "sentence_bad": "The dog run."}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "held.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "agreement.jsonl").write_text(
        json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"sentence_bad": "x"}) + "\n", encoding="utf-8"
    )
    return folder


def test_all_tasks_give_results_files_and_a_page(tiny_run: Path, text: Path, pairs: Path, tmp_path: Path) -> None:
    plugins.register_task("double", lambda evaluator, options: {"window": 2 * evaluator.window})
    evaluator = ModelEvaluator(
        tiny_run, "cpu", eval_data=[str(text)], minimal_pairs=[str(pairs)], window=32, num_samples=3
    )
    results = evaluator.run()
    plugins.TASKS.pop("double")
    target = evaluator.save(results, tmp_path / "out")
    assert results["double"] == {"window": 64}
    assert results["minimal_pairs"]["pairs"]["num_pairs"] == 2
    assert results["speed"]["batch_1_tokens_per_second"] > 0
    assert 0 <= results["token_statistics"]["top1_accuracy"] <= 1
    written = read_json(target)
    assert written["schema_version"] == 1
    assert written["bits_per_byte_ci"][0] <= written["bits_per_byte"] <= written["bits_per_byte_ci"][1]
    sidecar = gzip.decompress((tmp_path / "out/evaluation_items.jsonl.gz").read_bytes()).decode()
    items = [json.loads(line) for line in sidecar.splitlines()]
    assert {item["task"] for item in items} == {"perplexity", "isolated_sentences", "minimal_pairs"}
    assert results["completion"]["reason"].startswith("2 sentences of the held-out text")  # no share of two items
    for name in ("report.html", "evaluation_plots.png", "generation_samples.txt"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert not (tiny_run / "report.html").exists(), "with --output nothing is written to the checkpoint"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_stays_text_on_the_page(tmp_path: Path) -> None:
    from babyllama.pages.run_page import render

    hostile = "<script>alert(1)</script></pre>[/b]\x1b[31m{{ 7 * 7 }}$x^"
    figures = {"accuracy": 1.0, "accuracy_ci": [0.5, 1.0], "num_pairs": 1, "ties": 0, "field": "", "term": hostile}
    results = {
        "checkpoint": hostile,
        "window": 8,
        "stride": None,
        "generation": {
            **generation_figures([]),
            "samples": [{"prompt": hostile, "completion": hostile}],
        },
        "minimal_pairs": {hostile: {**figures, "paradigms": {hostile: figures}, "terms": {hostile: figures}}},
        "mine": {"x": hostile},
    }
    page = _Page()
    page.feed(render(results, {}, [], "a: <script>"))
    assert "script" not in page.tags
    assert page.text.count("alert(1)") >= 5
    assert "49" not in page.text.split("mine")[-1][:40]
    assert "\x1b" not in page.text


def test_a_page_of_a_training_alone() -> None:
    from babyllama.pages.run_page import overfitting_note, render

    log = [{"step": 1, "tokens": 10, "loss": 3.0}, {"step": 1, "tokens": 10, "valid_loss": 3.0}]
    assert "<svg" in render({}, {}, log, "")
    assert "step 5 of 100" in overfitting_note({"best_step": 5, "global_step": 100})
    assert overfitting_note({"best_step": 99, "global_step": 100}) == ""


def test_the_command_line_prints_and_writes(
    tiny_run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The dog\nA cat\n", encoding="utf-8")
    argv = [str(tiny_run), "--eval-data", str(text), "--tasks", "perplexity,generation", "--window", "16"]
    argv += [
        "--custom-prompts",
        str(prompts),
        "--num-samples",
        "2",
        "--output",
        str(tmp_path / "r.json"),
        "--device",
        "cpu",
    ]
    assert evaluate.main([*argv, "--batch-size", "4"]) == 0
    assert "held-out text" in capsys.readouterr().out
    results = read_json(tmp_path / "r.json")
    assert [sample["prompt"] for sample in results["generation"]["samples"]] == ["The dog", "A cat"]


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--tasks", "magic"], 2, "--tasks: magic: unknown; known: perplexity"),
        (["--window", "9999"], 2, "the model has 512 positions"),
        (["--eval-data", "nowhere"], 2, "no such file or folder"),
        (["--batch-size", "many"], 2, "auto or a positive number"),
        (["--custom-prompts", "nowhere"], 2, "cannot be read"),
        (["--plugin", "nowhere.py"], 2, "no such file"),
        (["--minimal-pairs", "nowhere", "--tasks", "minimal_pairs"], 2, "no such file or folder"),
        (["--tasks", "perplexity"], 2, "give --eval-data"),
        (["--device", "tpu"], 2, "training.device"),
    ],
)
def test_each_mistake_has_its_line(
    tiny_run: Path, extra: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    device = [] if "--device" in extra else ["--device", "cpu"]
    assert run_command(evaluate.main, [str(tiny_run), *device, *extra]) == code
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def _copy(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "model"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: shutil.rmtree(p), "no such checkpoint folder"),
        (lambda p: (p / "config.json").unlink(), "no config.json"),
        (lambda p: (p / "model.safetensors").unlink(), "no weights"),
        (lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"), "may run code when loaded"),
        (lambda p: (p / "model.safetensors").write_bytes(b"x" * 100), "cannot be loaded"),
        (lambda p: (p / "config.json").write_text("{", encoding="utf-8"), "cannot be loaded"),
        (lambda p: (p / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda p: (p / "tokenizer.json").write_text("{", encoding="utf-8"), "its tokenizer cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(tiny_run: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    folder = _copy(tiny_run, tmp_path)
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelEvaluator(folder, "cpu")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_missing_and_poisoned_weights_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = _copy(tiny_run, tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "lm_head.weight"}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=r"lm_head\.weight missing"):
        ModelEvaluator(folder, "cpu")
    weights["lm_head.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="not finite"):
        ModelEvaluator(folder, "cpu")


def test_generation_is_reproducible_and_batching_changes_nothing(tiny_gpt2: Any, tiny_tokenizer: Any) -> None:
    prompts = ["The dog", "A", "She looked at the cat and"]
    greedy = [generate(tiny_gpt2, tiny_tokenizer, [p], window=32, max_new_tokens=12, temperature=0)[0] for p in prompts]
    batched = generate(tiny_gpt2, tiny_tokenizer, prompts, window=32, max_new_tokens=12, temperature=0)
    assert [sample.completion for sample in batched] == [sample.completion for sample in greedy]
    one, two, other = (
        generate(tiny_gpt2, tiny_tokenizer, prompts, window=32, max_new_tokens=12, seed=seed) for seed in (1, 1, 2)
    )
    assert one == two != other


def test_generation_rolls_within_the_window(tiny_gpt2: Any, tiny_tokenizer: Any) -> None:
    long = "the dog ran to the river and " * 20
    sample = generate(tiny_gpt2, tiny_tokenizer, [long], window=16, max_new_tokens=40, seed=0)[0]
    assert 0 < sample.new_tokens <= 40
    with pytest.raises(DataError, match="at least 1"):
        generate(tiny_gpt2, tiny_tokenizer, ["x"], window=16, max_new_tokens=0)


def test_diversity_is_counted() -> None:
    assert distinct([["a", "a", "a"]], 1) == pytest.approx(1 / 3)
    assert distinct([], 2) == 0.0
    assert repetition("a b c d e".split()) == 0.0


def test_completion_wants_the_exact_last_word(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    documents = [Document(TEXT, "d")]
    items = completion_items(documents, 10)
    assert sorted(items) == [("She looked at the little", " dog."), ("The dog ran to the old", " house.")]
    figures, details = completion_accuracy(tiny_llama, tiny_tokenizer, items, window=32)
    assert figures["num_items"] == len(details) == 2
    assert figures["accuracy"] in {0.0, 0.5, 1.0}
    assert completion_accuracy(tiny_llama, tiny_tokenizer, [], window=32)[0]["accuracy"] is None


def test_completion_asks_for_every_token_of_the_last_word(
    tiny_llama: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from babyllama.evaluation import completion

    asked: list[tuple[list[int], list[int]]] = []
    monkeypatch.setattr(completion, "_all_argmax", lambda model, rows: asked.extend(rows) or [True] * len(rows))
    items = [("She looked at the little", " unbelievable."), ("The dog ran to the old", " house.")]
    completion_accuracy(tiny_llama, tiny_tokenizer, items, window=64)
    words = {tiny_tokenizer.decode([target for target in targets if target != -100]) for _, targets in asked}
    assert words == {" unbelievable.", " house."}
    assert max(sum(target != -100 for target in targets) for _, targets in asked) > 3, "a word of several tokens"


def test_token_statistics_of_a_uniform_model(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    import copy
    import math

    import torch

    flat = copy.deepcopy(tiny_llama)
    with torch.no_grad():
        flat.get_output_embeddings().weight.zero_()
    found = token_statistics(flat, tiny_tokenizer, [Document(TEXT, "d")], window=16)
    assert found["mean_entropy"] == pytest.approx(math.log(len(tiny_tokenizer)), rel=1e-5)
    assert found["mean_top1_probability"] == pytest.approx(1 / len(tiny_tokenizer), rel=1e-4)
    assert sum(point["count"] for point in found["calibration"]) == found["num_tokens"]


@pytest.mark.parametrize("flag", ["--num-samples 0", "--temperature -3", "--window 0", "--stride 0"])
def test_numbers_that_mean_nothing_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(["somewhere", *flag.split()])
    assert stopped.value.code == 2
    assert f"argument {flag.split()[0]}" in capsys.readouterr().err


def test_speed_counts_tokens(tiny_llama: Any) -> None:
    found = generation_speed(tiny_llama, window=32, batch_sizes=(1, 2), repeats=2)
    assert found["batch_1_tokens_per_second"] > 0
    assert found["batch_2_tokens_per_second"] > 0


def test_a_subclass_adds_a_measure(tiny_run: Path) -> None:
    class DomainEvaluator(ModelEvaluator):
        def evaluate_domain_knowledge(self, domain_prompts: list[str]) -> list[str]:
            return [sample.completion for sample in self.generate_samples(domain_prompts, max_new_tokens=3)]

    assert len(DomainEvaluator(tiny_run, "cpu", window=32).evaluate_domain_knowledge(["The dog", "A cat"])) == 2


def test_an_unknown_task_is_refused(tiny_run: Path) -> None:
    with pytest.raises(ConfigError, match="unknown"):
        ModelEvaluator(tiny_run, "cpu").run(["magic"])
