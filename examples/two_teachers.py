"""A student that learns from two teachers, a Llama and a GPT-2, next to the same student that learns alone.

    python examples/two_teachers.py --words 20000 --max-steps 20

Four trainings on the embedded corpus, the same text and tokenizer for all, and a table of held-out bits per byte. With
20 steps it shows the way, not an effect: docs/experiments.md has what was measured with real text and three seeds.
The same from the command line: `python main.py distill --student-config X --teachers models/a,models/b`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from babyllama.common.command import run_command
from babyllama.common.console import say
from babyllama.config.loading import config_from_dict
from train import train

TEACHER = {"hidden_size": 96, "n_layer": 3, "n_head": 3}
STUDENT = {"type": "Llama", "hidden_size": 64, "n_layer": 2, "n_head": 2}


def run(args: argparse.Namespace, name: str, model: dict[str, Any], teachers: list[str] | None = None) -> float:
    """Train one model; its held-out bits per byte."""
    raw: dict[str, Any] = {
        "model": {**model, "name": name},
        "data": {"synthetic_words": args.words, "seq_length": 64},
        "training": {"max_steps": args.max_steps, "batch_size": 16, "lr": 5e-3},
        "logging": {"output_dir": args.output},
    }
    if teachers:
        raw["distillation"] = {"teachers": teachers, "temperature": 2, "alpha": 0.5}
    return train(config_from_dict(raw), overwrite=True).metrics["eval_bits_per_byte"]


def main(argv: list[str] | None = None) -> int:
    """Train teachers and students, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--words", type=int, default=200_000, help="of the embedded corpus (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=300, help="of each training (default: %(default)s)")
    parser.add_argument("--output", default="models/two-teachers", help="folder of the runs (default: %(default)s)")
    args = parser.parse_args(argv)
    teachers = [str(Path(args.output) / name) for name in ("teacher-llama", "teacher-gpt2")]
    bits = {
        "teacher, Llama": run(args, "teacher-llama", {"type": "Llama", **TEACHER}),
        "teacher, GPT-2": run(args, "teacher-gpt2", {"type": "GPT2", **TEACHER}),
        "student alone": run(args, "student-alone", STUDENT),
        "student of both": run(args, "student", STUDENT, teachers),
    }
    for name, value in bits.items():
        say(f"{name:<16} {value:.3f} bits per byte")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
