"""What another program left in the environment decides nothing: precision, compiling and sharding are configured."""

from __future__ import annotations

import os

import pytest

from babyllama.common import distributed

LEFT = {
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_TORCH_DEVICE": "cuda",
    "ACCELERATE_MIXED_PRECISION": "fp16",
}


def test_what_a_launcher_left_is_ignored_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**LEFT, "ACCELERATE_USE_FSDP": "false", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.settle_environment()
    said = capsys.readouterr().err
    assert all(f"{name}={value}" in said for name, value in LEFT.items())
    assert "ACCELERATE_USE_FSDP" not in said, "it asks for nothing"
    assert not [name for name in os.environ if name.startswith("ACCELERATE_")]


def test_a_launch_keeps_what_its_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    distributed.settle_environment()
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
