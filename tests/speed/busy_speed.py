"""What a busy neighbour costs a training, and what other ways of waiting for each other give OpenMP's threads.

    python -m tests.speed.busy_speed
    python -m tests.speed.busy_speed --variants default,passive,spin:1000 --set training.optimizer=adamw --compile false

The threads of a parallel loop wait at its end for the slowest. How they wait is read from the environment when torch is
loaded, so every variant is a process of its own:

    default     the library's own: GNU's libgomp spins 300,000 times, some milliseconds, then sleeps
    ours        what babyllama does: 30,000 spins, 100 for as long as another program is busy
                (babyllama/training/timing/short_spins.py)
    passive     OMP_WAIT_POLICY=passive: sleeps at once
    spin:N      GOMP_SPINCOUNT=N
    one         a single thread

All stay alive and compute a few seconds in turn, once with nothing beside them and once beside a process that is always
busy: in this session, or with `--other-session` in one of its own, which the kernel's autogroups give a share of its
own. Shown: the median tokens/s of the turns, and those of each variant's fastest step, which other work on the machine
disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

VARIANTS = "default,ours,passive,one"
OPENMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
WARM_UP = 4  # steps before the first turn


def training_step(config: Any) -> Callable[[], None]:
    """One optimizer step of a model with random weights on random tokens, as a training computes it."""
    import torch

    from babyllama.models import runtime as rt
    from babyllama.training.optim import build_optimizer
    from tests.speed.distill_speed import build

    runtime = rt.decide(config, total_steps=10**5, num_parameters=10**7)
    rt.apply(runtime)
    print(runtime.line(), file=sys.stderr)
    model = build(config, runtime)
    precision = rt.dtype_of(runtime.muon_precision) if runtime.muon_precision else None
    optimizer = build_optimizer(model, config.training, precision)
    low = runtime.precision != "fp32"
    ids = torch.randint(3, 16_000, (config.training.batch_size // config.training.parts, config.data.seq_length))

    def step() -> None:
        for _ in range(config.training.parts):
            with torch.autocast("cpu", dtype=rt.dtype_of(runtime.precision) if low else None, enabled=low):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def child(spec: dict[str, Any]) -> None:
    """Compute for the seconds that each line of standard input names, and print the rate of each turn.

    The first seconds of a turn (`--settle`) are computed and not counted: what follows the load has seen it by then.
    """
    import torch

    from babyllama.config.loading import load_config
    from babyllama.training.timing.short_spins import ShortSpins

    flags = {"training.torch_compile": spec["compile"], "training.device": "cpu"}
    config = load_config(spec["config"], spec["set"], flags)
    step = training_step(config)
    for _ in range(WARM_UP):
        step()
    tokens = config.training.batch_size * config.data.seq_length
    print("ready", flush=True)
    for line in sys.stdin:
        times: list[float] = []
        spins = ShortSpins(torch.get_num_threads()) if spec["watch"] else None
        counted = time.perf_counter() + spec["settle"]
        while (begun := time.perf_counter()) < counted + float(line):
            step()
            if begun >= counted:
                times.append(time.perf_counter() - begun)
            if spins is not None:
                spins.look()
        if spins is not None:
            spins.end()
        print(tokens * len(times) / sum(times), tokens / min(times), flush=True)


class Variant:
    """A process that trains when it is told to."""

    def __init__(self, name: str, spec: dict[str, Any]) -> None:
        self.name = name
        environment = {key: value for key, value in os.environ.items() if key not in OPENMP}
        environment |= settings(name) | {"BABYLLAMA_SPEED": json.dumps(spec | {"watch": name == "ours"})}
        command = [sys.executable, "-m", "tests.speed.busy_speed", "--child"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, encoding="utf-8", **pipes)

    def ready(self) -> None:
        """Wait for the first steps, which compile."""
        while (line := self.process.stdout.readline()).strip() != "ready":
            if not line:
                raise RuntimeError(f"{self.name}: the process ended")

    def turn(self, seconds: float) -> tuple[float, float]:
        """Tokens/s of one turn, and of its fastest step."""
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        rate, fastest = self.process.stdout.readline().split()
        return float(rate), float(fastest)

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def settings(name: str) -> dict[str, str]:
    """Variables of a variant. `default` switches off what the package sets where nothing is set."""
    if name.startswith("spin:"):
        return {"GOMP_SPINCOUNT": name.split(":")[1]}
    default = {"GOMP_SPINCOUNT": "300000"}
    return {
        "default": default,
        "ours": {},
        "passive": {"OMP_WAIT_POLICY": "passive"},
        "one": {"OMP_NUM_THREADS": "1"},
    }[name]


@contextmanager
def neighbour(other_session: bool) -> Iterator[None]:
    """One process that is always busy."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=other_session)
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


Rates = dict[str, dict[str, list[tuple[float, float]]]]


def measure(args: argparse.Namespace) -> Rates:
    """Rates of the turns by variant and condition."""
    spec = {"config": args.config, "set": args.set, "compile": args.compile, "settle": args.settle}
    variants = [Variant(name, spec) for name in args.variants.split(",")]
    try:
        for variant in variants:
            variant.ready()
        return take_turns(variants, args)
    finally:
        for variant in variants:
            variant.end()


def take_turns(variants: list[Variant], args: argparse.Namespace) -> Rates:
    """All variants in turn, quiet and busy, for some rounds; every second round in the other order."""
    found: Rates = {variant.name: {"quiet": [], "busy": []} for variant in variants}
    for number in range(args.rounds):
        order = variants if number % 2 == 0 else variants[::-1]
        for variant in order:
            found[variant.name]["quiet"].append(variant.turn(args.seconds))
        with neighbour(args.other_session):
            for variant in order:
                found[variant.name]["busy"].append(variant.turn(args.seconds))
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    return found


def show(found: Rates) -> None:
    """The table: medians of the turns, and what they are of the first variant's quiet ones."""
    rates = {
        name: {condition: statistics.median(rate for rate, _ in turns) for condition, turns in both.items()}
        for name, both in found.items()
    }
    first = next(iter(rates.values()))["quiet"]
    print(f"{'':<14}{'quiet':>9}{'busy':>9}{'quiet, of first':>17}{'busy, of first quiet':>22}{'fastest step':>14}")
    for name, of in rates.items():
        quickest = max(fastest for _, fastest in found[name]["quiet"])
        shares = f"{of['quiet'] / first:>16.1%}{of['busy'] / first:>21.1%}"
        print(f"{name:<14}{of['quiet']:>9,.0f}{of['busy']:>9,.0f}{shares}{quickest:>15,.0f}")
    for name, both in found.items():
        print(name, *(f"{condition}: " + " ".join(f"{rate:,.0f}" for rate, _ in both[condition]) for condition in both))


def main() -> int:
    """The command line."""
    if "--child" in sys.argv:
        child(json.loads(os.environ["BABYLLAMA_SPEED"]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="config/llama-10M.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--variants", default=VARIANTS)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn (default: %(default)s)")
    parser.add_argument("--settle", type=float, default=0.0, help="seconds of a turn before it is timed")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compile", default="true", help="auto, true or false")
    parser.add_argument("--other-session", action="store_true", help="the neighbour has a session of its own")
    args = parser.parse_args()
    show(measure(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
