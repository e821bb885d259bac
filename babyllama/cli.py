"""The flags that main.py and train.py share, and the wrapper that turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from babyllama import distributed
from babyllama.console import is_main_process, say
from babyllama.errors import BabyLlamaError, ConfigError

# flag, config key, type, help
FLAGS: list[tuple[str, str, Callable[[str], Any], str]] = [
    ("--lr", "training.lr", float, "peak learning rate"),
    ("--model-name", "model.name", str, "the run's name: its folder under the output directory"),
    ("--batch-size", "training.batch_size", int, "sequences per optimizer step"),
    ("--num-epochs", "training.num_epochs", float, "passes over the training text"),
    ("--max-steps", "training.max_steps", int, "stop after this many optimizer steps"),
    ("--gradient-accumulation-steps", "training.gradient_accumulation_steps", int, "parts a step is computed in"),
    ("--seed", "training.seed", int, "seed of weights, order and dropout"),
    ("--device", "training.device", str, "auto, cpu, cuda, cuda:N or mps"),
    ("--output-dir", "logging.output_dir", str, "folder that holds the run folders"),
    ("--wandb-project", "logging.project", str, "W&B project"),
    ("--wandb-run-name", "logging.run_name", str, "W&B run name"),
    ("--dataloader-num-workers", "training.dataloader_num_workers", int, "loader processes"),
    ("--train-path", "data.train_path", str, "training text: folder, file, glob, synthetic or hf:org/name[:config]"),
    ("--eval-path", "data.eval_path", str, "held-out text"),
]
SWITCHES: list[tuple[str, str, str]] = [
    ("--fp16", "training.fp16", "half precision (CUDA)"),
    ("--bf16", "training.bf16", "bfloat16"),
    ("--torch-compile", "training.torch_compile", "compile the layers"),
]


def at_least(low: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """A type for argparse: a number not below `low`."""

    def number(text: str) -> Any:
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text}: at least {low:g}")
        return value

    number.__name__ = kind.__name__
    return number


def _spellings(flag: str) -> list[str]:
    """`--batch-size` is also `--batch_size`, as older scripts of the field write it."""
    return list(dict.fromkeys([flag, "--" + flag[2:].replace("-", "_")]))


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a training to a parser."""
    parser.add_argument("--config", metavar="FILE", help="YAML configuration (config/*.yaml)")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override any key: --set training.lr=1e-3 (repeatable)",
    )
    for flag, key, kind, text in FLAGS:
        parser.add_argument(*_spellings(flag), dest=key, type=kind, metavar="X", help=text)
    for flag, key, text in SWITCHES:
        parser.add_argument(*_spellings(flag), dest=key, nargs="?", const="true", metavar="auto|true|false", help=text)
    parser.add_argument("--wandb", dest="logging.wandb", action="store_const", const=True, help="log to W&B")
    parser.add_argument(
        *_spellings("--resume-from-checkpoint"),
        dest="resume_from_checkpoint",
        nargs="?",
        const=True,
        metavar="PATH",
        help="go on from the newest complete checkpoint, or from this one",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what another run left in the folder")
    add_debug_flag(parser)


def add_debug_flag(parser: argparse.ArgumentParser) -> None:
    """`--debug`: tracebacks."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def flags_of(args: argparse.Namespace) -> dict[str, Any]:
    """`section.key` -> value of the flags that were given.

    Raises:
        ConfigError: One is an empty string.
    """
    keys = [key for _, key, _, _ in FLAGS] + [key for _, key, _ in SWITCHES] + ["logging.wandb"]
    found = {key: getattr(args, key) for key in keys if getattr(args, key, None) is not None}
    empty = [flag for flag, key, *_ in FLAGS if found.get(key) == ""]
    if empty:  # "$CORPUS" of an unset variable would stand for the current folder
        raise ConfigError([f"{flag}: empty; give a value, or leave the flag out" for flag in empty])
    return found


def config_from_args(args: argparse.Namespace) -> Any:
    """The Config of parsed flags, with a line about each key that was adapted."""
    from babyllama.config import config_notices

    config = read_config(args)
    for notice in config_notices(config):
        say(notice)
    return config


def read_config(args: argparse.Namespace, more: Mapping[str, Any] | None = None) -> Any:
    """The Config of parsed flags: the file, then --set, then the flags, then `more` (`section.key` -> value).

    The run is named after its corpus where neither `--model-name` nor the user's own `--set model.name` names it.
    """
    from babyllama.config import load_config, preset_paths

    flags = flags_of(args) | dict(more or {})
    try:
        config = load_config(args.config, args.overrides, flags)
    except ConfigError as error:
        raise ConfigError([_as_typed(problem, flags_of(args)) for problem in error.problems]) from None
    named = "model.name" in flags or any(item.startswith("model.name=") for item in args.overrides)
    is_preset = args.config is not None and Path(args.config).resolve() in preset_paths().values()
    name_after_corpus(config, named=named or (not is_preset and config.model.name is not None))
    return config


def _as_typed(problem: str, flags: Mapping[str, Any]) -> str:
    """A problem that names `--set section.key` names the flag instead, where that is what was typed."""
    names = {key: flag for flag, key, *_ in [*FLAGS, *SWITCHES]}
    key = problem.removeprefix("--set ").split(":")[0]
    return problem.replace(f"--set {key}", names[key], 1) if key in flags and key in names else problem


def name_after_corpus(config: Any, *, named: bool) -> None:
    """Put the corpus's stem behind a preset's name, unless the text is embedded or the user named the run."""
    from babyllama.config import corpus_stem, run_name

    if named:
        return
    name = run_name(config)
    if config.data.train_path != "synthetic":
        name = f"{name}-{corpus_stem(config.data.train_path)}"
    config.model.name = name


def command_line() -> str:
    """This process's command as a user types it."""
    processes, here = distributed.world_size(), distributed.local_world_size()
    launcher = "python"
    if processes > 1:
        nodes = f"--nnodes {processes // here} " if processes > here else ""
        launcher = f"torchrun {nodes}--nproc-per-node {here}"
    return f"{launcher} " + shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def resume_command() -> str:
    """This process's command with the flag that goes on from the newest checkpoint."""
    command = command_line()
    return command if "--resume_from_checkpoint" in command else f"{command} --resume_from_checkpoint"


def run_command(command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a command line; errors become one line each on standard error and their exit code.

    Of several processes only the first speaks as long as they do not know of each other (all of them meet the same
    error), then the one that has something to say.

    Args:
        command: Takes the arguments (None: the process's), returns an exit code.
        argv: Arguments without the program's name.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    if distributed.world_size() > 2:  # before torch is loaded: DDP warns of what plan.py asks for on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return command(argv)
    except KeyboardInterrupt:
        if is_main_process():
            print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left (| head)
        sys.stderr.close()
        return 0
    except Exception as error:
        code = _tell(error, debug)
    if distributed.joined():
        sys.stdout.flush()
        os._exit(code)  # the others may be gone: taking down what connects them could wait for ever
    return code


def _tell(error: Exception, debug: bool) -> int:
    """Print what there is to say of an error, and give its exit code."""
    silent = isinstance(error, distributed.Elsewhere) or not (is_main_process() or distributed.joined())
    if silent:
        return getattr(error, "exit_code", 1)
    if not isinstance(error, BabyLlamaError):
        return _unexpected(error, debug)
    if debug:
        traceback.print_exc()
    for line in str(error).split("\n"):
        print(f"error: {line}", file=sys.stderr, flush=True)
    return error.exit_code


def _unexpected(error: Exception, debug: bool) -> int:
    from babyllama.disk import is_disk_full

    if debug:
        traceback.print_exc()
    if is_disk_full(error):
        print(f"error: the disk is full: {error}", file=sys.stderr)
        return 5
    if isinstance(error, PermissionError):
        print(f"error: {error.filename}: no permission to write; choose another --output-dir", file=sys.stderr)
        return 5
    first = str(error).strip().split("\n")[0]
    print(f"internal error: {type(error).__name__}: {first} (--debug shows the traceback)", file=sys.stderr)
    return 1
