"""Real trainings in small, as `train.train` builds them, for the rows that look inside one."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gpu.rows import Spec

ROOT = Path(__file__).resolve().parent.parent.parent
WORDS, QUICK_WORDS = 60_000, 4_000


def configuration(
    spec: Spec, *, name: str = "run", kind: str = "Llama", length: int | None = None, **training: Any
) -> Any:
    """A small run on the embedded corpus: 4 layers of 256 at 128 tokens, in quick mode 2 of 32 at 32.

    Args:
        spec: The device.
        name: The run's name.
        kind: The architecture.
        length: Tokens of a sequence.
        training: Further keys of the `training` section.
    """
    from babyllama.config.schema import Config

    quick = spec.quick
    recipe = {"lr": 1e-3, "batch_size": 8 if quick else 32, "logging_steps": 1, "device": spec.device}
    recipe |= {"save_steps": 10**6, "eval_steps": 10**6, "torch_compile": False}
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 2} if quick else {"hidden_size": 256, "n_layer": 4, "n_head": 4}
    return Config(
        model={"type": kind, "name": name, **sizes},
        data={
            "synthetic_words": QUICK_WORDS if quick else WORDS,
            "vocab_size": 300 if quick else 4096,
            "seq_length": length or (32 if quick else 128),
            "num_proc": 1,
        },
        training=recipe | training,
        logging={"output_dir": str(spec.scratch / "models")},
    )


def precision_keys(precision: str) -> dict[str, bool]:
    """`training.fp16` and `training.bf16` of a precision."""
    return {"fp16": precision == "fp16", "bf16": precision == "bf16"}


def trainer_of(config: Any, callbacks: Sequence[Any] = ()) -> Any:
    """The Trainer of a configuration, ready to train, with the process set as the runtime says.

    Args:
        config: From `configuration`.
        callbacks: Further ones.
    """
    from babyllama.data.packing import packed_datasets
    from babyllama.models import runtime as rt
    from babyllama.models.loading import quiet_libraries
    from babyllama.training.arguments import count_steps
    from train import build_trainer, create_model, prepare_data

    quiet_libraries()
    data = prepare_data(config)
    model = create_model(config, data.tokenizer)
    steps = count_steps(config, len(packed_datasets(config, data)[0])).total_steps
    runtime = rt.decide(config, total_steps=steps, num_parameters=sum(p.numel() for p in model.parameters()))
    rt.apply(runtime)
    run_dir = Path(config.logging.output_dir) / config.model.name
    run_dir.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(config, model, data, runtime, run_dir)
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def losses(trainer: Any) -> list[float]:
    """The loss of each log entry."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def means(values: Sequence[float], of: int = 20) -> list[float]:
    """Means of each `of` values.

    >>> means([1.0, 3.0, 5.0, 7.0], of=2)
    [2.0, 6.0]
    """
    parts = [values[start : start + of] for start in range(0, len(values), of)]
    return [math.fsum(part) / len(part) for part in parts]


def command(script: str, *arguments: str, limit: float, log: Path) -> subprocess.CompletedProcess[str]:
    """Run one of our scripts in a process of its own; both streams go to `stdout` and to a log.

    Args:
        script: `main.py`, `train.py` or `evaluate.py`.
        arguments: Its command line.
        limit: Seconds.
        log: File that gets the output.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=limit,
        check=False,
    )
    log.write_text(done.stdout, encoding="utf-8")
    return done
