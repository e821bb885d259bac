"""Every task of evaluate.py in eight languages: items, or a dash with its reason; English as it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from babyllama.data.documents import Document
from babyllama.data.tokenizer import train_tokenizer
from babyllama.evaluation.completion import FEWEST, completion_items, too_few
from babyllama.evaluation.generation import Sample, beginnings, generation_figures
from tests.conftest import _tiny
from tests.runs import documents_in

UDHR = Path(__file__).resolve().parents[2] / "examples" / "udhr"
LANGUAGES = ("en", "de", "tr", "ru", "hi", "ar", "zh", "th")


def _text(language: str) -> str:
    return (UDHR / f"{language}.txt").read_text(encoding="utf-8")


def _documents(language: str) -> list[Document]:
    return [Document(text, language) for text in documents_in(_text(language), "bnc_spoken")]  # an article each


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_task_has_items(language: str, tmp_path: Path) -> None:
    from evaluate import ModelEvaluator

    tokenizer = train_tokenizer([_text(language)] * 2, 400)
    model = _tiny("Llama", tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    evaluator = ModelEvaluator(tmp_path, "cpu", eval_data=[str(UDHR / f"{language}.txt")], window=128, num_samples=2)
    results = evaluator.run(["perplexity", "generation", "token_statistics", "completion"])
    assert results["bits_per_byte"] > 0
    assert results["completion"]["num_items"] >= FEWEST
    assert 0 <= results["completion"]["accuracy"] <= 1
    assert results["token_statistics"]["num_tokens"] > 100
    assert results["generation"]["mean_words"] > 0
    for sample in results["generation"]["samples"]:
        assert 3 <= len(sample["prompt"]) <= 80
        assert sample["prompt"] in _text(language).replace("\n", " ")


def test_the_last_word_of_each_language() -> None:
    answers = {
        language: {answer for _, answer in completion_items(_documents(language), 100)} for language in LANGUAGES
    }
    assert " würde." not in answers["de"]
    assert " geboren." in answers["de"]
    assert any(re.search("[ğışçöüİ]", answer) for answer in answers["tr"])
    assert " совестью." not in answers["ru"]
    assert " братства." in answers["ru"]
    assert all(answer.endswith("।") and re.match(r" [\u0900-\u097f]+ ?।$", answer) for answer in answers["hi"])
    assert " الإخاء." in answers["ar"]
    assert all(re.match(r"^[\u4e00-\u9fff]。$", answer) for answer in answers["zh"])
    assert all(1 <= len(answer) <= 4 and "\u0e00" < answer[0] < "\u0e7f" for answer in answers["th"])


def test_words_with_marks_are_answers_where_they_are_more_than_one_in_a_hundred() -> None:
    plain = [
        Document(f"This is story number {'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10]} here.", "d") for n in range(100)
    ]
    french = [Document("Il y avait un café.", "d")]
    assert len(completion_items(plain + french, 1_000)) == 100  # one in 101
    assert len(completion_items(plain[:90] + french, 1_000)) == 91


@pytest.mark.integration
def test_english_items_are_what_they_were(test_data: Path) -> None:
    import random

    old_sentence = re.compile(r"(?<![^\s])[^.!?\n]+[.!?](?=\s|$)")
    old_word = re.compile(r"^(.*\S)( [A-Za-z'’-]+[.!?])$")
    for path in sorted(test_data.glob("corpora/*/*.dev")):
        documents = [Document(text, "d") for text in documents_in(path.read_bytes().decode())]
        items = []
        for document in documents:
            for sentence in old_sentence.findall(document.text):
                match = old_word.match(sentence.strip())
                if match and 4 <= len(sentence.split()) <= 40:
                    items.append((match[1], match[2]))
        items = list(dict.fromkeys(items))
        random.Random(3).shuffle(items)
        assert completion_items(documents, 500, 3) == items[:500], path


def test_too_few_items_are_a_dash_with_its_reason() -> None:
    figures = {"accuracy": 0.5, "accuracy_ci": [0.1, 0.9], "num_items": 4}
    assert too_few(figures | {"num_items": 10}) == figures | {"num_items": 10}
    told = too_few(figures)
    assert told["accuracy"] is told["accuracy_ci"] is None
    assert told["reason"] == "4 sentences of the held-out text can be completed, at least 10 are needed"


def test_diversity_of_chinese_is_that_of_its_characters() -> None:
    figures = generation_figures([Sample("", "小狗跑了。小狗跑了。", 8)])
    assert figures["mean_words"] == 8
    assert figures["distinct_1"] == 0.5
    assert figures["repetition"] == pytest.approx(1 / 5)


def test_beginnings_are_six_words_or_twelve_clusters() -> None:
    documents = [Document("One two three four five six seven eight.", "d"), Document("เด็กไปโรงเรียนแม่อยู่บ้าน", "d")]
    assert beginnings(documents, 2) == ["One two three four five six", "เด็กไปโรงเรียน"]


def test_consistency_is_a_dash_for_german(tmp_path: Path, capsys: Any) -> None:
    from babyllama.comparison.options import BenchmarkConfig
    from benchmark import BenchmarkSuite

    tokenizer = train_tokenizer([_text("de")] * 2, 600)
    _tiny("Llama", tokenizer).save_pretrained(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "a")
    for given, expected in ((["de"], {}), (["en"], None)):
        config = BenchmarkConfig(
            benchmarks=["consistency"], eval_data=[str(UDHR / f"{language}.txt") for language in given]
        )
        suite = BenchmarkSuite([str(tmp_path / "a")], device="cpu", config=config)
        results = suite.run_all_benchmarks()
        found = results["runs"]["a"]["benchmarks"].get("consistency")
        assert (found or {}) == expected or expected is None
        told = [note for note in results["notes"] if "consistency was not measured" in note]
        assert len(told) == (given == ["de"])
        assert all("language is de" in note for note in told)
