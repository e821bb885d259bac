"""What only a CUDA GPU can show; skipped without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from babyllama.common.files import read_json
from babyllama.config.loading import save_config
from babyllama.models.fused_loss import fused_linear_cross_entropy
from evaluate import ModelEvaluator
from tests.runs import config_for, corpus
from train import train

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["Llama", "GPT2", "GPTJ"])
def test_a_training_learns_in_half_precision(tmp_path: Path, kind: str, precision: str) -> None:
    config = config_for(
        corpus(tmp_path / "text"), tmp_path / "out", kind, device="cuda", max_steps=40, **{precision: True}
    )
    result = train(config)
    assert result.metrics["runtime"]["precision"] == precision
    assert result.metrics["train_loss"] < 5.5
    assert result.metrics["peak_memory_bytes"] > 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fsdp_trains_stops_and_resumes(tmp_path: Path, optimizer: str) -> None:
    """Through Trainer and accelerate: not run so far, no machine with two GPUs was at hand."""
    config = config_for(corpus(tmp_path / "text"), tmp_path / "out", device="cuda", optimizer=optimizer, fsdp=True)
    save_config(config, tmp_path / "run.yaml")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    for flags in (["--max-steps", "8"], ["--resume_from_checkpoint"]):
        subprocess.run([*start, "--config", str(tmp_path / "run.yaml"), *flags], cwd=ROOT, check=True)
    metrics = read_json(tmp_path / "out/run/training_metrics.json")
    assert metrics["global_step"] == 12
    assert metrics["runtime"]["processes"] == 2


def test_the_fused_head_agrees_with_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(3000, 64, generator=generator), torch.randn(500, 64, generator=generator)
    labels = torch.randint(0, 500, (3000,), generator=generator)
    found = {}
    for device in ("cpu", "cuda"):
        h, w = (t.detach().to(device).requires_grad_() for t in (hidden, weight))
        fused_linear_cross_entropy(h, w, labels.to(device)).backward()
        found[device] = (h.grad.cpu(), w.grad.cpu())
    for a, b in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.allclose(a, b, atol=1e-3, rtol=1e-3)


def test_scores_agree_with_the_cpu(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(
        "The dog ran to the old house. She looked at the little dog.\n" * 20, encoding="utf-8"
    )

    def score(device: str) -> Any:
        evaluator = ModelEvaluator(tiny_run, device, eval_data=[str(tmp_path / "t.txt")], window=32)
        return evaluator.calculate_perplexity()["average_loss"]

    assert score("cuda") == pytest.approx(score("cpu"), rel=1e-5)
