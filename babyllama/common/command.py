"""The command line: a table of sub-commands, and what turns errors into one line and an exit code.

A command is a module with `add_arguments(parser)` and `run(args)`. It is imported when the command is used, or when the
whole tree is wanted (shell completion, the documentation), so `--help` loads none of them.
"""

from __future__ import annotations

import argparse
import getpass
import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from babyllama.common import distributed
from babyllama.common.cache_folders import INDUCTOR, temporary_home
from babyllama.common.console import begin_command
from babyllama.common.distributed import is_main_process
from babyllama.common.errors import BabyLlamaError
from babyllama.common.files import ON_WINDOWS


def at_least(low: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """Return a type for argparse: a number not below `low`."""

    def number(text: str) -> Any:  # noqa: ANN401 - what `kind` makes
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text}: at least {low:g}")
        return value

    number.__name__ = kind.__name__
    return number


def seed_number(text: str) -> int:
    """A type for argparse: a seed, which every random generator that we use takes."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text}: a seed is from 0 to {2**32 - 1}")
    return value


def split_names(text: str | None) -> list[str] | None:
    """Part `a, b` at commas, without blanks and empty names; None for nothing.

    >>> split_names("perplexity, speed,")
    ['perplexity', 'speed']
    """
    return [name for part in text.split(",") if (name := part.strip())] if text else None


class _Once(argparse._StoreAction):
    """Store a flag's value; a second one is refused, or added where the flag takes several."""

    _of: Any = None

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - what `type` made of the words
        option_string: str | None = None,
    ) -> None:
        """Take the value; several values of `--eval-data a --eval-data b` are all taken."""
        if self._of is namespace and option_string is not None:
            if self.nargs not in ("+", "*"):
                hint = f". {SEVERAL}" if self.dest in TEXTS else ""
                parser.error(f"{option_string}: given twice, and the last would win{hint}")
            values = [*getattr(namespace, self.dest), *values]
        self._of = namespace
        super().__call__(parser, namespace, values, option_string)


TEXTS = {"data.train_path", "data.eval_path", "babylm_10m", "babylm_dev"}  # a folder or a pattern each
SEVERAL = "Several texts: their folder, or a pattern in quotes, 'texts/*.txt'"


class Parser(argparse.ArgumentParser):
    """A parser in which no value is dropped: a flag given twice, and a pattern that the shell expanded, are told."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register("action", None, _Once)
        self.register("action", "store", _Once)

    def error(self, message: str) -> NoReturn:
        """End with the usage and the message, with a word where the arguments are files."""
        words = message.partition("unrecognized arguments: ")[2].split()
        words += re.findall(r"invalid choice: '([^']+)'", message)  # a path in a sub-command's place
        if any(Path(word).exists() for word in words):
            message += f". {SEVERAL}"
        super().error(message)


def distinct_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Name folders by their last part, and those that share it by as many parts in front as tell them apart.

    Args:
        folders: Different folders, absolute.

    >>> list(distinct_names([Path("/a/x"), Path("/b/models/y"), Path("/c/models/y")]))
    ['x', 'b/models/y', 'c/models/y']
    """
    named: dict[str, list[Path]] = {}
    for folder in folders:
        named.setdefault(folder.name, []).append(folder)
    found: dict[Path, str] = {}
    for alike in named.values():
        parts = [folder.as_posix().split("/") for folder in alike]
        depth = 1
        while len({tuple(part[-depth:]) for part in parts}) < len(parts):
            depth += 1
        found |= {folder: "/".join(part[-depth:]) for folder, part in zip(alike, parts, strict=True)}
    return {found[folder]: folder for folder in folders}


