"""From raw text to a trained and scored model with one command.

    python main.py                                        the quick start: llama-10M on the embedded corpus
    python main.py --config config/llama-10M.yaml         data -> tokenizer -> train -> evaluate -> report
    python main.py --config config/llama-10M.yaml --train-path my_texts/

Each stage also stands alone as a sub-command; `python main.py COMMAND --help` explains one.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama import __version__
from babyllama.common.command import at_least, run_command
from babyllama.common.console import is_main_process, printable, say
from babyllama.common.errors import ConfigError
from babyllama.config.flags import add_config_flags, config_from_args, read_config
from babyllama.pages.terminal import print_summary

if TYPE_CHECKING:
    from babyllama.config.schema import Config
    from babyllama.research.sweep_runs import Sweep

ROOT = Path(__file__).resolve().parent
QUICK_START = ROOT / "config" / "llama-10M.yaml"


def pipeline(argv: Sequence[str]) -> int:
    """Train, evaluate, report: the main job."""
    args = pipeline_parser().parse_args(argv)
    if args.config is None:
        args.config = str(QUICK_START)
    return run_pipeline(args)


def run_pipeline(args: argparse.Namespace) -> int:
    """The main job of parsed flags."""
    config = config_from_args(args)

    from train import train

    result = train(config, resume=args.resume_from_checkpoint, overwrite=args.overwrite)
    if result.already_finished:
        say(f"this run is finished: {result.run_dir} (nothing was written; --overwrite trains it anew)")
        return 0
    if not is_main_process():  # of several processes one evaluates
        return 0
    results = evaluate_run(config, result.run_dir)
    print_summary(result.run_dir, result.metrics, results)
    return 0


def pipeline_parser() -> argparse.ArgumentParser:
    """The parser of the main job; the sub-commands have their own."""
    listed = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="Train a small language model from scratch, score it and write its report.",
        epilog=f"sub-commands (python main.py COMMAND --help):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"babyllama {__version__}")
    add_config_flags(parser)
    return parser


def evaluate_run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Score the run on its held-out set, draw samples, and for the embedded corpus its minimal pairs."""
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


def _prepare(argv: Sequence[str]) -> int:
    """Clean a BabyLM download (or any folder of text) into a folder of clean files."""
    parser = argparse.ArgumentParser(prog="main.py prepare", description=_prepare.__doc__)
    parser.add_argument("--babylm-10m", metavar="PATH", help="training text: a folder of *.train or *.txt, or a file")
    parser.add_argument("--babylm-dev", metavar="PATH", help="held-out text: a folder of *.dev, or a file")
    parser.add_argument("--clean-domains", metavar="A,B", help="clean only these domains; others are copied as read")
    parser.add_argument("--speaker-labels", choices=["keep", "remove"], default="keep")
    parser.add_argument("--output", default="data/clean", help="folder to write (default: %(default)s)")
    args = parser.parse_args(argv)
    if not (args.babylm_10m or args.babylm_dev):
        parser.error("give --babylm-10m, --babylm-dev or both")

    from data_utils import clean_folder

    domains = set(args.clean_domains.split(",")) if args.clean_domains else None
    for path, split in ((args.babylm_10m, "train"), (args.babylm_dev, "dev")):
        if path:
            for line in clean_folder(path, Path(args.output), split, domains, args.speaker_labels):
                say(line)
    say(f"next: python main.py --config config/llama-10M.yaml --train-path {args.output}")
    return 0


