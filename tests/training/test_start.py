"""`gradient_accumulation_steps: auto`: the fewest parts that should fit, the same number when a run goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json, write_json
from babyllama.config.loading import load_config, preset_paths
from babyllama.config.run_layout import RUN_FINGERPRINT
from babyllama.config.schema import Config, TrainingConfig
from babyllama.models import gpu, runtime
from babyllama.training.start import choose_batch_size, choose_parts
from tests.runs import config_for, corpus
from train import train


def preset(name: str, parts: Any = "auto") -> Config:
    config = load_config(preset_paths()[name])
    config.training.gradient_accumulation_steps = parts
    return config


@pytest.mark.parametrize(
    ("name", "gigabytes", "parts", "compiler"),
    [
        ("llama-97M", 80, 1, True),
        ("llama-97M", 4, 4, True),
        ("llama-97M", 4, 8, False),  # the head's block takes 1.3 GB where it is not compiled
        ("llama-360M", 80, 1, True),
        ("gpt-705M", 24, 4, True),
        ("gpt-705M", 8, 128, True),
    ],
)
def test_the_fewest_parts_that_fit(
    name: str,
    gigabytes: float,
    parts: int,
    compiler: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Any,
) -> None:
    monkeypatch.setattr(gpu, "free_bytes", lambda device: int(gigabytes * 1e9))
    monkeypatch.setattr(runtime, "compile_obstacle", lambda: None if compiler else "Triton is not there")
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
    assert choose_parts(preset("llama-97M"), 16_000, "cuda", tmp_path, overwrite=True) == 1, "trained anew"


def test_the_machines_memory_is_read() -> None:
    assert sys.platform != "linux" or (gpu.free_bytes("cpu") or 0) > 10**7


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


@pytest.mark.parametrize(
    ("has_bf16", "device", "changes", "size"),
    [
        (True, "cpu", {}, 32),
        (False, "cpu", {}, 16),
        (True, "cpu", {"bf16": False, "fp16": False}, 16),
        (False, "cuda", {}, 32),
        (False, "cpu", {"slow_batch_size": None}, 32),
    ],
)
def test_a_cpu_in_float32_takes_the_slow_batch_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_bf16: bool, device: str, changes: dict[str, Any], size: int
) -> None:
    monkeypatch.setattr("babyllama.models.runtime.cpu_has_bf16", lambda: has_bf16)
    config = Config(model={"type": "Llama"}, training={"batch_size": 32, "slow_batch_size": 16} | changes)
    assert choose_batch_size(config, device, tmp_path) == size


@pytest.mark.parametrize("began", [16, 32])
def test_a_run_keeps_the_batch_size_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, began: int
) -> None:
    write_json(tmp_path / RUN_FINGERPRINT, {"training.batch_size": began})
    for has_bf16 in (True, False):
        monkeypatch.setattr("babyllama.models.runtime.cpu_has_bf16", lambda has=has_bf16: has)
        config = Config(model={"type": "Llama"}, training={"batch_size": 32, "slow_batch_size": 16})
        assert choose_batch_size(config, "cpu", tmp_path) == began
        assert choose_batch_size(config, "cpu", tmp_path, overwrite=True) == (32 if has_bf16 else 16)


def test_a_batch_size_that_is_asked_for_is_taken_everywhere() -> None:
    assert load_config("config/llama-10M.yaml").training.slow_batch_size == 16
    assert load_config("config/llama-10M.yaml", ["training.batch_size=8"]).training.slow_batch_size is None
    assert load_config("config/llama-10M.yaml", ["data.train_path=x.txt"]).training.slow_batch_size is None
