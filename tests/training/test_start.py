"""`gradient_accumulation_steps: auto`: the fewest parts that should fit, the same number when a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json, write_json
from babyllama.config.loading import load_config, preset_paths
from babyllama.config.schema import Config, TrainingConfig
from babyllama.models import gpu
from babyllama.training.start import choose_parts
from tests.runs import config_for, corpus
from train import train


def preset(name: str, parts: Any = "auto") -> Config:
    config = load_config(preset_paths()[name])
    config.training.gradient_accumulation_steps = parts
    return config


@pytest.mark.parametrize(
    ("name", "gigabytes", "parts"),
    [("llama-97M", 80, 1), ("llama-97M", 4, 4), ("llama-360M", 80, 1), ("gpt-705M", 24, 4), ("gpt-705M", 8, 128)],
)
def test_the_fewest_parts_that_fit(
    name: str, gigabytes: float, parts: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setattr(gpu, "free_bytes", lambda device: int(gigabytes * 1e9))
    assert choose_parts(preset(name), 16_000, "cuda", tmp_path) == parts
    assert "gradient_accumulation_steps:" in capsys.readouterr().out


def test_a_number_is_kept_and_an_unknown_memory_is_no_reason_to_split(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert choose_parts(preset("llama-97M", 8), 16_000, "cuda", tmp_path) == 8
    monkeypatch.setattr(gpu, "free_bytes", lambda device: None)
    assert choose_parts(preset("llama-97M"), 16_000, "cuda", tmp_path) == 1


def test_a_run_that_has_begun_keeps_its_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 10**12)
    write_json(tmp_path / "run_fingerprint.json", {"training.gradient_accumulation_steps": 4})
    assert choose_parts(preset("llama-97M"), 16_000, "cuda", tmp_path) == 4


def test_the_machines_memory_is_read() -> None:
    assert (gpu.free_bytes("cpu") or 10**8) > 10**7


@pytest.mark.integration
def test_auto_trains_and_the_same_command_again_is_the_same_run(tmp_path: Path) -> None:
    config = config_for(corpus(tmp_path / "text"), tmp_path, max_steps=2, gradient_accumulation_steps="auto")
    assert config.training.parts == 1
    result = train(config)
    assert read_json(result.run_dir / "run_fingerprint.json")["training.gradient_accumulation_steps"] == 1
    again = config_for(tmp_path / "text", tmp_path, max_steps=2, gradient_accumulation_steps="auto")
    assert train(again).already_finished


def test_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, or auto"):
        TrainingConfig(gradient_accumulation_steps=0)
    (tmp_path / "c.yaml").write_text(
        "model: {type: Llama}\ntraining: {gradient_accumulation_steps: many}\n", encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="gradient_accumulation_steps"):
        load_config(tmp_path / "c.yaml")
