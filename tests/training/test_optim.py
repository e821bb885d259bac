"""Which parameter goes to which optimizer, schedules that fit the run, state that survives a checkpoint."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from babyllama.config.schema import TrainingConfig
from babyllama.training.optim import (
    NEWTON_SCHULZ_STEPS,
    BatchedMuon,
    MuonAdamW,
    build_optimizer,
    hidden_matrices,
    orthogonalize,
    schedule_arguments,
    warmup_length,
)

MUON = TrainingConfig(optimizer="muon", lr=0.01, muon_adamw_lr=0.003, weight_decay=0.1)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "tiny_gptj"])
def test_muon_takes_hidden_matrices_and_adamw_everything_else(name: str, request: pytest.FixtureRequest) -> None:
    model = copy.deepcopy(request.getfixturevalue(name))
    names = hidden_matrices(model)
    assert names
    assert not any("embed" in n or "wte" in n or "wpe" in n or "lm_head" in n for n in names)
    optimizer = build_optimizer(model, MUON)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted({id(p) for p in model.parameters()}), "every parameter once"
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.003}


def test_norms_and_biases_do_not_decay(tiny_gpt2: Any) -> None:
    optimizer = build_optimizer(copy.deepcopy(tiny_gpt2), TrainingConfig(weight_decay=0.1))
    for group in optimizer.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])


def _steps(model: Any, optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    for step in range(first, first + count):
        ids = torch.randint(3, 200, (2, 8), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


CAUTIOUS = {"weight_decay": 0.5, "cautious_weight_decay": True, "embedding_weight_decay": 0.1}


@pytest.mark.parametrize("more", [{}, CAUTIOUS], ids=["plain", "cautious"])
@pytest.mark.parametrize("recipe", [MUON, TrainingConfig(lr=0.01)], ids=["muon", "adamw"])
def test_a_restored_optimizer_goes_on_bit_for_bit(
    tiny_llama: Any, recipe: TrainingConfig, more: dict[str, Any]
) -> None:
    training = recipe.model_copy(update=more)
    whole = copy.deepcopy(tiny_llama)
    optimizer = build_optimizer(whole, training)
    _steps(whole, optimizer, 0, 2)
    resumed = copy.deepcopy(whole)
    again = build_optimizer(resumed, training)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _steps(whole, optimizer, 2, 2)
    _steps(resumed, again, 2, 2)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_state_of_two_parts_as_older_checkpoints_hold_it_is_read(tiny_llama: Any) -> None:
    whole = copy.deepcopy(tiny_llama)
    optimizer = build_optimizer(whole, MUON)
    _steps(whole, optimizer, 0, 2)
    joined = copy.deepcopy(optimizer.state_dict())
    count = len(joined["param_groups"][0]["params"])  # Muon's group comes first
    rest = [{**group, "params": [n - count for n in group["params"]]} for group in joined["param_groups"][1:]]
    older = {
        "muon": {"state": {n: joined["state"][n] for n in range(count)}, "param_groups": joined["param_groups"][:1]},
        "adamw": {"state": {n - count: v for n, v in joined["state"].items() if n >= count}, "param_groups": rest},
    }
    resumed = copy.deepcopy(whole)
    again = build_optimizer(resumed, MUON)
    again.load_state_dict(older)
    _steps(whole, optimizer, 2, 2)
    _steps(resumed, again, 2, 2)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_schedule_reaches_both_parts(tiny_llama: Any) -> None:
    optimizer = build_optimizer(copy.deepcopy(tiny_llama), MUON)
    assert isinstance(optimizer, MuonAdamW)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=2, num_training_steps=10)
    schedule.step()
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.005, 0.0015]


@pytest.mark.parametrize(
    ("asked", "total", "expected"),
    [(0, 100, 0), (0.05, 200, 10), (50, 200, 50), (300, 200, 20), (1, 1, 0), (0.5, 3, 2)],
)
def test_warmup_fits_the_run(asked: float, total: int, expected: int) -> None:
    steps, line = warmup_length(TrainingConfig(warmup_steps=asked), total)
    assert steps == expected
    assert (line is not None) == (asked >= total)


@pytest.mark.parametrize("name", ["cosine", "wsd", "linear", "constant"])
@pytest.mark.parametrize("total", [1, 2, 7, 100])
def test_every_schedule_runs_to_its_end(name: str, total: int) -> None:
    given = schedule_arguments(TrainingConfig(lr_scheduler=name), total)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(
        given["lr_scheduler_type"],
        optimizer,
        num_warmup_steps=given["warmup_steps"],
        num_training_steps=total,
        scheduler_specific_kwargs=given.get("lr_scheduler_kwargs"),
    )
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    end = optimizer.param_groups[0]["lr"]
    assert max(rates) <= 1.0
    assert end == pytest.approx(0.0, abs=1e-6) or name == "constant"
    if name == "linear" and total == 100:
        assert rates[29] == pytest.approx(71 / 95)  # a cosine has 0.85 there
    if name == "wsd" and total == 100:
        assert rates[40] == rates[69] == 1.0
        assert rates[85] == pytest.approx(0.5)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_the_recipes_numbers_reach_both_parts(tiny_llama: Any, precision: torch.dtype) -> None:
    keys = {"adam_epsilon": 1e-6, "adam_beta1": 0.8, "adam_beta2": 0.97, "weight_decay": 0.3}
    plain = build_optimizer(tiny_llama, TrainingConfig(**keys))
    both = build_optimizer(tiny_llama, TrainingConfig(optimizer="muon", **keys), precision)
    assert both.parts[0].precision == precision
    for group in (plain.param_groups[0], both.parts[1].param_groups[0]):
        assert (group["eps"], group["betas"]) == (1e-6, (0.8, 0.97))


def test_batched_muon_updates_as_torchs_own() -> None:
    """The same parameters, gradients and settings: equal up to bfloat16's rounding, step after step."""
    shapes = [(8, 8), (8, 8), (24, 8), (8, 24), (12, 20)]
    generator = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
    pair = BatchedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=2e-3)
        assert not torch.equal(a.detach(), torch.zeros_like(a))
    assert torch.equal(pair[0].state[ours[2]]["momentum_buffer"], pair[1].state[theirs[2]]["momentum_buffer"])
    assert pair[0].state_dict().keys() == pair[1].state_dict().keys()


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 64, 160), (2, 160, 64)])
def test_orthogonal_matrices_of_either_orientation(shape: tuple[int, ...]) -> None:
    """Four steps suffice for matrices like a model's: every singular value above 2% of the norm ends near 1."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(shape[0], shape[1], 64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(shape[0], shape[2], 64, generator=generator))
    values = torch.linspace(1.0, 0.1, 64)
    found = orthogonalize(left * values @ right.mT, (3.4445, -4.7750, 2.0315), NEWTON_SCHULZ_STEPS, 1e-7).float()
    singular = torch.linalg.svdvals(found)
    assert 0.6 < singular.min() <= singular.max() < 1.3
    torch.testing.assert_close(left.mT @ found @ right, torch.eye(64).expand(shape[0], 64, 64), atol=0.4, rtol=0)


def test_without_bf16_instructions_muon_iterates_in_float32(tiny_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bfloat16 product would be 170 times slower there: it must not happen, so here it is made to fail."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    matrices = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))
    assert orthogonalize(matrices, (3.4445, -4.7750, 2.0315), NEWTON_SCHULZ_STEPS, 1e-7).dtype == torch.float32
    products = []
    real = torch.baddbmm

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        products.append(args[1].dtype)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "baddbmm", watched)
    model = copy.deepcopy(tiny_llama)
    _steps(model, build_optimizer(model, MUON), 0, 1)
    assert set(products) == {torch.float32}


def test_embeddings_decay_apart(tiny_llama: Any, tiny_gpt2: Any) -> None:
    for model, tables in ((tiny_llama, 2), (tiny_gpt2, 2)):  # Llama: embeddings and head; GPT-2: tied, and positions
        for kind in ("adamw", "muon"):
            training = TrainingConfig(optimizer=kind, weight_decay=0.3, embedding_weight_decay=0.05)
            groups = build_optimizer(copy.deepcopy(model), training).param_groups
            of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
            assert list(of.values()).count(0.05) == tables
            assert sorted(set(of.values())) == [0.0, 0.05, 0.3]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_cautious_decay_moves_only_entries_that_the_update_shrinks(kind: str, tiny_llama: Any) -> None:
    after = {}
    for decay, cautious in ((0.0, False), (0.5, False), (0.5, True)):
        model = copy.deepcopy(tiny_llama)
        recipe = {"optimizer": kind, "lr": 0.01, "weight_decay": decay, "cautious_weight_decay": cautious}
        _steps(model, build_optimizer(model, TrainingConfig(**recipe)), 0, 1)
        after[decay, cautious] = dict(model.named_parameters())
    for name, before in tiny_llama.named_parameters():
        free, full, ours = (after[key][name].detach() for key in ((0.0, False), (0.5, False), (0.5, True)))
        if before.ndim < 2:
            assert torch.equal(free, ours)
            continue
        shrinks = before * (before - free) > 0
        clear = (before - free).abs() > 1e-6
        assert torch.allclose(ours[shrinks & clear], full[shrinks & clear], atol=1e-6)
        assert torch.allclose(ours[~shrinks & clear], free[~shrinks & clear], atol=1e-6)
        assert shrinks[clear].float().mean().item() == pytest.approx(0.5, abs=0.2)
