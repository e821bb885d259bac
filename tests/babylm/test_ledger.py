"""The word ledger, the check before a training, and the form, on a real tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from babyllama.babylm import ledger as ledgers
from babyllama.babylm.check import check, puts_blank_in_front
from babyllama.babylm.rules import load_rules
from babyllama.common.command import run_command
from babyllama.config.schema import Config
from babyllama.training.word_ledger import raw_words, word_ledger
from data_utils import DataProcessor
from main import main
from tests.babylm.conftest import metaspace_tokenizer
from tests.conftest import TEXT


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A corpus of two domains with markup, and its held-out file."""
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "childes.train").write_text(("*MOT: the dog ran . \n" + TEXT) * 20, encoding="utf-8")
    (folder / "wikipedia.train").write_text(("= = = Dogs = = =\n" + TEXT + "\n") * 10, encoding="utf-8")
    (folder / "childes.dev").write_text(TEXT, encoding="utf-8")
    return folder


def config_of(text: Path, **changes: Any) -> Config:
    """A tiny recipe on a text, changed by section.key."""
    base: dict[str, dict[str, Any]] = {
        "model": {"type": "Llama", "name": "tiny", "hidden_size": 16, "n_layer": 1, "n_head": 2},
        "data": {"train_path": str(text), "vocab_size": 300, "seq_length": 32, "cache_dir": str(text / "cache")},
        "training": {"num_epochs": 2, "batch_size": 8},
        "logging": {"output_dir": str(text / "models")},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        base.setdefault(section, {})[name] = value
    return Config.model_validate(base)


def test_the_ledger_counts_raw_words_by_file_and_words_by_domain(text: Path) -> None:
    config = config_of(text)
    data = DataProcessor(config.data).prepare()
    found = word_ledger(config, data, 2.0, 123)
    raw = {path.name: len(path.read_text(encoding="utf-8").split()) for path in text.glob("*.train")}
    assert {entry["name"]: entry["words"] for entry in found["files"]} == raw
    assert found["raw_words"] == sum(raw.values())
    assert set(found["domains"]) == {"childes", "wikipedia"}
    assert found["words"] == data.train_words == sum(found["domains"].values())
    assert found["domains"]["wikipedia"] < raw["wikipedia.train"]  # headings are cleaned away
    assert found["tokenizer"] == {"text": "the training text"}
    assert found["words_seen"] == 123
    assert found["bytes"] == int(data.train.bytes.sum())
    jsonl = text / "more.jsonl"
    jsonl.write_text('{"text": "one two"}\n{"text": "three"}\n', encoding="utf-8")
    assert raw_words(jsonl) == 3


THAI = "แมวนั่งอยู่ใต้โต๊ะและมองออกไปที่สวน เด็กสองคนเล่นกับสุนัขตัวเล็ก ทุกคนกลับบ้านก่อนฝนตกในตอนเย็น"


def test_bytes_over_the_premium_stand_beside_words(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "english.txt").write_text("\n<|endoftext|>\n".join([TEXT] * 40), encoding="utf-8")
    (folder / "ไทย.txt").write_text("\n<|endoftext|>\n".join([THAI] * 40), encoding="utf-8")
    config = config_of(folder)
    found = word_ledger(config, DataProcessor(config.data).prepare(), 1.0, 1)
    thai, english = found["content"]["ไทย"], found["content"]["english"]
    assert (thai["language"], thai["script"], thai["byte_premium_of"]) == ("th", "Thai", "tha_thai")
    assert (english["language"], english["byte_premium"]) == ("en", 1.0)
    assert thai["bytes_over_premium"] == round(thai["bytes"] / thai["byte_premium"])
    assert found["bytes"] == thai["bytes"] + english["bytes"]
    thai_words = next(entry["words"] for entry in found["files"] if entry["domain"] == "ไทย")
    assert thai_words > 40 * len(THAI) / 2, "not the few blanks between its sentences"
    assert found["bytes_over_premium"] == thai["bytes_over_premium"] + english["bytes"]
    assert (
        "content",
        f"{found['bytes']:,} bytes, {found['bytes_over_premium']:,} over the byte premium",
    ) in ledgers.rows(found)


def test_a_table_with_a_named_column_has_a_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    rows = "".join(f"{n},the dog number {n} ran to the old house\n" for n in range(60))
    (folder / "talk.csv").write_text("id,gloss\n" + rows, encoding="utf-8")
    config = config_of(folder, data__text_key="gloss", data__cache_dir=str(tmp_path / "cache"))
    assert word_ledger(config, DataProcessor(config.data).prepare(), 1.0, 1)["raw_words"] == 60 * 9


def test_budget_epochs_exposure_and_foreign_text_are_told() -> None:
    track = load_rules(2026).track("strict-small")
    own = {"known": True, "source": None, "files": [{"sha256": "a", "words": 5}], "words": 5, "teachers": []}
    other = own | {"files": [{"sha256": "b", "words": 5}]}
    ledger: dict[str, Any] = {
        "source": None, "domains": {"childes": 9}, "words": 9, "raw_words": 10_000_001, "epochs": 11.0,
        "words_seen": 100_000_001, "files": [{"sha256": "a", "words": 9}], "tokenizer": {"text": "tok", "known": False},
        "init_from": None, "teachers": [own | {"path": "good"}, other | {"path": "bad"}, {"path": "who"}],
    }  # fmt: skip
    lines = ledgers.problems(ledger, track)
    assert [line.split(":")[0] for line in lines] == [
        "training text", "epochs", "words shown", "tokenizer", "teacher bad", "teacher who"
    ]  # fmt: skip
    shown = dict(ledgers.rows(ledger))
    assert shown["teacher good"].endswith("all of them in this run's text")
    clean = ledger | {"raw_words": 10, "epochs": 10, "words_seen": 90, "tokenizer": {"text": "the training text"}}
    assert ledgers.problems(clean | {"teachers": [own | {"path": "good"}]}, track) == []
    pupil = own | {"path": "pupil of a stranger", "teachers": [other]}
    assert len(ledgers.problems(clean | {"teachers": [pupil]}, track)) == 1


def test_the_check_names_everything_that_costs_points(text: Path) -> None:
    rules = load_rules(2026)
    config = config_of(text, model__max_position_embeddings=64)
    data = DataProcessor(config.data).prepare()
    told = {a.text: a.costs for a in check(config, data, rules, rules.track("strict-small"))}
    costs = " | ".join(text for text, costly in told.items() if costly)
    assert "training.save_words is not set" in costs
    assert "model.max_position_embeddings: 64" in costs
    assert "data.prefix_space: true" in costs
    assert any("data.seq_length: 32" in text for text, costly in told.items() if not costly)


def test_a_domain_that_a_mixture_repeats_counts_its_own_passes(text: Path) -> None:
    rules = load_rules(2026)
    config = config_of(text, training__num_epochs=9, data__mix={"childes": 1, "wikipedia": 9})
    data = DataProcessor(config.data).prepare()
    told = [advice.text for advice in check(config, data, rules, rules.track("strict-small")) if advice.costs]
    (line,) = [text for text in told if text.startswith("epochs: ")]
    assert line.endswith(" over one domain of the mixture, strict-small allows 10 passes over the text")
    assert float(line.split()[1]) > 18


def test_the_check_compares_the_milestones_with_the_words_shown(text: Path, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    config = config_of(text, data__prefix_space=True, data__seq_length=512, training__batch_size=1)
    data = DataProcessor(config.data).prepare()
    shown = 2 * data.train_words
    near = round(shown * 1.02)
    path.write_text(
        f"base: 2026\ntracks:\n  strict-small: {{words: 100k, exposure: 1M, milestones: [1k, {near}, {3 * shown}]}}\n",
        encoding="utf-8",
    )
    rules = load_rules(path)
    track = rules.track("strict-small")
    config.training.save_words = [1_000, near]
    told = [(a.text, a.costs) for a in check(config, data, rules, track)]
    assert any(f"lacks chck_{3 * shown}" in text and costly for text, costly in told)
    assert any("saved from the final model" in text and not costly for text, costly in told)
    config.training.save_words = [1_000, near, 3 * shown]
    told = [(a.text, a.costs) for a in check(config, data, rules, track)]
    assert any(f"never reaches chck_{3 * shown}" in text and costly for text, costly in told)
    config.training.num_epochs = 8
    told = [(a.text, a.costs) for a in check(config, data, rules, track)]
    assert not any(costly for _, costly in told), told


def test_which_tokenizers_put_a_blank_in_front(tiny_tokenizer: Any) -> None:
    assert not puts_blank_in_front(tiny_tokenizer)
    assert puts_blank_in_front(metaspace_tokenizer("bpe"))


@pytest.mark.integration
def test_a_run_records_its_ledger_in_record_card_page_and_form(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(text)
    yaml = tmp_path / "tiny.yaml"
    yaml.write_text(json.dumps(config.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    assert main(["--config", str(yaml)]) == 0
    run = text / "models" / "tiny"
    record = json.loads((run / "training_metrics.json").read_text(encoding="utf-8"))
    assert record["ledger"]["words_seen"] == record["train_words"]
    assert f"wikipedia {record['ledger']['domains']['wikipedia']:,}" in (run / "README.md").read_text(encoding="utf-8")
    assert "Word ledger" in (run / "report.html").read_text(encoding="utf-8")
    pupil = config_of(text, distillation__teachers=[str(run)], model__name="pupil")
    ledger = word_ledger(pupil, DataProcessor(pupil.data).prepare(), 2.0, 10)
    assert ledger["teachers"][0]["known"]
    assert ledgers.is_subset(ledger["teachers"][0], ledger)
    capsys.readouterr()
    assert run_command(main, ["babylm", "check", "--config", str(yaml)]) == 1
    assert "costs points: training.save_words is not set" in capsys.readouterr().out
