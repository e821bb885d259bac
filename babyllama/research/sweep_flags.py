"""The flags of a sweep: beside a training's own, which go to every run as they are."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babyllama.common.errors import ConfigError
from babyllama.comparison.options import BenchmarkConfig
from babyllama.config.flags import FLAGS, SWITCHES, flags_of, read_config
from babyllama.research.sweep_names import value_text
from babyllama.research.sweep_plan import SweepOptions, SweepPlan

BENCHMARKS = (
    "perplexity,minimal_pairs,completion"  # of the page at the end; speed and samples are a recipe's last worry
)


def add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    """Add what a search needs to a training's parser."""
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=A,B", help="every combination of these")
    parser.add_argument("--random", type=int, metavar="N", help="draw N recipes from --range (and from --grid's lists)")
    parser.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="KEY=LOW..HIGH",
        help="what to draw from; :log or :int behind it",
    )
    parser.add_argument("--random-seed", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train each recipe with the seeds 1 to N")
    parser.add_argument("--dry-run", action="store_true", help="show the runs, train nothing")
    parser.add_argument("--keep-checkpoints", action="store_true", help="also of runs that are finished")
    parser.add_argument("--benchmarks", default=BENCHMARKS, metavar="A,B", help="of the page (default: %(default)s)")
    parser.add_argument("--minimal-pairs", nargs="+", default=[], metavar="DIR", help="folders of pairs for the page")


def sweep_options(args: argparse.Namespace) -> SweepOptions:
    """Return what parsed flags ask for.

    Raises:
        ConfigError: A checkpoint is named, which could be one run's only; or several processes were started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("sweep: start it as one process, without torchrun: it starts its runs itself")
    if args.resume_from_checkpoint not in (None, True):
        raise ConfigError("--resume_from_checkpoint: a sweep goes on by itself; leave the path out")
    names = {key: flag for flag, key, *_ in [*FLAGS, *SWITCHES]}
    taken = {item.partition("=")[0].strip(): f"--set {item}" for item in args.overrides}
    taken |= {key: names[key] for key in flags_of(args) if key in names}
    return SweepOptions(args.grid, args.range, args.random, args.random_seed, args.seeds, taken)


def sweep_folder(args: argparse.Namespace, plan: SweepPlan) -> Path:
    """Return the folder of the sweep, when all that its recipes name is there.

    Raises:
        DataError: A path of text leads nowhere.
        ConfigError: A plugin cannot be imported.
    """
    from babyllama.data.sources import find_files
    from babyllama.plugins import load_plugins

    config: Any = None
    for recipe in plan.recipes:
        config = read_config(args, recipe.overrides)
        load_plugins(config.plugins)
        for path, split in ((config.data.train_path, "train"), (config.data.eval_path, "eval")):
            if path and path != "synthetic" and not path.startswith("hf:"):
                find_files(path, split, f"data.{split}_path")
    return Path(config.logging.output_dir).expanduser().resolve() / plan.name


def page_config(args: argparse.Namespace) -> BenchmarkConfig:
    """Return what stands on the page at the end."""
    return BenchmarkConfig(benchmarks=args.benchmarks.split(","), minimal_pairs=args.minimal_pairs)


def check_page(args: argparse.Namespace, known: Sequence[str]) -> None:
    """See now that the page can be made after hours of training.

    Raises:
        ConfigError: A benchmark is unknown, or a folder of pairs is not there.
    """
    from babyllama import plugins

    known = [*known, *plugins.BENCHMARKS]
    problems = [
        f"--benchmarks: {name}: unknown; known: {', '.join(known)}"
        for name in page_config(args).benchmarks or []
        if name not in known
    ]
    problems += [f"--minimal-pairs: {path}: not there" for path in args.minimal_pairs if not Path(path).exists()]
    if problems:
        raise ConfigError(problems)


def train_arguments(args: argparse.Namespace) -> list[str]:
    """Return the given flags of a training as arguments for every run."""
    given = [part for item in args.overrides for part in ("--set", item)]
    given += [part for key, value in flags_of(args).items() for part in ("--set", f"{key}={value_text(value)}")]
    return ["--config", args.config, *given]
