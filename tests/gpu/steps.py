"""Inside a step: what makes Python wait for the device, what is compiled again, how the fp16 loss scale moves.

A read (`.item()`, a copy to the host, `nonzero`) makes the CPU wait until the device is done, and the device idle until
the CPU has caught up. On CUDA torch itself reports them (`set_sync_debug_mode`); on a CPU the operations that would be
reads there are counted in the dispatcher.
"""

from __future__ import annotations

import math
import traceback
import warnings
from collections import Counter
from itertools import pairwise
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from tests.gpu.rows import Report, Spec
from tests.gpu.runs import configuration, losses, precision_keys, trainer_of

STEPS, FIRST = 12, 6  # steps in all, and the first that is watched
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique2")
COMPILED_STEPS = 6  # of a run whose recompiles are counted
TOO_LARGE = 2.0**30  # a loss scale that overflows fp16 with any loss


class Watch(TrainerCallback):
    """Switches a watcher on at a step's start and off at its end, from step FIRST on."""

    def __init__(self, start: Any, stop: Any) -> None:
        self.start, self.stop = start, stop
        self.steps = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= FIRST:
            self.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > FIRST:
            self.stop()
            self.steps += 1


class ReadCounter(TorchDispatchMode):
    """Counts the operations that a GPU would have to be waited for, by the line of ours or HF's that asks."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.found[f"{name} at {where()}"] += 1
        return func(*args, **(kwargs or {}))


def where() -> str:
    """File and line of the innermost frame that is neither torch's nor this file's."""
    for frame in reversed(traceback.extract_stack()):
        if "/torch/" not in frame.filename and frame.filename != __file__:
            return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}"
    return "?"


def reads(spec: Spec) -> Report:
    """Reads inside optimizer steps; fetching the batch, logging, saving and scores lie outside."""
    precision = spec.options.get("precision", "bf16" if spec.cuda else "fp32")
    optimizer = spec.options["optimizer"]
    training = precision_keys(precision) | {"max_steps": STEPS, "optimizer": optimizer, "logging_steps": 100}
    config = configuration(spec, attention="causal", **training)
    found, steps = on_cuda(config) if spec.cuda else on_cpu(config)
    allowed = 1 if precision == "fp16" and optimizer == "muon" else 0
    report = Report({"reads a step": sum(found.values()) / max(steps, 1), "steps": steps})
    report.notes = [f"{count / steps:g} a step: {place}" for place, count in found.most_common(12)]
    if not spec.cuda:  # there our training_step looks at each loss, because looking costs nothing
        allowed = 1
        report.notes.append("on a CPU each loss is looked at")
    report.expect(steps == STEPS - FIRST, f"{steps} steps watched")
    report.expect(sum(found.values()) <= allowed * steps, f"{sum(found.values())} reads in {steps} steps")
    return report


def on_cuda(config: Any) -> tuple[Counter[str], int]:
    """Synchronisations by file and line, from torch's own warnings."""
    found: Counter[str] = Counter()

    def show(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "synchroniz" in str(message) and "prototype feature" not in str(message):  # which switching it on says
            found[f"{'/'.join(filename.split('/')[-2:])}:{lineno}"] += 1

    watch = Watch(lambda: torch.cuda.set_sync_debug_mode("warn"), lambda: torch.cuda.set_sync_debug_mode("default"))
    trainer = trainer_of(config, [watch])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        trainer.train()
    return found, watch.steps


def on_cpu(config: Any) -> tuple[Counter[str], int]:
    """What would be synchronisations, from the dispatcher."""
    counter = ReadCounter()
    watch = Watch(lambda: counter.__enter__(), lambda: counter.__exit__(None, None, None))
    trainer_of(config, [watch]).train()
    return counter.found, watch.steps


def recompiles(spec: Spec) -> Report:
    """Graphs that a compiled run makes, and when: none after the third step, the layers share one."""
    from torch._dynamo.utils import counters

    made: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            made.append(counters["stats"]["unique_graphs"])

    training = precision_keys("bf16" if spec.cuda else "fp32")
    training |= {"torch_compile": True, "max_steps": COMPILED_STEPS, "eval_steps": COMPILED_STEPS - 1}
    config = configuration(spec, **training)
    trainer = trainer_of(config, [Count()])
    torch._dynamo.reset()
    counters.clear()
    trainer.train()
    report = Report({"graphs": made[-1], "after step 3": made[2]}, notes=[trainer.runtime.line()])
    report.expect(trainer.runtime.compile == "layers", "nothing was compiled")
    report.expect(made[-1] == made[2], f"graphs by step: {made}")
    report.expect(made[-1] >= 1, "the layers were never compiled")
    report.expect(made[-1] <= 3, f"{made[-1]} graphs, at most 3 were meant")
    report.figures["graph breaks"] = sum(counters["graph_break"].values())
    return report


def loss_scale(spec: Spec) -> Report:
    """fp16: a scale that overflows skips steps and is halved, the loss goes on; a resume has the scaler's state."""
    training = precision_keys("fp16") | {"max_steps": 30, "save_steps": 25, "optimizer": "adamw"}
    config = configuration(spec, **training)
    scales: list[float] = []

    class Overflow(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2 and len(scales) == 2:
                trainer.accelerator.scaler._scale.fill_(TOO_LARGE)
            scales.append(trainer.accelerator.scaler.get_scale())

    trainer = trainer_of(config, [Overflow()])
    trainer.train()
    found = losses(trainer)
    report = Report({"halvings": sum(after < before for before, after in pairwise(scales[2:])), "last loss": found[-1]})
    report.expect(all(math.isfinite(value) for value in found), f"losses {found}")
    report.expect(scales[-1] < TOO_LARGE, f"the scale was never halved: {scales}")
    report.expect(found[-1] < found[0], f"the loss did not go on: {found}")
    state = trainer.accelerator.scaler.state_dict()
    again = trainer_of(config)
    again.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-25")
    report.expect(again.accelerator.scaler.state_dict() == state, "the resumed run's scaler ends in another state")
    return report
