"""Run a command line: errors become one line each and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from babyllama.common import distributed
from babyllama.common.console import is_main_process
from babyllama.common.errors import BabyLlamaError


def at_least(low: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """A type for argparse: a number not below `low`."""

    def number(text: str) -> Any:
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text}: at least {low:g}")
        return value

    number.__name__ = kind.__name__
    return number


def add_debug_flag(parser: argparse.ArgumentParser) -> None:
    """`--debug`: tracebacks."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


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
    if distributed.is_initialized():
        sys.stdout.flush()
        os._exit(code)  # the others may be gone: taking down what connects them could wait for ever
    return code


def _tell(error: Exception, debug: bool) -> int:
    """Print what there is to say of an error, and give its exit code."""
    silent = isinstance(error, distributed.FailedElsewhere) or not (is_main_process() or distributed.is_initialized())
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
    from babyllama.common.disk_space import is_disk_full

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
