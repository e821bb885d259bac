"""The chunked distillation loss against the formula written out, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from babyllama.common.errors import ConfigError
from babyllama.config.loading import config_from_dict
from babyllama.config.schema import DataConfig, DistillationConfig
from babyllama.pages.run_page import read_log
from babyllama.research import distillation
from babyllama.research.distillation import Head, LossWeights, distillation_loss
from data_utils import DataProcessor
from tests.runs import config_for, corpus, weights
from train import train

ROWS, WIDTH, VOCABULARY = 70, 12, 50


def _case(bias: bool) -> tuple[Head, list[Head], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    heads = []
    for width in (WIDTH, 8, 20):
        heads.append(Head(randn(ROWS, width), randn(VOCABULARY, width), randn(VOCABULARY) if bias else None))
    labels = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    labels[::7] = -100
    return heads[0], heads[1:], labels


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_half_precision_keeps_gradients_far_below_its_range(temperature: float) -> None:
    """Entries of 1 / (tokens * vocabulary), 4e-9 here: fp16 rounds below 3e-8 to nothing."""
    generator = torch.Generator().manual_seed(1)
    rows, width, vocabulary = 64, 16, 16_000
    student = Head(
        torch.randn(rows, width, generator=generator), torch.randn(vocabulary, width, generator=generator) * 0.05, None
    )
    teacher = Head(
        torch.randn(rows, width, generator=generator), torch.randn(vocabulary, width, generator=generator) * 0.05, None
    )
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    recipe = LossWeights(temperature, (1.0,), "probabilities", ce=0.5 / 4096, kl=0.5 / 4096)
    gradients = []
    for dtype in (torch.float64, torch.float16):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        hidden, weight = (part.to(wide, copy=True).requires_grad_() for part in (student.hidden, student.weight))
        with torch.autocast("cpu", torch.float16, enabled=dtype == torch.float16):
            loss, _, _ = distillation_loss(Head(hidden, weight, None), [teacher.to(wide)], labels, recipe)
        (loss * 2.0**16).backward()  # GradScaler's first scale comes too late for what is rounded in the forward pass
        gradients.append((hidden.grad.double(), weight.grad.double()))
    for exact, found in zip(*gradients, strict=True):
        assert float((found - exact).norm() / exact.norm()) < 3e-3
        row = exact[labels[0] - 1] if len(exact) == vocabulary else exact[0]  # of a token that is no label: all tiny
        same = found[labels[0] - 1] if len(exact) == vocabulary else found[0]
        assert float((same - row).norm() / row.norm()) < 1e-2


def _direct(student: Head, teachers: list[Head], labels: torch.Tensor, recipe: LossWeights) -> torch.Tensor:
    """The formula, everything stored."""
    temperature, valid = recipe.temperature, labels != -100
    logits = F.linear(student.hidden, student.weight, student.bias)
    found = [F.linear(t.hidden, t.weight, t.bias) for t in teachers]
    if recipe.combine == "logits":
        p = F.softmax(sum(w * z for w, z in zip(recipe.weights, found, strict=True)) / temperature, dim=1)
    else:
        p = sum(w * F.softmax(z / temperature, dim=1) for w, z in zip(recipe.weights, found, strict=True))
    ce = F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
    kl = F.kl_div(F.log_softmax(logits / temperature, dim=1)[valid], p[valid], reduction="sum")
    return recipe.ce * ce + recipe.kl * kl


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradients_equal_the_formula(combine: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "BLOCK_ROWS", 16)  # several blocks and a short last one
    student, teachers, labels = _case(bias)
    recipe = LossWeights(temperature=2.0, weights=(0.3, 0.7), combine=combine, ce=0.5 / 60, kl=0.5 * 4 / 60)
    found = {}
    for name, function in (("ours", lambda *a: distillation_loss(*a)[0]), ("direct", _direct)):
        tensors = [t.clone().requires_grad_() for t in (student.hidden, student.weight)]
        own_bias = student.bias.clone().requires_grad_() if bias else None
        loss = function(Head(*tensors, own_bias), teachers, labels, recipe)
        (3 * loss).backward()
        found[name] = [loss.detach(), *[t.grad for t in tensors], *([own_bias.grad] if bias else [])]
    for a, b in zip(found["ours"], found["direct"], strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_parts_are_given_apart_and_a_perfect_student_has_no_divergence() -> None:
    student, _, labels = _case(bias=False)
    recipe = LossWeights(temperature=3.0, weights=(1.0,), combine="probabilities", ce=0.0, kl=1.0)
    loss, ce, kl = distillation_loss(student, [student], labels, recipe)
    assert kl.item() == pytest.approx(0.0, abs=1e-9)
    assert loss.item() == pytest.approx(0.0, abs=1e-9)
    expected = F.cross_entropy(student.hidden @ student.weight.T, labels, reduction="sum", ignore_index=-100)
    assert ce.item() == pytest.approx(expected.item())


def test_bfloat16_stays_close() -> None:
    student, teachers, labels = _case(bias=False)
    recipe = LossWeights(temperature=2.0, weights=(0.5, 0.5), combine="probabilities", ce=1 / 60, kl=4 / 60)
    exact = distillation_loss(student, teachers, labels, recipe)[0]
    low = [Head(h.hidden.float(), h.weight.float()) for h in (student, *teachers)]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = distillation_loss(low[0], low[1:], labels, recipe)[0]
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.integration
def test_a_student_learns_from_two_teachers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two architectures teach; both losses are logged, teachers are scored, a resume equals the uninterrupted run."""
    text, out = corpus(tmp_path / "text", 400), tmp_path / "models"
    teachers = [str(train(config_for(text, out, kind, name=kind)).run_dir) for kind in ("Llama", "GPT2")]
    student = {"teachers": teachers, "weights": [1, 3], "combine": "logits"}
    config = config_for(text, out, name="student").model_copy(update={"distillation": DistillationConfig(**student)})
    result = train(config)
    assert [t["path"] for t in result.metrics["teachers"]] == teachers
    log = [entry for entry in read_log(result.run_dir / "log_history.jsonl") if "loss" in entry]
    assert all(entry["kl_loss"] >= 0 and entry["ce_loss"] > 0 for entry in log)
    assert log[-1]["loss"] == pytest.approx(0.5 * log[-1]["ce_loss"] + 0.5 * 4 * log[-1]["kl_loss"], rel=0.02)
    names = load_file(result.run_dir / "model.safetensors").keys()
    assert len(names) == len(load_file(Path(teachers[0]) / "model.safetensors").keys())

    before = weights(result.run_dir)
    for name in ("model.safetensors", "training_metrics.json", "checkpoint-12/checkpoint_manifest.json"):
        (result.run_dir / name).unlink()
    train(config, resume=True)
    assert weights(result.run_dir) == before
    config.distillation.alpha = 0.9
    with pytest.raises(ConfigError, match=r"distillation\.alpha: 0\.5 -> 0\.9"):
        train(config, resume=True)


