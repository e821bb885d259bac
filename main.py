"""From raw text to a trained and scored model with one command.

    python main.py                                        the quick start: llama-10M on the embedded corpus
    python main.py --config config/llama-10M.yaml         data -> tokenizer -> train -> evaluate -> report
    python main.py --config config/llama-10M.yaml --train-path my_texts/

Each stage also stands alone as a sub-command; `python main.py COMMAND --help` explains one. A command is an entry of
COMMANDS: most are modules with `add_arguments` and `run` (babyllama/common/command.py), those below belong to the
pipeline itself.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama import __version__
from babyllama.common.command import Command, CommandParser, Parser, add_commands, run_command, split_names
from babyllama.common.console import say
from babyllama.common.distributed import is_main_process
from babyllama.common.errors import ConfigError
from babyllama.common.provenance import program, program_name, quoted
from babyllama.config.flags import add_config_flags, config_from_args, read_config

if TYPE_CHECKING:
    from babyllama.config.schema import Config
    from babyllama.research.sweep_runs import Sweep

ROOT = Path(__file__).resolve().parent
QUICK_START = "llama-10M"


# The main job


def run_pipeline(args: argparse.Namespace) -> int:
    """Train, evaluate and report: the main job."""
    from babyllama.pages.terminal import print_summary
    from train import train

    config = config_from_args(args)
    result = train(config, resume=args.resume_from_checkpoint, overwrite=args.overwrite)
    if result.already_finished:
        say(f"this run is finished: {result.run_dir} (nothing was written; --overwrite trains it anew)")
        return 0
    if not is_main_process():  # of several processes one evaluates
        return 0
    results = evaluate_run(config, result.run_dir)
    print_summary(result.run_dir, result.metrics, results)
    return 0


def evaluate_run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Score the run on its held-out set, draw samples, and for the embedded corpus score its minimal pairs."""
    from babyllama.pages.run_page import write_run_report
    from evaluate import ModelEvaluator

    evaluator = ModelEvaluator(run_dir, device=config.training.device)
    tasks = ["perplexity", "generation"]
    if config.data.train_path == "synthetic":
        tasks.append("minimal_pairs")
    results = evaluator.run(tasks)
    evaluator.save(results, run_dir)
    write_run_report(run_dir)
    return results


def _distill_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser)
    parser.add_argument("--teachers", metavar="A,B", help="run folders; default: the config's")
    parser.add_argument("--student-config", metavar="FILE", help="the student's YAML (the same as --config)")


def _distill(args: argparse.Namespace) -> int:
    """Train a student on the text and on what teachers expect (the same flags as the main command)."""
    args.config = args.student_config or args.config or "distillation"
    if args.teachers:
        args.overrides = [*args.overrides, f"distillation.teachers={json.dumps(split_names(args.teachers))}"]
    return run_pipeline(args)


# Text


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--babylm-10m", metavar="PATH", help="training text: a folder of *.train or *.txt, or a file")
    parser.add_argument("--babylm-dev", metavar="PATH", help="held-out text: a folder of *.dev, or a file")
    parser.add_argument("--clean-domains", metavar="A,B", help="clean only these domains; others are copied as read")
    parser.add_argument("--speaker-labels", choices=["keep", "remove"], default="keep")
    parser.add_argument("--output", default="data/clean", help="folder to write (default: %(default)s)")


def _prepare(args: argparse.Namespace) -> int:
    """Clean a BabyLM download (or any folder of text) into a folder of clean files."""
    if not (args.babylm_10m or args.babylm_dev):
        raise ConfigError("prepare: give --babylm-10m, --babylm-dev or both")

    from data_utils import clean_folder

    domains = set(split_names(args.clean_domains) or []) or None
    for path, split in ((args.babylm_10m, "train"), (args.babylm_dev, "dev")):
        if path:
            for line in clean_folder(path, Path(args.output), split, domains, args.speaker_labels):
                say(line)
    say(f"next: {program()} --config llama-10M --train-path {quoted(args.output)}")
    return 0


def _tokenizer_arguments(parser: argparse.ArgumentParser) -> None:
    from babyllama.corpus import tokenizer_command

    tokenizer_command.add_arguments(parser)


