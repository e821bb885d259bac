"""What a checkpoint costs: seconds the Trainer writes, and seconds more for flushing, hashing and the manifest.

python -m tests.speed.checkpoint_speed --config config/llama-10M.yaml
python -m tests.speed.checkpoint_speed --config config/llama-97M.yaml --set training.batch_size=4
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

SAVES = 5


def timed(function: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
    """The function, its seconds noted."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        into.append(time.perf_counter() - started)
        return result

    return wrapped


def main() -> int:
    """Train a few steps with a checkpoint after each, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="config/llama-10M.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    from babyllama.config.loading import load_config
    from babyllama.training import checkpoints
    from babyllama.training.trainer import BabyTrainer
    from train import train

    whole: list[float] = []
    commit: list[float] = []
    BabyTrainer._save_checkpoint = timed(BabyTrainer._save_checkpoint, whole)  # type: ignore[method-assign]
    checkpoints.commit = timed(checkpoints.commit, commit)
    with tempfile.TemporaryDirectory() as folder:
        overrides = {"training.max_steps": SAVES, "training.save_steps": 1, "training.logging_steps": 1}
        overrides |= {"training.torch_compile": False, "logging.output_dir": folder, "model.name": "cost"}
        metrics = train(load_config(args.config, args.set, overrides)).metrics
    size = f"{metrics['num_parameters']:,} parameters"
    print(
        f"{args.config}: {size}; the Trainer writes {statistics.median(whole):.2f} s, "
        f"the manifest adds {statistics.median(commit):.2f} s (medians of {SAVES})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
