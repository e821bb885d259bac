"""Lint, then the tests: `python run_tests.py`.

Plain: everything but slow and gpu. `--fast`: not the integration tests either. `--integration`: only those.
`--all`: also slow and gpu. `--coverage`: line coverage by module, and as pages in htmlcov/.
Tests run in as many processes as there are cores (`--workers 1`: in this one, for a debugger).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from babyllama.common.distributed import available_cores

ROOT = Path(__file__).resolve().parent
SELECTIONS = {
    "plain": "not slow and not gpu",
    "fast": "not integration and not slow and not gpu",
    "integration": "integration and not slow and not gpu",
    "all": "",
}


MOST_WORKERS = 8  # a process with torch and a small training takes up to 1 GB


def worker_count(wanted: int | None) -> int:
    """Return how many processes run the tests: what was asked for, or one a core, at most `MOST_WORKERS`."""
    if wanted is not None:
        return max(1, wanted)
    return min(available_cores(), MOST_WORKERS)


def commands(args: argparse.Namespace) -> list[list[str]]:
    """What will be run, in order."""
    python = sys.executable
    found = []
    if not args.no_lint:
        found += [[python, "-m", "ruff", "check", "."], [python, "-m", "black", "--check", "--quiet", "."]]
    chosen = next((name for name in ("fast", "integration", "all") if getattr(args, name)), "plain")
    tests = [python, "-m", "pytest", "-q", "-m", SELECTIONS[chosen]]
    workers = worker_count(args.workers)
    if workers > 1:  # neighbours stay together, for they share trained runs; who is done first takes from the others
        tests += ["-n", str(workers), "--dist", "worksteal"]
    if args.coverage:
        tests += ["--cov=.", "--cov-report=term", "--cov-report=html"]
    return [*found, tests]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select tests."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fast", action="store_true", help="only the fast tests")
    which.add_argument("--integration", action="store_true", help="only the integration tests")
    which.add_argument("--all", action="store_true", help="also the slow ones and those that need a GPU")
    parser.add_argument("--coverage", action="store_true", help="line coverage, also as pages in htmlcov/")
    parser.add_argument("--no-lint", action="store_true", help="tests only")
    parser.add_argument("--workers", type=int, default=None, help="processes that run the tests (one a core)")


def run(args: argparse.Namespace) -> int:
    """Run lint and tests; the exit code is that of the first stage that fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    if (
        worker_count(args.workers) > 1
    ):  # the processes fill the cores: threads beside them would only wait for each other
        environment.setdefault("OMP_NUM_THREADS", "1")
    for command in commands(args):
        print("$", " ".join(["python", *command[1:]]), flush=True)
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if code:
            return code
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the tests."""
    parser = argparse.ArgumentParser(prog="run_tests.py", description="Lint, then the tests.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