def _tokenizer(args: argparse.Namespace) -> int:
    """Train a byte-level BPE, look at what a tokenizer does with text, or compare several."""
    from babyllama.config.schema import DataConfig
    from babyllama.corpus import tokenizer_command
    from data_utils import DataProcessor

    return tokenizer_command.run(args, lambda path: DataProcessor(DataConfig(train_path=path)).train_documents())


def _with_action(argv: Sequence[str]) -> list[str]:
    from babyllama.corpus.tokenizer_command import with_action

    return with_action(argv)


# Sweeps


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    from babyllama.research.sweep_flags import add_sweep_flags

    add_config_flags(parser)
    add_sweep_flags(parser)


def _sweep(args: argparse.Namespace) -> int:
    """Train recipes that differ in a few keys, several seeds each, and compare them; the same command goes on."""
    from babyllama.pages.tables import print_tables
    from babyllama.research.sweep_flags import check_page, sweep_folder, sweep_options, train_arguments
    from babyllama.research.sweep_plan import plan_sweep
    from babyllama.research.sweep_runs import Sweep, plan_line, plan_table
    from babyllama.training.folder_lock import run_lock
    from benchmark import BENCHMARKS

    # Plan: every recipe is built once, so that what is wrong is told before anything is trained.
    args.config = args.config or QUICK_START
    plan = plan_sweep(sweep_options(args), lambda overrides: read_config(args, overrides))
    folder = sweep_folder(args, plan)
    check_page(args, BENCHMARKS)
    command = [sys.executable, str(ROOT / "main.py"), "train", *train_arguments(args)]
    sweep = Sweep(plan, folder, command, keep_checkpoints=args.keep_checkpoints)
    if args.dry_run:
        sweep.open(overwrite=args.overwrite, write=False)
        print_tables([plan_table(sweep)])
        say(plan_line(sweep))
        return 0

    # Train one run after the other, each in a process of its own, and compare them.
    with run_lock(folder):
        sweep.open(overwrite=args.overwrite)
        for line in (*plan.notes, plan_line(sweep)):
            say(line)
        sweep.train_all()
        compared = compare_sweep(sweep, args)
    return 1 if sweep.failed or not compared else 0


def compare_sweep(sweep: Sweep, args: argparse.Namespace) -> bool:
    """Write tables, the best recipe as YAML, and benchmark.py's page of all finished runs.

    Returns:
        Whether all runs could be compared.
    """
    from babyllama.config.loading import save_config
    from babyllama.pages.tables import print_tables
    from babyllama.research.sweep_flags import page_config
    from babyllama.research.sweep_runs import BEST, results_table, significance
    from benchmark import BenchmarkSuite

    # The table of recipes.
    results = sweep.results()
    sweep.save_results(results)
    print_tables([results_table(results, sweep.plan.seeds)])
    for note in results["notes"]:
        say(f"note: {note}")
    best = next((recipe for recipe in results["recipes"] if recipe["name"] == results["best"]), None)
    if best is None:
        return False
    # The winner as a configuration.
    config = read_config(args, best["overrides"] | {"model.name": best["name"]})
    save_config(config, sweep.folder / BEST)
    # The page of all finished runs.
    runs = [row["path"] for row in results["runs"] if row["state"] == "finished"]
    suite = BenchmarkSuite(runs, device=config.training.device, config=page_config(args))
    compared = suite.run_all_benchmarks()
    page = suite.save(compared, sweep.folder)
    say(f"best: {best['name']}{significance(compared, best)}; as a configuration: {sweep.folder / BEST}")
    say(f"everything is in {sweep.folder}; open {page}")
    return not suite.failed


# Using a model


def _babylm_arguments(parser: argparse.ArgumentParser) -> None:
    from babyllama.babylm import command

    command.add_arguments(parser)


def _babylm(args: argparse.Namespace) -> int:
    """Return the BabyLM challenge: score a run and its checkpoints, fine-tune, make and check the submission."""
    from babyllama.babylm import command

    if args.action != "check":
        return command.run(args)
    from train import prepare_data

    return command.run(args, prepare_data)


# Looking things up


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """A command without flags."""


def _presets(args: argparse.Namespace) -> int:
    """List the presets: parameters, memory to train, tokens per step."""
    from babyllama.models.architectures import presets
    from babyllama.pages.terminal import print_presets

    print_presets(presets())
    return 0