def add_debug_flag(parser: argparse.ArgumentParser) -> None:
    """`--debug`: tracebacks."""
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def run_command(command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a command line; errors become one line each on standard error and their exit code.

    Before the process group exists only rank 0 prints, since all ranks meet the same error; afterwards the rank that
    `report_once` chose prints.

    Args:
        command: Function from arguments (None: the process's) to an exit code.
        argv: Arguments without the program's name.
    """
    if argv is None:
        restart_in_utf8()
    write_any_letter()
    begin_command()
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    launched = os.environ.get("WORLD_SIZE", "")
    if launched.isdecimal() and int(launched) > 2:  # before torch is loaded: DDP warns of what is asked for on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if sys.platform == "linux" and "PYTORCH_ALLOC_CONF" not in os.environ:  # read when CUDA starts; a CPU ignores it
        # Without growing segments, freed blocks of other sizes than the next ones are lost to them.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # Run; each way to end has its code.
    try:
        distributed.settle_environment()
        distributed.limit_threads()
        name_compile_cache()
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


def name_compile_cache() -> None:
    """Name a folder for compiled code where torch before 2.13 cannot: it calls its own after the user.

    A container with a random user id has no name, and torch's compiler could not even be imported there.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ModuleNotFoundError):
        os.environ.setdefault(INDUCTOR, str(temporary_home() / "inductor"))


def write_any_letter() -> None:
    """Let output show what its encoding lacks as an escape instead of ending the command.

    Windows gives a redirected output its old code page, which has no minus sign (U+2212), let alone Cyrillic.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.errors == "strict" or "utf" not in stream.encoding.lower():  # else it writes all
            stream.reconfigure(errors="backslashreplace")


def restart_in_utf8() -> None:
    """Start this process again in Python's UTF-8 mode, where file names could otherwise be ASCII only.

    Under LC_ALL=C Python chooses that mode itself, but not where it was switched off or in some other old locales: a
    run called `Größe` could not be written there. The variable reaches the processes that this one starts.
    """
    name = "PYTHONUTF8"
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8" and os.environ.get(name) != "1":
        os.environ[name] = "1"
        os.execv(sys.executable, sys.orig_argv)


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
        # Windows renames nothing that is open, and says that access is denied.
        held = ON_WINDOWS and error.filename2 is not None
        why = "open in another program, or no permission to write" if held else "no permission to write"
        cure = "close it, or choose" if held else "choose"
        print(f"error: {error.filename}: {why}; {cure} another --output-dir", file=sys.stderr)
        return 5
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's, of a user without an entry
        print("error: a path begins with ~, and HOME is not set: write the whole path, or set HOME", file=sys.stderr)
        return 2
    first = str(error).strip().split("\n")[0]
    print(f"internal error: {type(error).__name__}: {first} (--debug shows the traceback)", file=sys.stderr)
    return 1


@dataclass(frozen=True)
class Command:
    """A sub-command.

    Attributes:
        summary: One line for the list of commands.
        module: Name of the module with `add_arguments` and `run`, whose docstring's first line is the description.
        add_arguments: Adds the flags, where they are not the module's.
        run: Does the work of parsed flags and returns the exit code, where it is not the module's.
        complete: Completes the arguments before they are parsed.
    """

    summary: str
    module: str | None = None
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None
    run: Callable[[argparse.Namespace], int] | None = None
    complete: Callable[[Sequence[str]], list[str]] = list

    def attribute(self, name: str) -> Callable[..., Any]:
        """Return `add_arguments` or `run`, the command's own or its module's."""
        own = getattr(self, name)
        return own or getattr(importlib.import_module(str(self.module)), name)


class CommandParser(Parser):
    """A sub-command's parser, which takes its flags when it is first used."""

    command: Command | None = None

    def fill(self) -> CommandParser:
        """Add the command's flags and its description."""
        command, self.command = self.command, None
        if command is not None:
            command.attribute("add_arguments")(self)
            if "--debug" not in self._option_string_actions:
                add_debug_flag(self)
            self.description = (command.attribute("run").__doc__ or command.summary).strip().split("\n")[0]
        return self

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Fill the parser, then parse."""
        self.fill()
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """Fill the parser, then make its help."""
        self.fill()
        return super().format_help()


def add_commands(parser: argparse.ArgumentParser, commands: Mapping[str, Command]) -> dict[str, CommandParser]:
    """Add sub-commands to a parser.

    Args:
        parser: The program's parser.
        commands: Name -> command, in the order of the help.

    Returns:
        Name -> parser of each, empty until it is used (`CommandParser.fill`).
    """
    actions = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", parser_class=CommandParser, required=False
    )
    found = {}
    for name, command in commands.items():
        found[name] = actions.add_parser(name, help=command.summary)
        found[name].command = command
    return found
