"""What an evaluation does: its options as a section like those of the configuration, and the flags of `evaluate.py`."""

from __future__ import annotations

import argparse
from typing import Any, Literal

from pydantic import Field

from babyllama.common.command import add_debug_flag, at_least, seed_number
from babyllama.common.errors import ConfigError
from babyllama.config.schema import Section

DEFAULT_WINDOW = 1024  # of a foreign model that does not say how many positions it has


class EvaluationOptions(Section):
    """What is measured of a checkpoint, on which texts, how; `ModelEvaluator(folder, EvaluationOptions(window=64))`."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    eval_data: list[str] = Field(default_factory=list)
    """Texts to score as they are (files, folders); none: the run's own held-out set."""
    split: Literal["dev", "test"] = "dev"
    """Which text of the run is scored: what it held out, or what `data.test` set aside and nothing was chosen by."""
    minimal_pairs: list[str] = Field(default_factory=list)
    """Minimal pairs: folders or files of JSONL, CSV or TSV, or NAME=PATH."""
    pair_ids: str | None = None
    """A file of IDs, {UID: [pairID, ...]}: only these pairs are scored."""
    pairs_half: Literal["even", "odd"] | None = None
    """Only the pairs with an even or an odd pairID: recipes are chosen on one half and reported on the other."""
    pair_columns: str | None = None
    """Columns of the pairs, where their names are not known: good=A,bad=B or text=A,label=B,id=C; also paradigm=D."""
    window: int | None = Field(default=None, ge=1)
    """Tokens seen at once; unset: the length the model was trained at, else its positions."""
    stride: int | None = Field(default=None, ge=1)
    """New tokens of each window where windows overlap; unset: windows are disjoint."""
    batch_size: Literal["auto"] | int = "auto"
    """Windows of one forward pass; changes no figure. auto: 8,192 tokens."""
    prompts: list[str] | None = None
    """Beginnings of the generated texts; unset: beginnings of held-out documents."""
    num_samples: int | None = Field(default=None, ge=1)
    """Texts to generate; unset: one for each given prompt, else 10."""
    temperature: float = Field(default=0.8, ge=0)
    """Temperature of sampling; 0 is greedy."""
    seed: int = Field(default=0, ge=0)
    """Seed of sampling and of bootstrap draws."""
    screen_pairs: bool = False
    """Score minimal pairs in bfloat16 first and narrow ones again in float32: faster, the same choices."""

    @property
    def is_held_out(self) -> bool:
        """Whether the run's own held-out set is scored."""
        return not self.eval_data and self.split == "dev"

    @property
    def split_name(self) -> str:
        """How a person calls the text of the run that is scored."""
        return "test set" if self.split == "test" else "held-out set"

    def changed(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def window_within(self, positions: int | None, trained: int) -> int:
        """Return the window in force: the one that was asked for, else `trained`, the length the model was trained at.

        Raises:
            ConfigError: It is longer than the model's positions.
        """
        window = self.window or trained
        if positions is not None and window > positions:
            raise ConfigError(f"--window {window}: the model has {positions} positions")
        return window

    def batch_tokens(self, window: int) -> int | None:
        """Return the tokens of one forward pass, None where they are chosen automatically."""
        return None if self.batch_size == "auto" else self.batch_size * window


def add_arguments(parser: argparse.ArgumentParser, tasks: tuple[str, ...]) -> None:
    """Add the flags of `evaluate.py` to a parser; their help is the options' own."""
    parser.add_argument("checkpoint", help="a local model folder")
    # What is measured on which data.
    parser.add_argument("--eval-data", nargs="+", default=[], metavar="PATH", help=_help("eval_data"))
    parser.add_argument("--split", choices=["dev", "test"], default="dev", help=_help("split"))
    parser.add_argument("--minimal-pairs", nargs="+", default=[], metavar="[NAME=]PATH", help=_help("minimal_pairs"))
    parser.add_argument("--pair-ids", metavar="FILE", help=_help("pair_ids"))
    parser.add_argument("--pairs-half", choices=["even", "odd"], help=_help("pairs_half"))
    parser.add_argument("--pair-columns", metavar="good=A,bad=B", help=_help("pair_columns"))
    parser.add_argument("--screen-pairs", action="store_true", help=_help("screen_pairs"))
    parser.add_argument("--tasks", metavar="A,B", help=f"of {', '.join(tasks)} and a plugin's; default: all")
    # Texts that are written, and how scores are computed.
    parser.add_argument("--num-samples", type=at_least(1), help=_help("num_samples"))
    parser.add_argument("--custom-prompts", metavar="FILE", help="one prompt a line")
    parser.add_argument("--temperature", type=at_least(0, float), default=0.8, help=_help("temperature"))
    parser.add_argument("--batch-size", default="auto", metavar="N", help=_help("batch_size"))
    parser.add_argument("--window", type=at_least(1), metavar="N", help=_help("window"))
    parser.add_argument("--stride", type=at_least(1), metavar="N", help=_help("stride"))
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="a Python file of your own")
    parser.add_argument("--milestones", action="store_true", help="score all chck_* of a run, by words seen")
    parser.add_argument("--device", default="auto", help=_help("device"))
    parser.add_argument("--seed", type=seed_number, default=0, help=_help("seed"))
    parser.add_argument("--output", metavar="PATH", help="a folder, or a .json file; default: the checkpoint's folder")
    add_debug_flag(parser)


def _help(name: str) -> str:
    """Return the first sentence of an option's docstring as argparse shows it."""
    field = EvaluationOptions.model_fields[name]
    default = f" (default: {field.default})" if isinstance(field.default, int | float | str) else ""
    return f"{field.description.removesuffix('.')}{default}".replace("%", "%%")


def options_of(args: argparse.Namespace) -> EvaluationOptions:
    """Turn parsed flags into options.

    Raises:
        ConfigError: A flag's value cannot be used.
    """
    from babyllama.evaluation.generation import read_prompts

    if args.batch_size != "auto" and (not args.batch_size.isdigit() or int(args.batch_size) < 1):
        raise ConfigError(f"--batch-size: {args.batch_size!r}: auto or a positive number")
    if args.split == "test" and (args.eval_data or args.milestones):
        raise ConfigError("--split test: the run's own test share and finished model: no --eval-data, no --milestones")
    given: dict[str, Any] = {
        name: getattr(args, name) for name in EvaluationOptions.model_fields if hasattr(args, name)
    }
    given["batch_size"] = "auto" if args.batch_size == "auto" else int(args.batch_size)
    return EvaluationOptions(**given, prompts=read_prompts(args.custom_prompts))