def _schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema of the configuration, for editors."""
    from babyllama.common.files import to_json
    from babyllama.config.loading import json_schema

    say(to_json(json_schema()))
    return 0


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"], help="shell that the script is for")


def _completion(args: argparse.Namespace) -> int:
    """Print the script that completes commands, flags and configuration keys in a shell."""
    from babyllama.config.completion import completion_script

    print(completion_script(whole_parser(), args.shell), end="")
    return 0


COMMANDS: dict[str, Command] = {
    "init": Command("write a commented configuration for a text of yours", "babyllama.corpus.starter_command"),
    "prepare": Command(
        "clean a BabyLM download into a folder of clean text", add_arguments=_prepare_arguments, run=_prepare
    ),
    "synthetic": Command(
        "write the embedded corpus and its minimal pairs to files", "babyllama.data.synthetic.command"
    ),
    "tokenizer": Command(
        "train a byte-level BPE tokenizer, inspect one, compare several",
        add_arguments=_tokenizer_arguments,
        run=_tokenizer,
        complete=_with_action,
    ),
    "corpus": Command("what a corpus holds: duplicates, leaks, languages, encoding", "babyllama.corpus.command"),
    "train": Command("train only (the same flags)", "train"),
    "distill": Command("train a student from teachers", add_arguments=_distill_arguments, run=_distill),
    "sweep": Command(
        "search over recipes, several seeds each, and compare them", add_arguments=_sweep_arguments, run=_sweep
    ),
    "evaluate": Command("score one checkpoint (evaluate.py)", "evaluate"),
    "benchmark": Command("compare several runs with statistics (benchmark.py)", "benchmark"),
    "generate": Command("prompt in, text out", "babyllama.play.generate_command"),
    "play": Command("a local page that writes as you watch and colours text by surprisal", "babyllama.play.command"),
    "surprisal": Command("surprisal of words, regions and texts of a table", "babyllama.evaluation.surprisal.command"),
    "babylm": Command(
        "the BabyLM challenge: score, fine-tune, submit, check", add_arguments=_babylm_arguments, run=_babylm
    ),
    "publish": Command("a run on the Hugging Face hub, milestones as branches", "babyllama.sharing.publish_command"),
    "export": Command("a GGUF file for llama.cpp and Ollama", "babyllama.sharing.export_command"),
    "presets": Command("table of the presets", add_arguments=_no_arguments, run=_presets),
    "schema": Command("JSON Schema of the configuration", add_arguments=_no_arguments, run=_schema),
    "completion": Command(
        "completion of commands and flags for bash or zsh", add_arguments=_completion_arguments, run=_completion
    ),
}
if Path(__file__).with_name("run_tests.py").is_file():  # in a clone: an install has no tests
    COMMANDS["test"] = Command("lint and tests (run_tests.py)", "run_tests")


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, CommandParser]]:
    """Build the parser of the main job, and the parsers of its commands by name."""
    parser = Parser(
        prog=program_name(),
        description="Train a small language model from scratch, score it and write its report.",
        epilog=f"{program_name()} COMMAND --help explains one command",
    )
    parser.add_argument("--version", action="version", version=f"babyllama {__version__}")
    add_config_flags(parser)
    return parser, add_commands(parser, COMMANDS)


def whole_parser() -> argparse.ArgumentParser:
    """Build the parser of the main job with every command's flags in it."""
    parser, parsers = build_parser()
    for command in parsers.values():
        command.fill()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command where the first word names one, else the main job."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] not in COMMANDS and not argv[0].startswith("-"):
        raise ConfigError(_unknown_command(argv[0]))
    parser, parsers = build_parser()
    if argv and argv[0] in COMMANDS:
        command = COMMANDS[argv[0]]
        args = parsers[argv[0]].parse_args(command.complete(argv[1:]))
        return command.attribute("run")(args)
    args = parser.parse_args(argv)
    if args.command:  # its flags would silently win over those in front of it
        raise ConfigError(f"{args.command}: a command comes first: {program()} {args.command} FLAGS")
    args.config = args.config or QUICK_START
    return run_pipeline(args)


def _unknown_command(word: str) -> str:
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"
    return f"{word}: no such command; {hint} (a configuration is given by --config)"


if __name__ == "__main__":
    sys.exit(run_command(main))
