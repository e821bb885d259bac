"""Fine-tuning: what is read, what is learned, what both ways of pooling see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from babyllama.babylm.tasks import finetuning
from babyllama.babylm.tasks.finetuning import Example, Recipe
from babyllama.common.errors import DataError
from tests.babylm.conftest import write_jsonl
from tests.babylm.mini import glue_lines

TASKS = ("boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_pairs_its_texts_as_the_rules_say(tmp_path: Path, task: str) -> None:
    path = write_jsonl(tmp_path / f"{task}.valid.jsonl", glue_lines(task, 4))
    found = finetuning.read_examples(task, path)
    assert [example.label for example in found] == [0, 1, 0, 1]
    if task == "multirc":
        assert found[0].first == "Question: Is a dax here? Answer: dax"
    elif task == "wsc":
        assert found[0].first == 'Does "it" refer to "dax" in this passage?'
    else:
        assert found[0].first == "Is a dax here?"
    assert found[1].second == "Yes, the wug is here."


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rte.train.jsonl", [*glue_lines("rte", 2), {"sentence1": "a", "label": 1}])
    with pytest.raises(DataError, match="line 3: not an example of rte: KeyError: 'sentence2'"):
        finetuning.read_examples("rte", path)
    path = write_jsonl(path, [{"sentence1": "a", "sentence2": "b", "label": 2}])
    with pytest.raises(DataError, match="label 2"):
        finetuning.read_examples("rte", path)


def test_padding_in_front_changes_no_answer(tiny_gpt2: Any, tiny_llama: Any, tiny_tokenizer: Any) -> None:
    """A text's class does not depend on the longer one beside it, for learned and for rotary positions."""
    short, long = Example("A dog ran.", "Yes.", 1), Example("The little dog ran to the old house.", "It saw a cat.", 0)
    for model in (tiny_gpt2, tiny_llama):
        torch.manual_seed(0)
        network = finetuning.build_classifier(model, 2, "last").eval()
        alone = network(*finetuning.encode(tiny_tokenizer, [short], "last", 512))
        beside = network(*finetuning.encode(tiny_tokenizer, [short, long], "last", 512))
        assert torch.allclose(alone[0], beside[0], atol=1e-5)


def test_the_last_position_sees_the_text_and_the_first_does_not(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    pairs = [Example("Is a dax here?", "Yes, the dax is here.", 1), Example("Is a dax here?", "No dax at all.", 0)]
    for pooling, differ in (("last", True), ("first", False)):
        torch.manual_seed(0)
        network = finetuning.build_classifier(tiny_llama, 2, pooling).eval()
        logits = network(*finetuning.encode(tiny_tokenizer, pairs, pooling, 512))
        assert torch.allclose(logits[0], logits[1], atol=1e-6) != differ


def test_a_task_is_learned_by_the_last_position_only(tiny_llama: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    train = finetuning.read_examples("rte", write_jsonl(tmp_path / "t.jsonl", glue_lines("rte", 96)))
    valid = train[:24]
    before = {key: value.clone() for key, value in tiny_llama.state_dict().items()}
    recipe = Recipe(lr=3e-3, epochs=6, seed=1)
    found = finetuning.fine_tune(tiny_llama, tiny_tokenizer, "rte", train, valid, recipe)
    assert found.figure == found.accuracy == 1.0
    again = finetuning.fine_tune(tiny_llama, tiny_tokenizer, "rte", train, valid, recipe)
    assert again.predictions == found.predictions
    first = finetuning.fine_tune(
        tiny_llama, tiny_tokenizer, "rte", train, valid, Recipe(lr=3e-3, epochs=2, pooling="first")
    )
    assert finetuning.one_class(first.predictions)
    assert all(torch.equal(before[key], value) for key, value in tiny_llama.state_dict().items())


def test_the_recipe_of_each_task() -> None:
    recipe = Recipe()
    assert recipe.of("wsc") == (32, 30)
    assert recipe.of("multirc") == recipe.of("boolq") == (16, 10)
    assert finetuning.steps_of("mnli", recipe, 10_000) == 312 * 10
    with pytest.raises(DataError, match="less than a batch of 32"):
        finetuning.fine_tune(None, None, "rte", [Example("a", "b", 0)] * 4, [], recipe)  # type: ignore[arg-type]


def test_figures_and_their_spread() -> None:
    assert finetuning.figure_of("mrpc", [1, 1, 0, 0], [1, 0, 1, 0]) == 0.5
    assert finetuning.figure_of("mrpc", [0, 0], [0, 0]) == 0.0
    assert finetuning.figure_of("mnli", [2, 1, 0], [2, 0, 0]) == pytest.approx(2 / 3)
    low, high = finetuning.spread([0.5, 0.6])
    assert (low + high) / 2 == pytest.approx(0.55)
    assert low < 0


def test_the_time_is_estimated_before_it_starts(tiny_llama: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    train = finetuning.read_examples("rte", write_jsonl(tmp_path / "t.jsonl", glue_lines("rte", 128)))
    recipe = Recipe(epochs=3)
    told = finetuning.estimate_seconds(tiny_llama, tiny_tokenizer, "rte", train, train[:32], recipe)
    took = finetuning.fine_tune(tiny_llama, tiny_tokenizer, "rte", train, train[:32], recipe).seconds
    assert 0.1 * took < told < 10 * took


def test_a_tokenizer_without_pad_takes_its_end_token(tiny_tokenizer: Any) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = None
    finetuning.require_pad(tokenizer)
    assert tokenizer.pad_token == tokenizer.eos_token


@pytest.mark.integration
def test_the_real_files_are_read(test_data: Path) -> None:
    folder = test_data / "evals/babylm/glue_filtered"
    counts = {"mnli.train": 10_000, "mnli.valid": 4_908, "wsc.train": 554, "wsc.valid": 52, "boolq.valid": 1_635}
    for name, number in counts.items():
        assert len(finetuning.read_examples(name.split(".")[0], folder / f"{name}.jsonl")) == number
