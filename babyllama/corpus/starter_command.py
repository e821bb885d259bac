"""`init TEXT`: write a commented configuration for a text, and say what was chosen and why; it asks nothing.

babyllama init my_texts/                  my_texts.yaml
babyllama --config my_texts.yaml          trains by it
"""

from __future__ import annotations

import argparse
from pathlib import Path

from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.common.provenance import program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("text", metavar="TEXT", help="training text: a folder, a file or a glob")
    parser.add_argument("--output", metavar="FILE", help="the YAML to write (default: named after the text)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file where it is there")


def run(args: argparse.Namespace) -> int:
    """Look at the text and the machine, choose, write.

    Raises:
        DataError: The text cannot be read.
        ConfigError: The file is there already.
    """
    import babyllama
    from babyllama.common.files import write_text_atomic
    from babyllama.config.loading import load_config
    from babyllama.config.run_layout import corpus_stem, preset_paths
    from babyllama.corpus.starter import choose, commented_yaml, has_gpu, read_facts

    if args.text == "synthetic" or args.text.startswith("hf:"):
        raise ConfigError(f"init {args.text}: only text on this machine can be looked at; start from a preset instead")
    # Where it goes.
    target = Path(args.output or f"{corpus_stem(args.text)}.yaml").expanduser()
    if target.exists() and not args.overwrite:
        raise ConfigError(f"{target}: is there already; --overwrite replaces it, --output FILE names another")
    # Look, choose, write, and read it back as a training does.
    facts = read_facts(args.text)
    starter = choose(facts, gpu=has_gpu())
    preset = preset_paths()[starter.preset].read_text(encoding="utf-8")
    write_text_atomic(target, commented_yaml(starter, preset, facts, babyllama.__version__))
    load_config(target)  # what was written is what a training takes
    say(f"{facts.words:,} words in {facts.files} files ({facts.documents:,} documents)")
    say(f"preset {starter.preset}: {starter.why}")
    for choice in starter.choices:
        say(f"{choice.key}: {choice.value}: {choice.reason}")
    say(f"written: {target}; next: {program()} --config {target}")
    return 0
