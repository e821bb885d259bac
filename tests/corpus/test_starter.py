"""`babyllama init`: what is chosen for which text, and that the written file is what a training takes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from babyllama.common.errors import ConfigError, DataError
from babyllama.config.loading import load_config
from babyllama.config.run_layout import preset_paths
from babyllama.corpus import starter_command
from babyllama.corpus.starter import TextFacts, choose, commented_yaml, read_facts


def _facts(words: int, path: str = "my_texts", held_out: int = 0) -> TextFacts:
    return TextFacts(path, files=3, bytes=words * 5, words=words, documents=words // 200, held_out=held_out)


@pytest.mark.parametrize(
    ("words", "gpu", "preset", "epochs", "batch"),
    [
        (20_000, False, "llama-10M", "10", 32),
        (215_000, False, "llama-10M", "4", 32),
        (6_000_000, False, "llama-10M", "1", None),  # the preset's own
        (1_000_000, True, "llama-16M", "4", None),
        (10_000_000, True, "llama-58M", "1", None),
        (100_000_000, True, "llama-97M-strict", "1", None),
    ],
)
def test_what_is_chosen(words: int, gpu: bool, preset: str, epochs: str, batch: int | None) -> None:
    starter = choose(_facts(words), gpu=gpu)
    chosen = {choice.key: choice.value for choice in starter.choices}
    assert (starter.preset, chosen["training.num_epochs"]) == (preset, int(epochs))
    assert ("training.keep" in chosen) == (epochs != "1")
    assert chosen.get("training.batch_size") == batch
    assert all(choice.reason for choice in starter.choices)


def test_what_is_held_out_is_said() -> None:
    reasons = [choose(_facts(10, held_out=n), gpu=False).choices[0].reason for n in (0, 2)]
    assert "one document in twenty is held out" in reasons[0]
    assert "2 *.dev files of the folder are held out" in reasons[1]


@pytest.mark.parametrize("preset", ["llama-10M", "llama-16M", "llama-58M", "llama-97M-strict"])
@pytest.mark.parametrize("path", ["my_texts", "a folder: with, signs/#x", "Übung/*.txt", "123", "no"])
def test_the_file_loads_with_every_choice_in_it(preset: str, path: str, tmp_path: Path) -> None:
    starter = choose(_facts(200_000, path), gpu=False)
    text = commented_yaml(starter, preset_paths()[preset].read_text(encoding="utf-8"), _facts(200_000, path), "1")
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    config, original = load_config(tmp_path / "x.yaml"), load_config(preset)
    assert config.data.train_path == path
    assert config.data.vocab_size == "auto"
    assert config.training.keep == "best"
    assert config.training.lr == original.training.lr
    assert config.model.hidden_size == original.model.hidden_size
    for choice in starter.choices:
        assert f"# {choice.reason}\n" in text
    assert "quick_start" not in text
    assert max(map(len, text.splitlines())) < 160


def test_the_text_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.train").write_text("one two three\n\nfour five\n", encoding="utf-8")
    (tmp_path / "a.dev").write_text("six\n", encoding="utf-8")
    facts = read_facts(str(tmp_path))
    assert (facts.words, facts.files, facts.held_out) == (5, 1, 1)
    with pytest.raises(DataError):
        read_facts(str(tmp_path / "nothing"))


def test_the_command_writes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories.txt").write_text("Once upon a time.\n" * 50, encoding="utf-8")
    parser = argparse.ArgumentParser()
    starter_command.add_arguments(parser)
    assert starter_command.run(parser.parse_args(["stories.txt"])) == 0
    said = capsys.readouterr().out
    assert "200 words in 1 files" in said
    assert "written: stories.yaml; next: " in said
    assert load_config("stories.yaml").model.name == "stories"
    with pytest.raises(ConfigError, match=r"stories\.yaml: is there already; --overwrite"):
        starter_command.run(parser.parse_args(["stories.txt"]))
    assert starter_command.run(parser.parse_args(["stories.txt", "--overwrite"])) == 0
    with pytest.raises(ConfigError, match="only text on this machine"):
        starter_command.run(parser.parse_args(["hf:a/b"]))
