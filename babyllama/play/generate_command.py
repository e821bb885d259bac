"""`main.py generate RUN --prompt TEXT`: a model writes in the terminal, token by token."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from babyllama.common.command import at_least
from babyllama.common.console import printable, say
from babyllama.play.flags import add_writing_flags

if TYPE_CHECKING:
    from babyllama.play.writer import Writer, WritingSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("checkpoint", help="a local model folder")
    parser.add_argument("--prompt", action="append", help="may be given several times")
    parser.add_argument("--num-samples", type=at_least(1), default=1, metavar="N", help="texts per prompt")
    add_writing_flags(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="a Python file of your own")


def run(args: argparse.Namespace) -> int:
    """Write text with a trained model; without --prompt, reads prompts line by line."""
    from dataclasses import replace

    from babyllama.play.writer import Writer, settings_from
    from babyllama.plugins import load_plugins

    settings = settings_from(vars(args))
    load_plugins(args.plugin)
    writer = Writer(args.checkpoint, args.device)
    slower = writer.slower_because()
    if slower:
        print(slower, file=sys.stderr)
    for number, prompt in enumerate(args.prompt or _typed_prompts()):
        write = _stream if args.num_samples == 1 else _write_several
        write(writer, prompt, replace(settings, seed=settings.seed + number), args.num_samples)
    return 0


def _stream(writer: Writer, prompt: str, settings: WritingSettings, _: int) -> None:
    """Show each piece of the text as it is written."""
    out = sys.stdout
    out.write(printable(prompt))
    for piece in writer.write(prompt, settings):
        out.write(printable(piece.text))
        out.flush()
    out.write("\n\n")
    out.flush()


def _write_several(writer: Writer, prompt: str, settings: WritingSettings, count: int) -> None:
    """Write several texts at once, which is faster than one after the other."""
    for text in writer.write_several(prompt, settings, count):
        say(printable(prompt + text))
        say()


def _typed_prompts() -> Iterator[str]:
    """Yield lines from the keyboard or a pipe; Ctrl-D ends."""
    if sys.stdin.isatty():
        say("type a prompt and Enter; Ctrl-D ends")
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")
