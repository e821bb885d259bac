"""`synthetic`: write the embedded corpus to files."""

from __future__ import annotations

import argparse
from pathlib import Path

from babyllama.common.command import at_least
from babyllama.common.console import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    words = "words of training text (default: %(default)s)"
    parser.add_argument("--words", type=at_least(1_000), default=850_000, help=words)
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the text (default: %(default)s)")
    parser.add_argument("--output", default="data/synthetic", help="folder to write (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the embedded corpus to files: synthetic.train, synthetic.dev and its minimal pairs."""
    from babyllama.common.files import to_json, write_text_atomic
    from babyllama.data import synthetic

    folder = Path(args.output)
    held_out = synthetic.held_out(args.seed)
    for name, documents in (("train", synthetic.generate_documents(args.words, args.seed)), ("dev", held_out)):
        text = "".join(document.text + "\n<|endoftext|>\n" for document in documents)
        write_text_atomic(folder / f"synthetic.{name}", text)
        say(f"{folder / f'synthetic.{name}'}: {len(documents):,} documents, {len(text.split()):,} words")
    pairs = synthetic.minimal_pairs(args.seed)
    write_text_atomic(folder / "pairs" / "synthetic.jsonl", "".join(to_json(p, indent=None) + "\n" for p in pairs))
    say(f"exact entropy of the held-out documents: {synthetic.entropy_per_byte(held_out):.4f} bits per byte")
    return 0