@pytest.mark.integration
def test_bad_teachers_are_one_line(tmp_path: Path, text_run: Path) -> None:
    text = corpus(tmp_path / "text", 300)
    other = {"vocab_size": 270, "tokenizer_output": str(tmp_path / "tokenizer"), "cache_dir": str(tmp_path / "cache")}
    DataProcessor(DataConfig(train_path=str(text), **other)).prepare()
    for teacher, said in (
        (tmp_path / "nobody", "nobody: no such checkpoint folder"),
        (text_run, "its tokenizer is not the student's"),
    ):
        config = config_for(text, tmp_path / "out")
        config.data.tokenizer_path = str(tmp_path / "tokenizer")
        config.distillation = DistillationConfig(teachers=[str(teacher)])
        with pytest.raises(ConfigError, match=said):
            train(config)


@pytest.fixture
def text_run(tmp_path: Path) -> Path:
    """A run on other text, with its own tokenizer."""
    config = config_for(corpus(tmp_path / "other", 900), tmp_path / "others")
    config.data.vocab_size = 300
    return train(config).run_dir


def test_weights_must_be_one_a_teacher() -> None:
    raw = {"model": {"type": "Llama"}, "distillation": {"teachers": ["a", "b"], "weights": [1]}}
    with pytest.raises(ConfigError, match="1 weights for 2 teachers"):
        config_from_dict(raw)
    with pytest.raises(ConfigError, match=r"did you mean distillation.temperature\?"):
        config_from_dict({"model": {"type": "Llama"}, "distillation": {"teachers": ["a"], "temprature": 1}})
