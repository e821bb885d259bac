"""HuggingFace's arguments of a run: one process trains on one GPU, and copies to it do not wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from babyllama.config.schema import Config
from babyllama.models.runtime import Runtime
from babyllama.training import arguments as module
from babyllama.training.arguments import count_steps, loader_workers, training_arguments


def test_one_process_takes_one_of_two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HuggingFace counts all visible GPUs and would wrap the model in DataParallel: twice the batch a step."""
    import transformers.training_args as theirs

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(theirs.TrainingArguments, "_setup_devices", property(two_visible), raising=True)
    config = Config(model={"type": "Llama"}, training={"batch_size": 8, "max_steps": 4})
    plan = count_steps(config, 80)
    arguments = training_arguments(config, plan, Runtime("cuda", "fp32", "causal", "off", 1), tmp_path)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == plan.micro_batch == 8
    assert arguments.accelerator_config.non_blocking is True
    assert arguments.dataloader_pin_memory is True


def two_visible(self: object) -> torch.device:
    """What `_setup_devices` ends with on a machine with two GPUs."""
    if not hasattr(self, "_n_gpu"):
        self._n_gpu = torch.cuda.device_count()
    return torch.device("cuda", 0)


def test_on_a_cpu_nothing_is_different(tmp_path: Path) -> None:
    config = Config(model={"type": "Llama"}, training={"batch_size": 8, "max_steps": 4})
    arguments = training_arguments(config, count_steps(config, 80), Runtime("cpu", "fp32", "eager", "off", 1), tmp_path)
    assert arguments.n_gpu == 0
    assert arguments.accelerator_config.non_blocking is False


def test_too_little_shared_memory_means_no_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker without room in /dev/shm dies by a signal, and the training waited for it for ever."""
    config = Config(model={"type": "Llama"}, training={"dataloader_num_workers": 2, "max_steps": 4})
    for free, workers in ((1_000_000, 0), (64_000_000_000, 2)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(module.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert loader_workers(config.training, 1024, 32) == (workers if Path("/dev/shm").is_dir() else 2)
    if Path("/dev/shm").is_dir():
        assert "dataloader_num_workers: 0 instead of 2: 1.0 MB of shared memory" in capsys.readouterr().out
    config.training.dataloader_num_workers = 0
    assert loader_workers(config.training, 1024, 32) == 0
