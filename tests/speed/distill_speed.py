"""What teachers cost: a distillation step against the student's own step and the teachers' forward passes.

    python -m tests.speed.distill_speed --student config/llama-10M.yaml --teachers Llama,GPT2

The three are measured in turn in one process, compiled as a training compiles them: the student's step alone (forward,
fused loss, backward), every teacher's plain forward pass over the same batch (logits included), and the distillation
step. Printed: medians and (distillation - student) / teachers. Random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


class SpecialTokens:
    """What a model needs to know of a tokenizer of 16,000 tokens."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __len__(self) -> int:
        return 16_000


def build(config: Any, runtime: Any) -> Any:
    """A model with fused loss and compiled layers, as `train.build_trainer` prepares it."""
    from babyllama.models.compiled_layers import prepare_forward
    from train import create_model

    model = create_model(config, SpecialTokens())
    prepare_forward(model, runtime)
    return model.to(runtime.device)


def steps(args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The three things to time, by name."""
    import torch

    from babyllama.config.loading import load_config
    from babyllama.config.schema import DistillationConfig
    from babyllama.models import runtime as rt
    from babyllama.research.teachers import install_distillation, keep_in_low_precision

    flags = {"training.torch_compile": args.torch_compile, "training.device": args.device}
    config = load_config(args.student, args.set, flags)
    config.distillation = DistillationConfig(teachers=["-"] * len(args.teachers.split(",")))
    runtime = rt.decide(config, total_steps=10**5, num_parameters=10**7)
    rt.apply(runtime)
    alone, taught = build(config, runtime), build(config, runtime)
    configs = [load_config(args.student, [*args.set, f"model.type={kind}"], flags) for kind in args.teachers.split(",")]
    teachers = [build(other, runtime).eval().requires_grad_(False) for other in configs]
    lower = [build(other, runtime).eval().requires_grad_(False) for other in configs]
    for teacher in lower:
        keep_in_low_precision(teacher, runtime.precision)
    install_distillation(taught, lower, config, compiled=runtime.compile == "layers")
    size = config.training.batch_size // config.training.gradient_accumulation_steps
    ids = torch.randint(3, 16_000, (size, config.data.seq_length), device=runtime.device)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(runtime.precision)
    kind = runtime.device.split(":")[0]

    def step(model: Any) -> None:
        with torch.autocast(kind, dtype=low, enabled=low is not None):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        model.zero_grad()

    def forward() -> None:
        with torch.no_grad(), torch.autocast(kind, dtype=low, enabled=low is not None):
            for teacher in teachers:
                _ = teacher(input_ids=ids, use_cache=False).logits

    return {"student": lambda: step(alone), "teachers": forward, "distillation": lambda: step(taught)}


def main() -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", default="config/llama-10M.yaml")
    parser.add_argument("--teachers", default="Llama,GPT2", help="types; the student's sizes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--torch-compile", default="true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    timed = steps(args)
    for number in range(args.rounds + 3):
        for name, run in timed.items():
            started = time.perf_counter()
            run()
            if args.device.startswith("cuda"):
                import torch

                torch.cuda.synchronize()
            if number >= 3:
                seconds.setdefault(name, []).append(time.perf_counter() - started)
    found = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    extra = found["distillation_seconds"] - found["student_seconds"]
    print(json.dumps(found | {"extra_to_teachers": extra / found["teachers_seconds"]}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
