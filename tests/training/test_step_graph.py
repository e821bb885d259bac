"""A recorded step, with a recorder that computes again where a GPU would replay: the same gradients, kept in place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from babyllama.config.schema import Config
from babyllama.models.gpu import step_is_recorded
from babyllama.training.timing.step_graph import WARM_UP, StepGraph

LLAMA = {"type": "Llama", "name": "run"}


class Again:
    """Replays by computing again into the tensors of the first time, as a CUDA graph does."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.warmed, self.recorded, self.replayed = 0, 0, 0

    def warm_up(self, compute: Callable[[], Tensor]) -> Tensor:
        self.warmed += 1
        return compute()

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        loss = compute()
        kept = [parameter.grad for parameter in self.model.parameters()]

        def replay() -> None:
            self.replayed += 1
            for parameter in self.model.parameters():
                parameter.grad = None
            loss.copy_(compute())
            for tensor, parameter in zip(kept, self.model.parameters(), strict=True):
                tensor.copy_(parameter.grad)

        return replay, loss


def _passes(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor | int | None], Tensor]:
    def compute(inputs: dict[str, Tensor], count: Tensor | int | None) -> Tensor:
        loss = (model(inputs["x"]) ** 2).sum() / count
        loss.backward()
        return loss.detach()

    return compute


def test_every_batch_gets_its_own_gradients_and_loss() -> None:
    torch.manual_seed(0)
    model, plain = nn.Linear(4, 3), nn.Linear(4, 3)
    plain.load_state_dict(model.state_dict())
    recorder = Again(model)
    graph = StepGraph(model.parameters(), recorder)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1) for m in (model, plain)]
    for step in range(9):
        rows = 5 if step in (4, 6) else 2  # another shape is another recording
        batch = {"x": torch.randn(rows, 4)}
        count = torch.tensor(float(step + 1))
        losses = [graph(_passes(model), batch, count).item(), _passes(plain)(batch, count).item()]
        assert losses[0] == losses[1]
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert (recorder.warmed, recorder.recorded, recorder.replayed) == (WARM_UP + 2, 1, 9 - WARM_UP - 2)


def test_a_shape_of_earlier_lets_its_memory_go() -> None:
    """Short chunks at the start of a run: their recording would keep its activations to the end."""
    model = nn.Linear(4, 3)
    graph = StepGraph(model.parameters(), Again(model))
    for rows in [2] * 6 + [5] * 6:
        graph(_passes(model), {"x": torch.randn(rows, 4)}, torch.tensor(1.0))
        model.zero_grad()
    assert [shape[1][1] for shape in graph.recorded] == [(5, 4)]


def test_what_cannot_be_recorded_is_computed_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(2, 1)

    class Refuses(Again):
        def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
            compute()  # gradients that a failed recording leaves
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graph = StepGraph(model.parameters(), Refuses(model))
    for step in range(WARM_UP + 2):
        batch = {"x": torch.full((1, 2), float(step))}
        model.zero_grad()
        loss = graph(_passes(model), batch, 1)
        given = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        assert loss == _passes(model)(batch, 1)
        assert all(torch.equal(a, p.grad) for a, p in zip(given, model.parameters(), strict=True))
    assert capsys.readouterr().out.count("cannot be recorded as a CUDA graph (operation not permitted when") == 1


def test_memory_that_ends_while_recording_is_not_taken_for_a_model_that_cannot_be_recorded() -> None:
    model = nn.Linear(2, 1)

    class Full(Again):
        def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    graph = StepGraph(model.parameters(), Full(model))
    batch = {"x": torch.ones(1, 2)}
    for _ in range(WARM_UP):
        model.zero_grad()
        graph(_passes(model), batch, 1)
    with pytest.raises(torch.OutOfMemoryError):
        graph(_passes(model), batch, 1)


@pytest.mark.parametrize(
    ("device", "precision", "overrides", "expected"),
    [
        ("cuda", "bf16", {}, True),
        ("cuda", "fp32", {}, True),
        ("cuda", "fp16", {}, False),
        ("cpu", "bf16", {}, False),
        ("cuda", "bf16", {"cuda_graphs": False}, False),
        ("cuda", "bf16", {"gradient_accumulation_steps": 2}, False),
        ("cpu", "bf16", {"cuda_graphs": True}, False),
    ],
)
def test_steps_are_recorded_on_one_gpu_in_one_part(
    device: str, precision: str, overrides: dict[str, object], expected: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(model=LLAMA, training=overrides)
    assert step_is_recorded(config, device, precision) is expected
    assert ("cuda_graphs: only on one CUDA GPU" in capsys.readouterr().out) == bool(overrides.get("cuda_graphs"))


def test_auto_leaves_a_plugins_model_and_teachers_alone() -> None:
    assert not step_is_recorded(Config(model=LLAMA | {"type": "Mine"}), "cuda", "bf16")
    assert step_is_recorded(Config(model=LLAMA | {"type": "Mine"}, training={"cuda_graphs": True}), "cuda", "bf16")
    assert not step_is_recorded(Config(model=LLAMA, distillation={"teachers": ["t"]}), "cuda", "bf16")
