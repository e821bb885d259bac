"""What is accepted at the start does not fail in the middle, and a value means what was typed."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from babyllama.common import distributed
from babyllama.common.cache_folders import cache_home
from babyllama.common.command import run_command, split_names
from babyllama.common.console import printable
from babyllama.common.errors import ConfigError
from babyllama.common.units import human_bytes, human_count
from babyllama.config.loading import config_from_dict, load_config
from babyllama.config.run_layout import corpus_stem
from babyllama.data.documents import Document
from babyllama.data.splits import held_out_places, hold_out
from tests.runs import documents_in


def load(*overrides: str) -> Any:
    return load_config(None, ["model.type=Llama", *overrides])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.num_epochs=.inf"], "num_epochs"),
        (["training.lr=.nan"], "training.lr"),
        (["training.weight_decay=.inf"], "weight_decay"),
        (["training.num_epochs=1e300"], "num_epochs"),
        (["model.hidden_size=101"], "101 is odd: Llama needs heads of even size"),
        (["model.n_kv_head=2"], "n_kv_head: 2 does not divide n_head 3, which were chosen"),
        (["model.name='a '"], "no blank at an end"),
        (["model.name='...'"], "not only dots"),
        (['model.name="a\\nb"'], "no control character"),
    ],
)
def test_what_cannot_work_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(*overrides)


def test_a_width_that_gpt2_takes_is_taken() -> None:
    assert load_config(None, ["model.type=GPT2", "model.hidden_size=101"]).model.hidden_size == 101


def test_text_keys_stay_text() -> None:
    config = load("model.name=2e5", "data.train_path=1e5")
    assert (config.model.name, config.data.train_path) == ("2e5", "1e5")
    assert config_from_dict({"model": {"type": "Llama", "name": "1e3"}}).model.name == "1e3"


def test_older_layouts() -> None:
    raw = {"model": {"type": "Llama"}, "training": None, "optimization": {"weight_decay": 0.3}}
    assert config_from_dict(raw).training.weight_decay == 0.3
    for wrong in (5, [1]):
        with pytest.raises(ConfigError, match="optimization: expected keys"):
            config_from_dict({"model": {"type": "Llama"}, "optimization": wrong})
    old = {
        "student": {"hidden_size": 64},
        "distillation": {"teachers": ["a"], "lr": 1e-4, "batch_size": 16, "alpha": 0.3},
    }
    config = config_from_dict(old)
    assert (config.model.type, config.training.lr, config.training.batch_size) == ("Llama", 1e-4, 16)
    assert config.distillation.alpha == 0.3


NAMES = ("кор", "हिन्दी", "ไทยพี่น้อง", "الإعلان_العالمي", "世界人权宣言", "می‌خواهم", "རྫོང་ཁ", "Türkçe", "한국어")


@pytest.mark.parametrize("stem", NAMES)
def test_corpora_of_any_script_keep_their_names(stem: str) -> None:
    shown = unicodedata.normalize("NFC", stem)
    for written in (shown, unicodedata.normalize("NFD", stem)):
        assert corpus_stem(f"texts/{written}.train.gz").split("-")[0].rstrip("_") == shown.replace("་", "_")
        assert corpus_stem(f"texts/{written}/").split("-")[0].rstrip("_") == shown.replace("་", "_")


def test_no_two_corpora_share_a_run_folder() -> None:
    names = [*NAMES, "हनद", "हिनदी", "🙂", "🙃", "🙂🙃", "…", "a b", "ab", "ก" * 99, "ก" * 98, "མི", "མི་"]
    stems = [corpus_stem(f"{name}.txt") for name in names]
    assert len(set(stems)) == len(names)
    for stem in stems:
        assert len(stem.encode()) < 200
        assert not set(stem) & set(" /.\\:")
    assert [corpus_stem(path) for path in ("тексты/", "a b.txt", "c++.txt")] == ["тексты", "a_b", "c"]


def test_lists_are_trimmed_and_numbers_rounded_as_people_read_them() -> None:
    assert split_names("a, b ,,c") == ["a", "b", "c"]
    assert (human_count(999_999), human_count(999_900), human_bytes(999_999)) == ("1.0M", "999.9k", "1.0 MB")
    assert printable("a\u202eb\u2066c\x1bd") == "abcd"
    assert printable("ক্\u200dষ") == "ক্\u200dষ"  # a joiner carries meaning


@pytest.mark.parametrize("share", [0.05, 0.1, 0.28, 0.3, 0.4, 0.45])
def test_the_share_that_is_asked_for_is_held_out(share: float) -> None:
    count = 2_000
    held = held_out_places(count, share)
    assert held.mean() == pytest.approx(share, abs=0.002)
    documents = [Document(str(number), "d") for number in range(count)]
    assert [mark for _, mark in hold_out(documents, share)] == held.tolist()


def test_a_mark_with_blanks_around_it_parts_documents() -> None:
    assert documents_in("a\n<|endoftext|> \nb\n <|endoftext|>\nc") == ["a", "b", "c"]


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("WORLD_SIZE", "two"), ("LOCAL_RANK", "-1.5")])
def test_a_launcher_s_leftover_that_is_no_number(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"unset {name}"):
        distributed.settle_environment()
    assert run_command(lambda argv: 0, []) == 2
    assert f"unset {name}" in capsys.readouterr().err, "told by a process that cannot know its rank"


@pytest.mark.parametrize("left", [{"RANK": "1"}, {"RANK": "", "WORLD_SIZE": ""}, {"RANK": "3", "WORLD_SIZE": ""}])
def test_a_rank_without_a_launch_is_ignored(
    left: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)

    def command(argv: Any) -> int:
        raise ConfigError("told")

    assert run_command(command, []) == 2
    said = capsys.readouterr().err
    assert "error: told" in said
    assert ("ignored, this is a single process" in said) == (left["RANK"] in {"1", "3"})


def test_no_home_and_no_passwd_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("BABYLLAMA_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert cache_home().name.startswith("babyllama-")


def test_names_that_are_no_utf8_are_printed(tmp_path: Path) -> None:
    code = "from babyllama.common.console import say; say('caf\\udce9.txt \\u0439')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "caf\\udce9.txt" in done.stdout


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    from babyllama.evaluation.generation import read_prompts

    (tmp_path / "prompts.txt").write_text("\ufeffThe dog\n\nThe cat\n", encoding="utf-8")
    assert read_prompts(str(tmp_path / "prompts.txt")) == ["The dog", "The cat"]
