"""Killed and resumed on the device: are the weights those of the run that was never stopped?

On a CPU they must be. On CUDA that is promised with `training.deterministic` only (atomic additions in flash
attention's backward pass, reductions chosen by timing): without it a difference is told, not failed. A weight that
becomes NaN must stop the run before anything is saved, on a GPU too, where the loss is looked at only now and then.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.gpu.rows import Report, Spec
from tests.gpu.runs import command, configuration

POISON = '''"""Puts a NaN into a weight after step 13 and sends SIGTERM after step 15."""
import os, signal

import torch
from transformers import TrainerCallback

from babyllama.plugins import register_callback


class Poison(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step == 13:
            with torch.no_grad():
                next(p for p in model.parameters() if p.ndim == 2).view(-1)[:64] = float("nan")
        if state.global_step == 15:
            signal.raise_signal(signal.SIGTERM)


register_callback(lambda config: Poison())
'''


def kills(spec: Spec) -> Report:
    """kill -9 and SIGTERM at random moments (`kills`, `terms`), by length, compiled or not, deterministic or not."""
    from tests.faults.__main__ import import_everything
    from tests.faults.harness import Bench, weights
    from tests.faults.kills import kill_in_training, signalled

    import_everything()
    options = spec.options
    overrides = [f"training.device={spec.device}", "training.bf16=auto", f"data.seq_length={options.get('length', 32)}"]
    overrides += ["training.torch_compile=true"] if options.get("compiled") else []
    overrides += ["training.deterministic=true"] if options.get("deterministic") else []
    bench = Bench(spec.scratch / "bench", overrides)
    report = Report({"seconds of an undisturbed run": bench.reference.seconds})
    exact = not spec.cuda or bool(options.get("deterministic"))
    if weights(bench.folder / "timed") != bench.weights:
        told = "two undisturbed runs end with different weights"
        (report.problems if exact else report.notes).append(told)
    trials: list[tuple[str, Callable[..., str]]] = [("kill -9", kill_in_training)] * min(
        options["kills"], 1 if spec.quick else options["kills"]
    )
    trials += [("SIGTERM", signalled(signal.SIGTERM, 1))] * options.get("terms", 0)
    equal = 0
    for number, (name, trial) in enumerate(trials):
        problem = trial(bench, spec.scratch / f"trial-{number}", random.Random(number))
        equal += not problem
        if problem == "other weights" and not exact:
            report.notes.append(f"{name} {number}: resumed, not bit-exact")
        elif problem:
            report.problems.append(f"{name} {number}: {problem}")
    report.figures |= {"trials": len(trials), "bit-exact": equal}
    return report


def not_finite(spec: Spec) -> Report:
    """NaN in a weight at step 13, log every 10, SIGTERM at 15, then a milestone: exit 4, nothing saved after 13."""
    from babyllama.config.loading import save_config

    plugin = spec.scratch / "poison.py"
    plugin.write_text(POISON, encoding="utf-8")
    steps = {"max_steps": 30, "logging_steps": 10, "save_steps": 10, "eval_steps": 12, "keep": "best"}
    config = configuration(spec, **steps)
    config.training.save_words = [words_of(16, config)]
    config.plugins = [str(plugin)]
    save_config(config, spec.scratch / "run.yaml")
    done = command(
        "train.py",
        "--config",
        str(spec.scratch / "run.yaml"),
        limit=100 if spec.cuda else 600,
        log=spec.scratch / "log.txt",
    )
    run = spec.scratch / "models" / "run"
    left = saved_after(run, 13)
    report = Report({"exit code": done.returncode}, notes=[done.stdout.strip().split("\n")[-1][:200]])
    report.expect(done.returncode == 4, f"exit {done.returncode}, not 4")
    report.expect(not left, f"saved after the NaN: {', '.join(left)}")
    report.expect((run / "checkpoint-10").is_dir(), "the checkpoint before the NaN is gone")
    return report


def words_of(step: int, config: Any) -> int:
    """Words seen after a step: a milestone there falls behind the NaN."""
    from train import prepare_data

    data = prepare_data(config)
    tokens = step * config.training.batch_size * config.data.seq_length
    return int(tokens * int(data.train.words.sum()) / len(data.train.tokens))


def saved_after(run: Path, step: int) -> list[str]:
    """Checkpoints behind a step, milestones, and a finished model."""
    found = [path.name for path in run.glob("checkpoint-*") if int(path.name.split("-")[1]) > step]
    return found + [path.name for path in (*run.glob("chck_*"), *run.glob("model.safetensors"))]
