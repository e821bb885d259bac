"""The flags of writing, shared by `generate` and `play`."""

from __future__ import annotations

import argparse

from babyllama.common.command import at_least


def add_writing_flags(parser: argparse.ArgumentParser) -> None:
    """Add flags for how a text is written; their names are those of `WritingSettings`."""
    group = parser.add_argument_group("how it writes")
    group.add_argument("--max-new-tokens", type=at_least(1), default=100, metavar="N", help="(default: %(default)s)")
    temperature = "0 takes the likeliest token (default: %(default)s)"
    group.add_argument("--temperature", type=at_least(0, float), default=0.8, metavar="T", help=temperature)
    top_k = "choose among the K likeliest tokens, 0: all (default: %(default)s)"
    group.add_argument("--top-k", type=at_least(0), default=50, metavar="K", help=top_k)
    top_p = "choose among the likeliest tokens that have this share of probability, 1: all (default: %(default)s)"
    group.add_argument("--top-p", type=at_least(0, float), default=1.0, metavar="P", help=top_p)
    min_p = "drop tokens below this share of the likeliest one's probability (default: %(default)s)"
    group.add_argument("--min-p", type=at_least(0, float), default=0.0, metavar="P", help=min_p)
    penalty = "above 1: tokens that were there already become less likely (default: %(default)s)"
    group.add_argument("--repetition-penalty", type=at_least(0, float), default=1.0, metavar="F", help=penalty)
    stop = "end before this text; may be given several times"
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help=stop)
    group.add_argument("--seed", type=at_least(0), default=0, help="same seed, same text (default: %(default)s)")
