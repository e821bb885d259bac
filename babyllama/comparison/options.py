"""What a comparison does: the flags of `benchmark.py` and its YAML, checked like a training's configuration.

benchmarks: [perplexity, minimal_pairs, speed]
eval_data: [texts/held_out.txt]
minimal_pairs: [blimp/data]
completion_items: 1000
groups:
  baseline: [models/llama-10M-seed1, models/llama-10M-seed2]
"""

from __future__ import annotations

import argparse
import difflib
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from babyllama.common.command import add_debug_flag, seed_number, split_names
from babyllama.common.errors import ConfigError
from babyllama.config.run_layout import SWEEP, TRAINING_METRICS
from babyllama.config.schema import Section
from babyllama.config.yaml_reader import read_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class BenchmarkConfig(Section):
    """Which runs, which benchmarks, on which data, how large."""

    checkpoints: list[str] = Field(default_factory=list)
    """Run folders or globs; none: every finished run under models/."""
    benchmarks: list[str] | None = None
    """Names of benchmarks; null: all."""
    eval_data: list[str] = Field(default_factory=list)
    """Text on which all runs are scored, as it is; none: the held-out set that they share."""
    minimal_pairs: list[str] = Field(default_factory=list)
    """Folders or files of pairs (BLiMP and its like), or NAME=PATH."""
    pair_ids: str | None = None
    """A list of IDs that filters the pairs."""
    pairs_half: Literal["even", "odd"] | None = None
    """Only the pairs with an even or an odd pairID; null: all."""
    pair_columns: str | None = None
    """Which columns of the pairs hold what: good=A,bad=B or text=A,label=B,id=C; null: the names of the common sets."""
    prompts: list[str] = Field(default_factory=list)
    """Beginnings for the texts that are counted for diversity; none: beginnings of the shared text."""
    paraphrases: list[tuple[str, str]] = Field(default_factory=list)
    """Pairs of prompts of one meaning, for consistency; none: 24 plain English ones."""
    groups: dict[str, list[str]] = Field(default_factory=dict)
    """Recipe -> its runs (folders, globs or names); runs whose names differ only in -seed<N> are grouped without it."""
    num_samples: int = Field(default=20, ge=1)
    """Texts each run writes."""
    completion_items: int = Field(default=500, ge=1)
    """Held-out sentences to complete."""
    temperature: float = Field(default=0.8, ge=0)
    """Of sampling; 0 is greedy."""
    seed: int = Field(default=0, ge=0)
    """Of sampling and of all resampling."""


def load_benchmark_config(path: str | Path | None) -> BenchmarkConfig:
    """Read the file; None gives the defaults.

    Raises:
        ConfigError: With every problem found, one line each.
    """
    if path is None:
        return BenchmarkConfig()
    try:
        raw = read_yaml(Path(path).read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--benchmark-config: {path}: cannot be read: {error}") from None
    if not isinstance(raw or {}, dict):
        raise ConfigError(f"{path}: expected keys ({', '.join(BenchmarkConfig.model_fields)})")
    try:
        return BenchmarkConfig.model_validate(raw or {})
    except ValidationError as error:
        raise ConfigError([_problem(entry, str(path)) for entry in error.errors()]) from None


def _problem(error: ErrorDetails, source: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, BenchmarkConfig.model_fields, n=1)
        known = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(BenchmarkConfig.model_fields)}"
        return f"{source}: {key}: unknown key; {known}"
    return f"{source}: {key}: {error['msg']}, found {error['input']!r}"


def finished_runs(folder: str | Path = "models") -> list[Path]:
    """Return every finished run of an output folder."""
    return sorted(path.parent for path in Path(folder).glob(f"*/{TRAINING_METRICS}"))


def run_folders(patterns: Sequence[str]) -> list[str | Path]:
    """Return the folders that names and globs stand for; a sweep's folder stands for its finished runs."""
    found: list[str | Path] = []
    for path in (path for pattern in patterns for path in (sorted(glob.glob(pattern)) or [pattern])):
        found += finished_runs(path) if (Path(path) / SWEEP).is_file() else [path]
    return found


def add_arguments(parser: argparse.ArgumentParser, benchmarks: Sequence[str]) -> None:
    """Add the flags of a comparison.

    Args:
        parser: Parser that gets the flags.
        benchmarks: Names of the built-in benchmarks, for the help text.
    """
    parser.add_argument(
        "checkpoints", nargs="*", help="run folders, or a sweep's (default: every finished run under models/)"
    )
    # What is compared on which data.
    parser.add_argument("--eval-data", nargs="+", metavar="PATH", help="text for all runs, as it is")
    parser.add_argument("--minimal-pairs", nargs="+", metavar="[NAME=]PATH", help="sets of minimal pairs (BLiMP)")
    parser.add_argument("--pair-ids", metavar="FILE", help="{UID: [pairID, ...]}: only these pairs")
    half = "only pairs with such a pairID: choose, then report"
    parser.add_argument("--pairs-half", choices=["even", "odd"], help=half)
    parser.add_argument("--pair-columns", metavar="good=A,bad=B", help="columns of the pairs, where not known")
    parser.add_argument("--benchmarks", metavar="A,B", help=f"of {', '.join(benchmarks)} and a plugin's; default: all")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=RUN,RUN",
        help="seeds of one recipe (runs named *-seed1, *-seed2 are grouped without it)",
    )
    parser.add_argument("--custom-prompts", metavar="FILE", help="one prompt a line, for the texts that are written")
    parser.add_argument("--benchmark-config", metavar="FILE", help="YAML: which benchmarks, which data, which sizes")
    # Sizes, seed, machine.
    parser.add_argument("--num-samples", type=int, help="texts each run writes (default: 20)")
    parser.add_argument("--seed", type=seed_number)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="a Python file of your own")
    parser.add_argument("--no-cache", action="store_true", help="score everything anew")
    parser.add_argument(
        "--format", default="table", choices=["table", "markdown", "csv", "latex"], help="how tables are printed"
    )
    parser.add_argument("--output", default=".", metavar="DIR", help="folder for results and page (default: here)")
    add_debug_flag(parser)


def config_of(args: argparse.Namespace) -> BenchmarkConfig:
    """Return the file's configuration with the flags laid over it."""
    from babyllama.evaluation.generation import read_prompts

    config = load_benchmark_config(args.benchmark_config)
    flags = {
        "checkpoints": args.checkpoints or None,
        "eval_data": args.eval_data,
        "minimal_pairs": args.minimal_pairs,
        "pair_ids": args.pair_ids,
        "pairs_half": args.pairs_half,
        "pair_columns": args.pair_columns,
        "benchmarks": split_names(args.benchmarks),
        "prompts": read_prompts(args.custom_prompts),
        "num_samples": args.num_samples,
        "seed": args.seed,
    }
    # Groups are added to the file's.
    for item in args.group:
        name, sign, members = item.partition("=")
        if not (name and sign and members):
            raise ConfigError(f"--group {item}: write --group NAME=RUN,RUN")
        config.groups[name] = split_names(members) or []
    # A given flag wins over the file.
    try:
        for key, value in flags.items():
            if value is not None:
                setattr(config, key, value)
    except ValidationError as error:
        raise ConfigError([_problem(entry, "command line") for entry in error.errors()]) from None
    return config
