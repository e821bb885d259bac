"""`main.py play RUN [RUN]`: a page on this machine to write with a model, and to see what a text costs it in bits.

Two runs write side by side on one prompt. Nothing is stored and nothing leaves the machine.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

from babyllama.common.command import at_least
from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.play.flags import add_writing_flags

MOST_RUNS, PORT = 2, 8321


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="one local model folder, or two to compare")
    port = "port on 127.0.0.1, 0 for a free one (default: %(default)s)"
    parser.add_argument("--port", type=at_least(0), default=PORT, metavar="N", help=port)
    add_writing_flags(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="a Python file of your own")


def run(args: argparse.Namespace) -> int:
    """Open a local page that writes as you watch and colours text by surprisal; Ctrl-C ends it."""
    if len(args.runs) > MOST_RUNS:
        raise ConfigError(f"play: one run, or {MOST_RUNS} side by side; {len(args.runs)} were given")
    if args.port > 65535:
        raise ConfigError(f"--port {args.port}: at most 65535")

    from babyllama.play.server import PlayServer
    from babyllama.play.writer import Writer, settings_from
    from babyllama.plugins import load_plugins

    def load() -> list[Writer]:
        load_plugins(args.plugin)
        writers = [Writer(folder, args.device) for folder in args.runs]
        for writer in writers:
            writer.warm_up()  # so that the first text does not wait
        return writers

    # Load in a thread of its own. A request has one, too, and OpenMP gives helpers to each thread that computes: while
    # the main thread had some, libgomp counted more threads than cores and let all sleep at once (160 tokens/s, not
    # 500).
    defaults = settings_from(vars(args))
    with ThreadPoolExecutor(1) as loader:
        writers = loader.submit(load).result()
    for writer in writers:
        slower = writer.slower_because()
        if slower:
            say(f"{writer.name}: {slower}")
    # Serve until Ctrl-C.
    with PlayServer(writers, args.port, defaults) as server:
        say(f"{' and '.join(writer.name for writer in writers)}: open http://{server.hosts[0]} (Ctrl-C ends)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say()
    return 0
