"""Compare several runs: `python benchmark.py models/*`.

All runs are scored on the same text and the same items; differences are tested item by item, or over seeds where a
recipe has several, and marked only where they are significant (babyllama/comparison/paired_tests.py, seed_tests.py).
Quality, cost and speed stand in three tables and are never mixed into one score. Writes benchmark_results.json and
benchmark_comparison.html.

To add a benchmark, give a subclass a method `run_<name>_benchmark`, or call
`babyllama.plugins.register_benchmark(name, function)` in a plugin:

    from benchmark import BenchmarkSuite

    class MySuite(BenchmarkSuite):
        def run_depth_benchmark(self):
            return self.for_each("depth", lambda run: {"layers": run.model.config.num_hidden_layers})

    MySuite(["models/a", "models/b"]).run_all_benchmarks()
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.command import Parser, run_command
from babyllama.common.console import say
from babyllama.common.errors import BabyLlamaError, CheckpointError, ConfigError
from babyllama.common.files import write_json
from babyllama.common.provenance import program, provenance
from babyllama.comparison.runs import BenchmarkRun, groups_of, named_folders, run_facts
from data_utils import raw_documents
from evaluate import ModelEvaluator

if TYPE_CHECKING:
    from babyllama.comparison.options import BenchmarkConfig
    from babyllama.data.documents import Document

SCHEMA_VERSION = 1
RESULTS, PAGE = "benchmark_results.json", "benchmark_comparison.html"
BENCHMARKS = ("perplexity", "isolated_sentences", "minimal_pairs", "completion", "consistency", "repetition", "speed")
MODELS_KEPT_BYTES = 4e9  # of weights held at once; beyond it each model is loaded anew for each benchmark


class BenchmarkSuite:
    """Several checkpoints and everything that is compared of them.

    Args:
        checkpoints: Run folders.
        device: auto, cpu, cuda, cuda:N or mps.
        config: Data, sizes, groups; None: defaults.
        use_cache: Take scores of unchanged checkpoints from the cache.

    Raises:
        ConfigError: No checkpoint is given.
    """

    def __init__(
        self,
        checkpoints: Sequence[str | Path],
        *,
        device: str = "auto",
        config: BenchmarkConfig | None = None,
        use_cache: bool = True,
    ) -> None:
        from babyllama.comparison.options import BenchmarkConfig
        from babyllama.evaluation.score_cache import ScoreCache

        self.config = config or BenchmarkConfig()
        self.device = device
        self.cache = ScoreCache(use_cache)
        self.notes: list[str] = []
        self.failed: list[dict[str, str]] = []
        self.runs, self._keep_models = self._open(named_folders(checkpoints))

    def _open(self, named: dict[str, Path]) -> tuple[list[BenchmarkRun], bool]:
        """Load every checkpoint once; one that cannot be loaded is reported and left out. Whether all may be held."""
        shared = ("minimal_pairs", "pair_ids", "pairs_half", "pair_columns", "num_samples", "temperature", "seed")
        options = {name: getattr(self.config, name) for name in shared}
        evaluator_of = partial(ModelEvaluator, device=self.device, **options)
        runs, held = [], 0
        for name, path in named.items():
            run = BenchmarkRun(path, name, evaluator_of)
            try:
                held += run.weight_bytes()  # loading is what is tried
                runs.append(run)
            except BabyLlamaError as error:
                self._fail(str(path), str(error))
            for opened in runs if held > MODELS_KEPT_BYTES else ():
                opened.release()
        return runs, held <= MODELS_KEPT_BYTES

    def _fail(self, what: str, why: str) -> None:
        self.failed.append({"what": what, "error": why})
        print(f"error: {why}", file=sys.stderr)

    # What all runs are scored on

    @cached_property
    def documents(self) -> list[Document] | None:
        """The text that all runs are scored on, None where there is none (a note says why)."""
        from babyllama.comparison.shared_text import shared_documents

        if self.config.eval_data:
            documents = raw_documents(self.config.eval_data)
            for run in self.runs:
                if seen := run.evaluator.seen_in_training(documents):
                    self.notes.append(f"{run.name} was trained on {seen:,} of the {len(documents):,} documents")
            return documents
        documents, reason = shared_documents(self.runs)
        if reason:
            self.notes.append(f"perplexity and completion were not measured: {reason}. Give one text: --eval-data PATH")
        return documents

    @cached_property
    def prompts(self) -> list[str]:
        """The same beginnings for every run: the configured ones, else the shared text's, else a few plain ones."""
        from babyllama.evaluation.generation import DEFAULT_PROMPTS, beginnings

        if self.config.prompts:
            return self.config.prompts
        return beginnings(self.documents or [], self.config.num_samples) or list(DEFAULT_PROMPTS)

    # Running

    def for_each(
        self, name: str, function: Callable[[BenchmarkRun], dict[str, Any]], options: object = None
    ) -> dict[str, dict[str, Any] | None]:
        """Measure every run.

        Args:
            name: Name of the benchmark: the results' key.
            function: Function from a `BenchmarkRun` (with .model, .tokenizer, .evaluator) to figures.
            options: What the figures depend on beside the checkpoint: makes them cacheable. None: never cached.

        Returns:
            Run name -> figures, None where it failed (one line says why, the others go on).
        """
        for run in self.runs:
            say(f"{name}: {run.name}")
            try:
                figures, items = self._measure(run, name, function, options)
            except Exception as error:  # whatever one run raises must not cost the other runs' results
                why = str(error) if isinstance(error, BabyLlamaError) else f"{type(error).__name__}: {error}"
                self._fail(f"{run.name}: {name}", f"{run.name}: {name}: {why}")
                figures, items = None, []
            run.results[name] = figures
            run.items += items
            if not self._keep_models:
                run.release()
        return {run.name: run.results[name] for run in self.runs}

    def _measure(
        self, run: BenchmarkRun, name: str, function: Callable[[BenchmarkRun], dict[str, Any]], options: object
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        from babyllama.plugins import BENCHMARKS as OF_PLUGINS
        from babyllama.plugins import blamed

        key = [run.evaluator.window, run.evaluator.device, options]  # neither is in the files that `content` covers
        found = None if options is None else self.cache.get(run.content, name, key)
        if found is None:
            before = len(run.evaluator.items)
            with blamed(function, f"benchmark {name}") if function is OF_PLUGINS.get(name) else nullcontext():
                figures = function(run)
            found = {"figures": figures, "items": run.evaluator.items[before:]}
            if options is not None:
                self.cache.put(run.content, name, key, found)
        return found["figures"], found["items"]

    @cached_property
    def _text_fingerprint(self) -> str:
        from babyllama.data.documents import documents_fingerprint

        return documents_fingerprint(self.documents or [])

    def _text_options(self, *more: Any) -> list[Any]:
        return [self._text_fingerprint, self.config.seed, *more]

    def run_perplexity_benchmark(self) -> dict[str, Any]:
        """Return perplexity and bits per byte of the shared text."""
        if not self.documents:
            return {}
        documents = self.documents

        def measure(run: BenchmarkRun) -> dict[str, Any]:
            figures = run.evaluator.calculate_perplexity(documents)
            return {k: v for k, v in figures.items() if k not in {"source_bits_per_byte", "documents_trained_on"}}

        return self.for_each("perplexity", measure, self._text_options())

    def run_isolated_sentences_benchmark(self) -> dict[str, Any]:
        """Bits per byte of the shared text's sentences, each alone (babyllama/evaluation/isolated_sentences.py)."""
        if not self.documents:
            return {}
        documents = self.documents

        def measure(run: BenchmarkRun) -> dict[str, Any]:
            return run.evaluator.evaluate_isolated_sentences(documents)

        return self.for_each("isolated_sentences", measure, self._text_options())

    def run_minimal_pairs_benchmark(self) -> dict[str, Any]:
        """Return accuracy on the given pairs, or on the embedded corpus's own where all runs learned it."""
        from babyllama.evaluation.minimal_pairs import WHERE_TO_GET, pairs_fingerprint

        embedded = all(run.evaluator.learned_embedded_corpus() for run in self.runs)
        if not self.config.minimal_pairs and not embedded:
            self.notes.append(WHERE_TO_GET)
            return {}
        return self.for_each(
            "minimal_pairs",
            lambda run: run.evaluator.evaluate_minimal_pairs(),
            [
                pairs_fingerprint(self.config.minimal_pairs, self.config.pair_ids, self.config.pair_columns),
                self.config.pairs_half,
                self.config.seed,
            ],
        )

    def run_completion_benchmark(self) -> dict[str, Any]:
        """Return exact last words of sentences of the shared text."""
        if not self.documents:
            return {}
        documents, count = self.documents, self.config.completion_items

        def measure(run: BenchmarkRun) -> dict[str, Any]:
            run.evaluator.documents = documents
            return run.evaluator.evaluate_completion(count)

        found = self.for_each("completion", measure, self._text_options(count))
        reasons = dict.fromkeys(figures["reason"] for figures in found.values() if figures and "reason" in figures)
        self.notes += [f"completion is not given: {reason}" for reason in reasons]
        return found

    def run_consistency_benchmark(self) -> dict[str, Any]:
        """Agreement of next-word distributions between paraphrased prompts (babyllama/evaluation/consistency.py)."""
        from babyllama.data.languages.identify import UNDETERMINED, main_language
        from babyllama.evaluation.consistency import PARAPHRASES, consistency

        pairs = self.config.paraphrases or list(PARAPHRASES)
        language = main_language([document.text for document in self.documents or []])
        if not self.config.paraphrases and language not in {"en", UNDETERMINED}:
            told = f"our prompts are English, the text's language is {language}; set `paraphrases` in --config"
            self.notes.append(f"consistency was not measured: {told}")
            return {}

        def measure(run: BenchmarkRun) -> dict[str, Any]:
            return consistency(run.model, run.tokenizer, window=run.evaluator.window, pairs=pairs)[0]

        return self.for_each("consistency", measure, pairs)

    def run_repetition_benchmark(self) -> dict[str, Any]:
        """Diversity and repetition of texts written from the same beginnings."""
        prompts = self.prompts

        def measure(run: BenchmarkRun) -> dict[str, Any]:
            run.evaluator.prompts = prompts
            return run.evaluator.evaluate_generation_quality()

        return self.for_each(
            "repetition", measure, [prompts, self.config.num_samples, self.config.temperature, self.config.seed]
        )

    def run_speed_benchmark(self) -> dict[str, Any]:
        """Writing speed; always measured anew, one run after the other."""
        return self.for_each("speed", lambda run: run.evaluator.measure_speed())

    def benchmarks(self) -> dict[str, Callable[[], Any]]:
        """Return every benchmark there is: ours, a subclass's `run_<name>_benchmark` methods, plugins'."""
        from babyllama import plugins

        own = [n[4:-10] for n in dir(self) if n.startswith("run_") and n.endswith("_benchmark")]
        order = [*BENCHMARKS, *sorted(set(own) - set(BENCHMARKS))]
        found = {name: getattr(self, f"run_{name}_benchmark") for name in order}
        for name, function in plugins.BENCHMARKS.items():
            found[name] = lambda name=name, function=function: self.for_each(name, function)
        return found

    def run_all_benchmarks(self) -> dict[str, Any]:
        """Run the configured benchmarks (all by default), compare, and collect the results.

        Raises:
            ConfigError: A benchmark is unknown.
            CheckpointError: No run could be loaded.
        """
        known = self.benchmarks()
        wanted = self.config.benchmarks or list(known)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ConfigError(f"--benchmarks: {', '.join(unknown)}: unknown; known: {', '.join(known)}")
        if not self.runs:
            raise CheckpointError("none of the folders could be loaded: there is nothing to compare")
        for name in wanted:
            known[name]()
        return self.results()

    def results(self) -> dict[str, Any]:
        """Return what benchmark_results.json holds: runs, comparisons, rankings, notes."""
        from babyllama.comparison.differences import ScoredRun, compare_all, items_of, metrics_of, ranking

        # Differences between recipes, metric by metric.
        scored = [ScoredRun(run.name, items_of(run.items)) for run in self.runs]
        groups, notes = groups_of(self.runs, self.config.groups)
        self.notes += notes
        metrics = metrics_of(scored)
        found = compare_all(scored, groups, metrics, self.config.seed)
        return {
            "schema_version": SCHEMA_VERSION,
            **provenance(),
            "device": self.device,
            "seed": self.config.seed,
            "text": self._text_facts(),
            "notes": list(dict.fromkeys(self.notes)),
            "failed": self.failed,
            # Figures of each run, then what they say of each other.
            "runs": {run.name: run_facts(run, groups) for run in self.runs},
            "metrics": [
                {
                    "name": metric.name,
                    "label": metric.label,
                    "higher_is_better": metric.higher_is_better,
                    "ranking": ranking(groups, scored, metric, found),
                }
                for metric in metrics
            ],
            "comparisons": found,
        }

    def _text_facts(self) -> dict[str, Any] | None:
        if not self.documents:
            return None
        return {
            "eval_data": self.config.eval_data or "the held-out set that the runs share",
            "documents": len(self.documents),
            "bytes": sum(len(document.text.encode()) for document in self.documents),
            "fingerprint": self._text_fingerprint,
        }

    def save(self, results: dict[str, Any], output: str | Path = ".") -> Path:
        """Write benchmark_results.json and benchmark_comparison.html into a folder.

        Returns:
            The page.
        """
        from babyllama.pages.comparison_page import write_comparison

        write_json(Path(output) / RESULTS, results)
        return write_comparison(results, Path(output) / PAGE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a comparison."""
    from babyllama.comparison.options import add_arguments as add_comparison_arguments

    add_comparison_arguments(parser, BENCHMARKS)


def run(args: argparse.Namespace) -> int:
    """Compare several runs with statistics; 1 where a folder could not be compared."""
    from babyllama.common.disk_space import check_output_folder
    from babyllama.comparison.options import config_of, finished_runs, run_folders
    from babyllama.pages.comparison_tables import all_tables
    from babyllama.pages.tables import print_tables, render
    from babyllama.plugins import load_plugins

    # What is compared.
    config = config_of(args)
    check_output_folder(Path(args.output).expanduser())
    load_plugins(args.plugin)
    chosen = run_folders(config.checkpoints) or finished_runs()
    if not chosen:
        raise ConfigError(f"models/: no finished run there; give run folders: {program()} benchmark FOLDER FOLDER")
    # Compare, write, show.
    suite = BenchmarkSuite(chosen, device=args.device, config=config, use_cache=not args.no_cache)
    results = suite.run_all_benchmarks()
    page = suite.save(results, args.output)
    tables = all_tables(results)
    if args.format == "table":
        print_tables(tables)
    else:
        say("\n\n".join(render(table, args.format) for table in tables))
    for note in results["notes"]:
        say(f"note: {note}")
    say(f"written: {page.parent / RESULTS}, page: {page}")
    return 1 if suite.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and compare."""
    parser = Parser(prog="benchmark.py", description="Compare several runs.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
