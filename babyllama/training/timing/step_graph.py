"""The forward and backward pass of a training step as one CUDA graph: recorded once a shape, replayed from then on.

A step of a small model is a few hundred kernels of a few microseconds each, and Python needs longer to launch them than
the GPU to compute them. A CUDA graph is launched as one. It computes with the same addresses each time, so the batch is
copied into tensors that stay, and the gradients are read from where the recording put them.

What stays outside, and why: clipping and the optimizer (their rates are numbers of Python), copying the batch to the
GPU, and everything of the Trainer's loop. `auto` records our three architectures: a plugin's model may count in Python,
which a replay does not repeat. What cannot be recorded (a model that asks the GPU for a number, say) is computed kernel
by kernel, with a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from babyllama.common.console import say
from babyllama.models.gpu import is_out_of_memory

WARM_UP = 3  # passes of a shape before it is recorded: compiling, cuBLAS's workspace, autograd's first allocations

Compute = Callable[[dict[str, Tensor], Tensor | int | None], Tensor]


class Recorder(Protocol):
    """What records; `CudaRecorder`, in tests one that computes again."""

    def warm_up(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute as it will be recorded."""

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return what replays the computation, and the tensor that then holds its result."""


class CudaRecorder:
    """Records on the current CUDA device."""

    def __init__(self) -> None:
        self.stream: torch.cuda.Stream | None = None  # one for all passes: freed memory belongs to its stream

    def warm_up(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute on another stream, as the recording will (CUDA does not record on the default one)."""
        self.stream = self.stream or torch.cuda.Stream()
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = compute()
        current.wait_stream(self.stream)
        return result

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record; nothing is computed yet."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads (a log's upload) may go on using CUDA: what counts is that this one does nothing that waits.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                result = compute()
        finally:
            torch.cuda.set_stream(current)  # a recording that fails leaves its own behind
        return graph.replay, result


@dataclass
class Recording:
    """One shape of batch, recorded.

    Attributes:
        inputs: Tensors that the graph reads; a batch is copied into them.
        count: Number of predicted tokens that it divides by, likewise.
        replay: Launches the graph.
        loss: Tensor that then holds the loss.
        gradients: Parameters and the tensors that then hold their gradients.
    """

    inputs: dict[str, Tensor]
    count: Tensor | int | None
    replay: Callable[[], None]
    loss: Tensor
    gradients: list[tuple[nn.Parameter, Tensor]]

    def run(self, inputs: dict[str, Tensor], count: Tensor | int | None) -> Tensor:
        """Return the loss of a batch; its gradients stand in the parameters."""
        for name, tensor in self.inputs.items():
            tensor.copy_(inputs[name], non_blocking=True)
        if isinstance(self.count, Tensor) and isinstance(count, Tensor):
            self.count.copy_(count, non_blocking=True)
        self.replay()
        for parameter, gradient in self.gradients:  # the Trainer has dropped them after the last step
            parameter.grad = gradient
        return self.loss


class StepGraph:
    """Computes a step's only forward and backward pass, from the fourth of a shape on by replaying it.

    Args:
        parameters: The trained parameters; they have no gradients when a pass begins.
        recorder: What records.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], recorder: Recorder | None = None) -> None:
        self.parameters = list(parameters)
        self.recorder = recorder or CudaRecorder()
        self.eager: Counter[tuple[object, ...]] = Counter()
        self.recorded: dict[tuple[object, ...], Recording] = {}
        self.failed = False

    def __call__(self, compute: Compute, inputs: dict[str, Tensor], count: Tensor | int | None) -> Tensor:
        """Return the loss of a batch; its gradients stand in the parameters.

        Args:
            compute: `compute(inputs, count) -> loss`, forward and backward pass.
            inputs: The batch, on the GPU.
            count: Predicted tokens to divide by: a tensor on the GPU, or a number; each other number is recorded anew.
        """
        if self.failed:
            return compute(inputs, count)
        # Another shape, or another number to divide by, is another graph.
        fixed = None if isinstance(count, Tensor) else count
        shape = (fixed, *((name, tuple(tensor.shape), tensor.dtype) for name, tensor in sorted(inputs.items())))
        if shape in self.recorded:
            return self.recorded[shape].run(inputs, count)
        # The first passes as they are: they compile, and find their memory.
        self.eager[shape] += 1
        if self.eager[shape] <= WARM_UP:
            return self.recorder.warm_up(lambda: compute(inputs, count))
        # Record, or go on as before. A shape of earlier (short chunks at the start) lets its memory go.
        self.recorded.clear()
        try:
            self.recorded[shape] = self._record(compute, inputs, count)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self.failed = True
            first = str(error).strip().split("\n")[0]
            say(f"this model's step cannot be recorded as a CUDA graph ({first}): it is computed kernel by kernel")
            for parameter in self.parameters:
                parameter.grad = None
            return compute(inputs, count)
        return self.recorded[shape].run(inputs, count)

    def _record(self, compute: Compute, inputs: dict[str, Tensor], count: Tensor | int | None) -> Recording:
        kept = {name: tensor.clone() for name, tensor in inputs.items()}
        kept_count = count.clone() if isinstance(count, Tensor) else count
        for parameter in self.parameters:
            parameter.grad = None  # so that a replay writes gradients instead of adding to them
        replay, loss = self.recorder.record(lambda: compute(kept, kept_count))
        gradients = [(parameter, parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        return Recording(kept, kept_count, replay, loss, gradients)
