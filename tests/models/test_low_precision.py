"""Nothing computes in bf16 on a CPU without such instructions: each part is walked with its products failing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from babyllama.common.files import read_json
from babyllama.config.schema import DistillationConfig
from babyllama.evaluation.minimal_pairs import Pair, evaluate_pairs
from babyllama.models import runtime as rt
from tests.runs import config_for, corpus
from train import train

VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
LOW = (torch.bfloat16, torch.float16)


class NoLowPrecisionProducts(TorchDispatchMode):
    """Fails at a matrix product of 16-bit numbers, forward and backward."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        product = any(part in name for part in ("mm", "linear", "matmul", "convolution", "scaled_dot_product", "dot"))
        if product and any(isinstance(a, torch.Tensor) and a.dtype in LOW for a in args):
            raise AssertionError(f"{name} in 16 bits on a processor without such instructions")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def slow_bf16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine as one without bf16 instructions."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    with NoLowPrecisionProducts():
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small")


@pytest.fixture
def bf16_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine as one with bf16 instructions, whatever it is."""
    monkeypatch.setattr(rt, "_processor_has_bf16", lambda: True)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_the_guard_sees_a_bf16_product() -> None:
    with NoLowPrecisionProducts(), pytest.raises(AssertionError, match="16 bits"):
        torch.ones(2, 2, dtype=torch.bfloat16) @ torch.ones(2, 2, dtype=torch.bfloat16)


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "GPTJ"])
def test_a_muon_training_and_its_scoring(slow_bf16: None, text: Path, tmp_path: Path, kind: str) -> None:
    config = config_for(text, tmp_path, kind, optimizer="muon", bf16="auto", max_steps=3)
    metrics = train(config).metrics
    assert metrics["runtime"]["precision"] == metrics["runtime"]["muon_precision"] == "fp32"
    assert metrics["global_step"] == 3


@pytest.mark.integration
def test_teachers_and_their_student(slow_bf16: None, text: Path, tmp_path: Path) -> None:
    teacher = train(config_for(text, tmp_path, "GPT2", name="teacher", bf16="auto", max_steps=2)).run_dir
    config = config_for(text, tmp_path, name="student", optimizer="muon", bf16="auto", max_steps=2)
    config.distillation = DistillationConfig(teachers=[str(teacher)])
    assert train(config).metrics["runtime"]["precision"] == "fp32"


def test_screened_pairs_are_scored_in_float32(
    slow_bf16: None, tiny_llama: Any, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [Pair("order", "0", "The dog ran to the house.", "The house ran dog to the.")]
    _, exact = evaluate_pairs(tiny_llama, tiny_tokenizer, pairs)
    assert evaluate_pairs(tiny_llama, tiny_tokenizer, pairs, screen=True)[1] == exact
    assert "no fast bfloat16" in capsys.readouterr().out


@pytest.mark.integration
def test_a_checkpoint_of_a_bf16_machine_goes_on_at_this_machines_speed(
    bf16_machine: None,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe: dict[str, Any] = {"optimizer": "muon", "bf16": "auto", "max_steps": 8}
    run_dir = train(config_for(text, tmp_path, **recipe)).run_dir
    (run_dir / "training_metrics.json").unlink()
    for name in ("checkpoint-8",):  # as if it had been stopped after step 4
        from babyllama.training.checkpoints import remove_checkpoint

        remove_checkpoint(run_dir / name)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    capsys.readouterr()
    with NoLowPrecisionProducts():
        result = train(config_for(text, tmp_path, **recipe), resume=True)
    told = capsys.readouterr().out
    assert "precision bf16 -> fp32, muon precision bf16 -> fp32" in told
    assert "not bit-exact" in told
    runtime = read_json(result.run_dir / "training_metrics.json")["runtime"]
    assert (runtime["precision"], runtime["muon_precision"]) == ("fp32", "fp32")


@pytest.mark.integration
def test_a_slow_precision_that_the_user_asked_for_is_kept_on_resume(
    monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    recipe: dict[str, Any] = {"bf16": True, "max_steps": 8}
    run_dir = train(config_for(text, tmp_path, **recipe)).run_dir
    (run_dir / "training_metrics.json").unlink()
    from babyllama.training.checkpoints import remove_checkpoint

    remove_checkpoint(run_dir / "checkpoint-8")
    result = train(config_for(text, tmp_path, **recipe), resume=True)
    assert "not bit-exact" not in capsys.readouterr().out
    assert result.metrics["runtime"]["precision"] == "bf16"


def test_muons_precision_is_in_the_line_and_in_older_records(bf16_machine: None, text: Path, tmp_path: Path) -> None:
    muon = rt.decide(config_for(text, tmp_path, optimizer="muon"), total_steps=10, num_parameters=1000)
    assert "Muon's iterations in bf16" in muon.line()
    older = {key: value for key, value in muon.to_dict().items() if key != "muon_precision"}
    assert rt.Runtime(**older) == muon
    adamw = rt.decide(config_for(text, tmp_path), total_steps=10, num_parameters=1000)
    assert adamw.muon_precision is None
    assert "Muon" not in adamw.line()
