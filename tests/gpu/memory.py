"""A card that is really full, and a machine with more cards than one."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from typing import Any
from unittest.mock import patch

from tests.gpu.rows import Report, Spec
from tests.gpu.runs import command, configuration, losses, trainer_of

STEPS = 4
SHARE = 0.75  # of what a step needs beyond the model is left on the card


def big(spec: Spec, name: str, parts: int = 1) -> Any:
    """A run whose activations are most of its memory."""
    config = configuration(
        spec, name=name, length=512, batch_size=64, max_steps=STEPS, gradient_accumulation_steps=parts
    )
    config.data.random_offset = False
    config.model.hidden_size, config.model.n_layer = 512, 8
    return config


def out_of_memory(spec: Spec) -> Report:
    """A ballast (or a memory fraction) leaves too little: halved with a line, that run's loss, memory given back."""
    import torch

    from babyllama.models.gpu import free_gpu_memory
    from babyllama.training import out_of_memory as out_of_memory_halving
    from train import train

    trainer = trainer_of(big(spec, "measured"))
    trainer.train()
    peak, base = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    free(trainer)
    del trainer
    told = trainer_of(big(spec, "told", parts=2))
    told.train()
    halved = losses(told)
    free(told)
    del told
    before = settle()
    ballast = take(base + SHARE * (peak - base), before, bool(spec.options.get("fraction")))
    said, held = io.StringIO(), [torch.cuda.memory_allocated()]
    config = big(spec, "short")

    def free_and_look() -> None:
        free_gpu_memory()
        held.append(torch.cuda.memory_allocated())

    with redirect_stdout(said), patch.object(out_of_memory_halving, "free_gpu_memory", free_and_look):
        result = train(config)
    report = Report({"peak GB": peak / 1e9, "parts": config.training.gradient_accumulation_steps})
    report.expect("out of memory" in said.getvalue(), "no line says so")
    report.expect(config.training.gradient_accumulation_steps == 2, "the accumulation was not doubled once")
    report.limit("GB of the first attempt that the second finds", (held[-1] - held[0]) / 1e9, 0.05)
    report.limit("difference of the loss", abs(result.metrics["train_loss"] - sum(halved) / len(halved)), 1e-3)
    del ballast
    torch.cuda.set_per_process_memory_fraction(1.0)
    report.limit("GB not given back", (settle() - before) / 1e9, 0.05)
    return report


def settle() -> int:
    """Bytes allocated on the card when nothing is held any more."""
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def free(trainer: Any) -> None:
    """Let go of a Trainer's tensors."""
    trainer.model.to("cpu")
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()


def take(leave: float, allocated: int, fraction: bool) -> Any:
    """Leave so many bytes: by a plain tensor over the rest of the card, or by the process's memory fraction.

    Args:
        leave: Bytes that stay free.
        allocated: Bytes in use now.
        fraction: By `set_per_process_memory_fraction`.
    """
    import torch

    available, total = torch.cuda.mem_get_info()
    if fraction:
        torch.cuda.set_per_process_memory_fraction(min(1.0, (allocated + leave) / total))
        return None
    return torch.empty(int(available - leave), dtype=torch.uint8, device="cuda")


def two_gpus(spec: Spec) -> Report:
    """A plain start on a machine with several GPUs uses one, and makes the steps that were planned."""
    import torch

    from babyllama.common.files import read_json
    from babyllama.config.loading import save_config

    config = configuration(spec, max_steps=6)
    save_config(config, spec.scratch / "run.yaml")
    report = Report({"gpus": torch.cuda.device_count()}, notes=[os.environ.get("CUDA_VISIBLE_DEVICES", "all visible")])
    for name, flags in (("one", []), ("second", ["--device", "cuda:1"])):
        arguments = ["--config", str(spec.scratch / "run.yaml"), "--model-name", name, *flags]
        done = command("train.py", *arguments, limit=100, log=spec.scratch / f"{name}.txt")
        report.expect(done.returncode == 0, f"{name}: exit {done.returncode}: {done.stdout[-200:]}")
        if done.returncode == 0:
            metrics = read_json(spec.scratch / "models" / name / "training_metrics.json")
            report.expect(metrics["global_step"] == 6, f"{name}: {metrics['global_step']} steps, not 6")
            report.figures[f"{name}: loss"] = metrics["train_loss"]
    return report
