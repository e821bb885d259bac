"""The flags that main.py and train.py share, and the wrapper that turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from babyllama.common.command import add_debug_flag
from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.config.run_layout import name_after_corpus

if TYPE_CHECKING:
    from babyllama.config.schema import Config


def _auto_or_int(text: str) -> str | int:
    """Return `auto`, or a whole number."""
    return text if text == "auto" else int(text)


# flag, configuration key, type; the help is the key's docstring in schema.py
FLAGS: list[tuple[str, str, Callable[[str], Any]]] = [
    ("--lr", "training.lr", float),
    ("--model-name", "model.name", str),
    ("--batch-size", "training.batch_size", int),
    ("--num-epochs", "training.num_epochs", float),
    ("--max-steps", "training.max_steps", int),
    ("--max-minutes", "training.max_minutes", float),
    ("--gradient-accumulation-steps", "training.gradient_accumulation_steps", _auto_or_int),
    ("--seed", "training.seed", int),
    ("--device", "training.device", str),
    ("--output-dir", "logging.output_dir", str),
    ("--wandb-project", "logging.project", str),
    ("--wandb-run-name", "logging.run_name", str),
    ("--dataloader-num-workers", "training.dataloader_num_workers", int),
    ("--train-path", "data.train_path", str),
    ("--eval-path", "data.eval_path", str),
]
SWITCHES: list[tuple[str, str]] = [
    ("--fp16", "training.fp16"),
    ("--bf16", "training.bf16"),
    ("--torch-compile", "training.torch_compile"),
]


def _spellings(flag: str) -> list[str]:
    """`--batch-size` is also `--batch_size`, as older scripts of the field write it."""
    return list(dict.fromkeys([flag, "--" + flag[2:].replace("-", "_")]))


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a training to a parser; their help is the configuration's own."""
    from babyllama.config.reference import flag_help

    parser.add_argument("--config", metavar="FILE", help="a YAML file, or the name of a preset")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override any key: --set training.lr=1e-3 (repeatable)",
    )
    # Frequent keys have flags of their own.
    for flag, key, kind in FLAGS:
        parser.add_argument(*_spellings(flag), dest=key, type=kind, metavar="X", help=flag_help(key))
    for flag, key in SWITCHES:
        switch = {"nargs": "?", "const": "true", "metavar": "auto|true|false", "help": flag_help(key)}
        parser.add_argument(*_spellings(flag), dest=key, **switch)
    wandb = {"action": "store_const", "const": True, "help": flag_help("logging.wandb")}
    parser.add_argument("--wandb", dest="logging.wandb", **wandb)
    parser.add_argument(
        *_spellings("--resume-from-checkpoint"),
        dest="resume_from_checkpoint",
        nargs="?",
        const=True,
        metavar="PATH",
        help="go on from the newest complete checkpoint, or from this one",
    )
    # What to do with what is in the run folder.
    parser.add_argument("--overwrite", action="store_true", help="replace what another run left in the folder")
    add_debug_flag(parser)


def flags_of(args: argparse.Namespace) -> dict[str, Any]:
    """`section.key` -> value of the flags that were given.

    Raises:
        ConfigError: One is an empty string.
    """
    keys = [key for _, key, *_ in [*FLAGS, *SWITCHES]] + ["logging.wandb"]
    found = {key: getattr(args, key) for key in keys if getattr(args, key, None) is not None}
    empty = [flag for flag, key, *_ in FLAGS if found.get(key) == ""]
    if empty:  # "$CORPUS" of an unset variable would stand for the current folder
        raise ConfigError([f"{flag}: empty; give a value, or leave the flag out" for flag in empty])
    return found


def config_from_args(args: argparse.Namespace) -> Config:
    """Return the Config of parsed flags, with a line about each key that was adapted."""
    from babyllama.config.loading import config_notices

    config = read_config(args)
    for notice in config_notices(config):
        say(notice)
    return config


def read_config(args: argparse.Namespace, more: Mapping[str, Any] | None = None) -> Config:
    """Return the Config of parsed flags: the file, then --set, then the flags, then `more` (`section.key` -> value).

    The run is named after its corpus where neither `--model-name` nor the user's own `--set model.name` names it.
    """
    from babyllama.config.loading import load_config
    from babyllama.config.run_layout import config_path, preset_paths

    flags = flags_of(args) | dict(more or {})
    try:
        config = load_config(args.config, args.overrides, flags)
    except ConfigError as error:
        raise ConfigError([_as_typed(problem, flags_of(args)) for problem in error.problems]) from None
    named = "model.name" in flags or any(item.startswith("model.name=") for item in args.overrides)
    is_preset = args.config is not None and config_path(args.config).resolve() in preset_paths().values()
    name_after_corpus(config, named=named or (not is_preset and config.model.name is not None))
    return config


def _as_typed(problem: str, flags: Mapping[str, Any]) -> str:
    """Return a problem that names `--set section.key` names the flag instead, where that is what was typed."""
    names = {key: flag for flag, key, *_ in [*FLAGS, *SWITCHES]}
    key = problem.removeprefix("--set ").split(":")[0]
    return problem.replace(f"--set {key}", names[key], 1) if key in flags and key in names else problem
