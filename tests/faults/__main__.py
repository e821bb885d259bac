"""`python -m tests.faults --trials 100`: the table of faults, trials and passes."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["BABYLLAMA_CACHE"] = tempfile.mkdtemp(prefix="faults-cache-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

REPEATED = ("kill -9 in training", "kill -9 in saving", "kill -9 in rotation", "kill -9 in resuming, twice")


def import_everything() -> None:
    """What a training imports, so that a forked child need not; nothing is computed here: threads do not survive."""
    import accelerate  # noqa: F401
    import torch._dynamo  # noqa: F401
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformers import Trainer  # noqa: F401

    import babyllama.models.fused_loss  # noqa: F401
    import babyllama.training.trainer  # noqa: F401
    import evaluate  # noqa: F401
    import train  # noqa: F401


def run_trials(bench: object, name: str, trial: Callable[..., str], count: int, seed: int) -> tuple[int, list[str]]:
    """How many of `count` trials passed, and what went wrong in the others."""
    problems = []
    for number in range(count):
        output = bench.folder / f"trial-{name.replace('/', '_').replace(' ', '_')}-{number}"
        problem = trial(bench, output, random.Random(f"{seed} {name} {number}"))
        if problem:
            problems.append(f"trial {number}: {problem}")
        shutil.rmtree(output, ignore_errors=True)
    return count - len(problems), problems


def main() -> int:
    """Print the table; 1 where a trial failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--trials", type=int, default=10, help="of each kill; others take at most 5 (default: 10)")
    parser.add_argument("--only", default="", help="faults whose name holds one of these words, parted by commas")
    parser.add_argument("--compiled", action="store_true", help="train with compiled layers (5 s a start)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import_everything()
    from tests.faults.damage import damage_table
    from tests.faults.harness import Bench
    from tests.faults.inputs import input_table
    from tests.faults.kills import KILLS
    from tests.faults.moves import MOVES

    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    overrides = ["training.torch_compile=true"] if args.compiled else []
    bench = Bench(folder / "bench", overrides)
    wanted = [word for word in args.only.split(",") if word]
    tables: dict[str, Callable[..., str]] = KILLS | MOVES
    if not wanted or not all(any(word in name for name in tables) for word in wanted):
        tables |= damage_table(bench) | input_table()
    failed = 0
    print("| fault | trials | passed | seconds |\n| --- | --- | --- | --- |", flush=True)
    for name, trial in tables.items():
        if wanted and not any(word in name for word in wanted):
            continue
        count = args.trials if name in REPEATED else min(args.trials, 5 if name in KILLS or name in MOVES else 1)
        started = time.monotonic()
        passed, problems = run_trials(bench, name, trial, count, args.seed)
        print(f"| {name} | {count} | {passed} | {time.monotonic() - started:.0f} |", flush=True)
        for problem in problems:
            print(f"  {problem}", flush=True)
        failed += count - passed
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(os.environ["BABYLLAMA_CACHE"], ignore_errors=True)
    print("all passed" if not failed else f"{failed} trials failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