def _synthetic(argv: Sequence[str]) -> int:
    """Write the embedded corpus to files: synthetic.train, synthetic.dev and its minimal pairs."""
    parser = argparse.ArgumentParser(prog="main.py synthetic", description=_synthetic.__doc__)
    parser.add_argument(
        "--words", type=at_least(1_000), default=850_000, help="words of training text (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="data/synthetic", help="folder to write (default: %(default)s)")
    args = parser.parse_args(argv)

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


def _tokenizer(argv: Sequence[str]) -> int:
    """Train a byte-level BPE, look at what a tokenizer does with text, or compare several."""
    from babyllama.config.schema import DataConfig
    from babyllama.corpus import tokenizer_command
    from data_utils import DataProcessor

    parser = argparse.ArgumentParser(prog="main.py tokenizer", description=_tokenizer.__doc__)
    tokenizer_command.add_arguments(parser)
    args = parser.parse_args(tokenizer_command.with_action(argv))
    return tokenizer_command.run(args, lambda path: DataProcessor(DataConfig(train_path=path)).train_documents())


def _babylm(argv: Sequence[str]) -> int:
    """The BabyLM challenge: score a run and its checkpoints, fine-tune, make and check the submission."""
    from babyllama.babylm import command

    parser = argparse.ArgumentParser(prog="main.py babylm", description=_babylm.__doc__)
    command.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.action != "check":
        return command.run(args)
    from train import prepare_data

    return command.run(args, prepare_data)


def _generate(argv: Sequence[str]) -> int:
    """Write text with a trained model; without --prompt, reads prompts line by line."""
    parser = argparse.ArgumentParser(prog="main.py generate", description=_generate.__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--prompt", action="append", help="may be given several times")
    parser.add_argument("--max-new-tokens", type=at_least(1), default=100)
    parser.add_argument(
        "--temperature", type=at_least(0, float), default=0.8, help="0 is greedy (default: %(default)s)"
    )
    parser.add_argument("--num-samples", type=at_least(1), default=1, help="texts per prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="a Python file of your own")
    args = parser.parse_args(argv)

    from babyllama.plugins import load_plugins
    from evaluate import ModelEvaluator

    load_plugins(args.plugin)

    evaluator = ModelEvaluator(args.checkpoint, device=args.device)
    for number, prompt in enumerate(args.prompt or _typed_prompts()):
        texts = evaluator.generate(
            [prompt] * args.num_samples,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            seed=args.seed + number,
        )
        for text in texts:
            say(printable(prompt + text))
            say()
    return 0


def _typed_prompts() -> Any:
    """Lines from the keyboard or a pipe; Ctrl-D ends."""
    if sys.stdin.isatty():
        say("type a prompt and Enter; Ctrl-D ends")
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")


def _surprisal(argv: Sequence[str]) -> int:
    """Surprisal of words, regions and texts in bits: a table of stimuli in, a table out."""
    from babyllama.evaluation import surprisal_command

    parser = argparse.ArgumentParser(prog="main.py surprisal", description=_surprisal.__doc__)
    surprisal_command.add_arguments(parser)
    return surprisal_command.run(parser.parse_args(argv))


def _corpus(argv: Sequence[str]) -> int:
    """Look a corpus through: what it holds, what is double, what of an evaluation stands in it."""
    from babyllama.corpus import command

    parser = argparse.ArgumentParser(prog="main.py corpus", description=_corpus.__doc__)
    command.add_arguments(parser)
    return command.run(parser.parse_args(argv))


def _export(argv: Sequence[str]) -> int:
    """Write a GGUF file of a Llama or GPT-2 for llama.cpp and Ollama, compared with the model before it is kept."""
    from babyllama.sharing import export_command

    parser = argparse.ArgumentParser(prog="main.py export", description=_export.__doc__)
    export_command.add_arguments(parser)
    return export_command.run(parser.parse_args(argv))


def _publish(argv: Sequence[str]) -> int:
    """Put a finished run on the Hugging Face hub, its milestones as branches; the same command goes on."""
    from babyllama.sharing import publish_command

    parser = argparse.ArgumentParser(prog="main.py publish", description=_publish.__doc__)
    publish_command.add_arguments(parser)
    return publish_command.run(parser.parse_args(argv))


def _presets(argv: Sequence[str]) -> int:
    """List the presets: parameters, memory to train, tokens per step."""
    argparse.ArgumentParser(prog="main.py presets", description=_presets.__doc__).parse_args(argv)

    from babyllama.models.architectures import presets
    from babyllama.pages.terminal import print_presets

    print_presets(presets())
    return 0


def _schema(argv: Sequence[str]) -> int:
    """Print the JSON Schema of the configuration, for editors."""
    argparse.ArgumentParser(prog="main.py schema", description=_schema.__doc__).parse_args(argv)

    from babyllama.common.files import to_json
    from babyllama.config.loading import json_schema

    say(to_json(json_schema()))
    return 0


def _train(argv: Sequence[str]) -> int:
    import train

    return train.main(argv)


def _distill(argv: Sequence[str]) -> int:
    """Train a student on the text and on what teachers expect (the same flags as the main command)."""
    parser = pipeline_parser()
    parser.prog, parser.description, parser.epilog = "main.py distill", _distill.__doc__, None
    parser.add_argument("--teachers", metavar="A,B", help="run folders; default: the config's")
    parser.add_argument("--student-config", metavar="FILE", help="the student's YAML (the same as --config)")
    args = parser.parse_args(argv)
    args.config = args.student_config or args.config or str(ROOT / "config" / "distillation.yaml")
    if args.teachers:
        folders = ", ".join(f'"{path}"' for path in args.teachers.split(","))
        args.overrides = [*args.overrides, f"distillation.teachers=[{folders}]"]
    return run_pipeline(args)


def _sweep(argv: Sequence[str]) -> int:
    """Train recipes that differ in a few keys, several seeds each, and compare them; the same command goes on."""
    args = sweep_parser().parse_args(argv)
    args.config = args.config or str(QUICK_START)

    from babyllama.pages.tables import print_tables
    from babyllama.research.sweep_flags import check_page, sweep_folder, sweep_options, train_arguments
    from babyllama.research.sweep_plan import plan_sweep
    from babyllama.research.sweep_runs import Sweep, plan_line, plan_table
    from babyllama.training.folder_lock import run_lock
    from benchmark import BENCHMARKS

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
    with run_lock(folder):
        sweep.open(overwrite=args.overwrite)
        for line in (*plan.notes, plan_line(sweep)):
            say(line)
        sweep.train_all()
        compared = compare_sweep(sweep, args)
    return 1 if sweep.failed or not compared else 0


def sweep_parser() -> argparse.ArgumentParser:
    """A training's flags, and those of a search."""
    from babyllama.research.sweep_flags import add_sweep_flags

    parser = pipeline_parser()
    parser.prog, parser.description, parser.epilog = "main.py sweep", _sweep.__doc__, None
    add_sweep_flags(parser)
    return parser


def compare_sweep(sweep: Sweep, args: argparse.Namespace) -> bool:
    """Tables, the best recipe as YAML, and benchmark.py's page of all finished runs; whether all could be compared."""
    from babyllama.config.loading import save_config
    from babyllama.pages.tables import print_tables
    from babyllama.research.sweep_flags import page_config
    from babyllama.research.sweep_runs import BEST, results_table, significance
    from benchmark import BenchmarkSuite

    results = sweep.results()
    sweep.save_results(results)
    print_tables([results_table(results, sweep.plan.seeds)])
    for note in results["notes"]:
        say(f"note: {note}")
    best = next((recipe for recipe in results["recipes"] if recipe["name"] == results["best"]), None)
    if best is None:
        return False
    config = read_config(args, best["overrides"] | {"model.name": best["name"]})
    save_config(config, sweep.folder / BEST)
    runs = [row["path"] for row in results["runs"] if row["state"] == "finished"]
    suite = BenchmarkSuite(runs, device=config.training.device, config=page_config(args))
    compared = suite.run_all_benchmarks()
    page = suite.save(compared, sweep.folder)
    say(f"best: {best['name']}{significance(compared, best)}; as a configuration: {sweep.folder / BEST}")
    say(f"everything is in {sweep.folder}; open {page}")
    return not suite.failed


def _evaluate(argv: Sequence[str]) -> int:
    import evaluate

    return evaluate.main(argv)


def _benchmark(argv: Sequence[str]) -> int:
    import benchmark

    return benchmark.main(argv)


def _test(argv: Sequence[str]) -> int:
    import run_tests

    return run_tests.main(argv)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "prepare": (_prepare, "clean a BabyLM download into a folder of clean text"),
    "synthetic": (_synthetic, "write the embedded corpus and its minimal pairs to files"),
    "tokenizer": (_tokenizer, "train a byte-level BPE tokenizer, inspect one, compare several"),
    "train": (_train, "train only (the same flags)"),
    "distill": (_distill, "train a student from teachers"),
    "sweep": (_sweep, "search over recipes, several seeds each, and compare them"),
    "evaluate": (_evaluate, "score one checkpoint (evaluate.py)"),
    "benchmark": (_benchmark, "compare several runs with statistics (benchmark.py)"),
    "babylm": (_babylm, "the BabyLM challenge: score, finetune, submit, check"),
    "generate": (_generate, "prompt in, text out"),
    "corpus": (_corpus, "what a corpus holds: duplicates, leaks, languages, encoding"),
    "surprisal": (_surprisal, "surprisal of words, regions and texts of a table"),
    "export": (_export, "a GGUF file for llama.cpp and Ollama"),
    "publish": (_publish, "a run on the Hugging Face hub, milestones as branches"),
    "presets": (_presets, "table of the presets"),
    "schema": (_schema, "JSON Schema of the configuration"),
    "test": (_test, "lint and tests (run_tests.py)"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command where the first word names one, else the main job."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]][0](argv[1:])
    if argv and not argv[0].startswith("-"):
        raise ConfigError(_unknown_command(argv[0]))
    return pipeline(argv)


def _unknown_command(word: str) -> str:
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"
    return f"{word}: no such command; {hint} (a configuration is given by --config)"


if __name__ == "__main__":
    sys.exit(run_command(main))
