"""Score one checkpoint: `python evaluate.py models/Llama-10M`.

Perplexity and bits per byte over whole held-out documents, minimal pairs, generation, token statistics, completion,
speed; every definition stands at the head of its module in babyllama/. Any local folder that transformers loads as a
causal language model is accepted. From Python, and to add a task of one's own:

    from evaluate import ModelEvaluator

    class DomainEvaluator(ModelEvaluator):
        def evaluate_domain_knowledge(self, domain_prompts):
            return [sample.completion for sample in self.generate_samples(domain_prompts)]

    DomainEvaluator("models/Llama-10M").evaluate_domain_knowledge(["The doctor said"])
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common.command import Parser, run_command, split_names
from babyllama.common.console import progress, say
from babyllama.common.errors import DataError
from babyllama.common.files import read_json
from babyllama.common.provenance import provenance
from babyllama.config.run_layout import REPORT, TRAINING_CONFIG, TRAINING_METRICS
from babyllama.evaluation.results.files import babylm_figures
from babyllama.evaluation.score_cache import checkpoint_content
from data_utils import DataProcessor, raw_documents

if TYPE_CHECKING:
    from babyllama.config.schema import Config
    from babyllama.data.documents import Document
    from babyllama.evaluation.generation import Sample
    from babyllama.evaluation.minimal_pairs import Pair
    from babyllama.evaluation.options import EvaluationOptions

SCHEMA_VERSION = 1
TASKS = ("perplexity", "isolated_sentences", "minimal_pairs", "generation", "token_statistics", "completion", "speed")
FLAT_TASKS = ("perplexity", "isolated_sentences")  # their figures stand in the results by themselves


class ModelEvaluator:
    """One checkpoint and everything that can be measured of it.

    Args:
        checkpoint: A local model folder.
        device: auto, cpu, cuda, cuda:N or mps; unset: the options'.
        options: What is measured on what; unset: the defaults.
        **settings: Single options by name, as in `ModelEvaluator(folder, "cpu", window=64)`.

    Attributes:
        options: The options in force.
        window: Tokens seen at once: the option, else the length the model was trained at, else its positions.
        prompts: Beginnings of the generated texts; None: beginnings of held-out documents.
        items: Scores of single documents and pairs, for the sidecar file.
        failed: Tasks of plugins that raised.

    Raises:
        CheckpointError: The folder cannot be loaded.
        ConfigError: The window is longer than the model's positions.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | None = None,
        *,
        options: EvaluationOptions | None = None,
        **settings: Any,
    ) -> None:
        from babyllama.common.glibc_memory import keep_freed_memory
        from babyllama.evaluation.log_probs import BATCH_TOKENS
        from babyllama.evaluation.options import DEFAULT_WINDOW, EvaluationOptions
        from babyllama.models.loading import load_model, load_tokenizer_of
        from babyllama.models.runtime import resolve_device
        from babyllama.models.structure import positions_of

        self.options = (options or EvaluationOptions()).model_copy(update=EvaluationOptions(**settings).changed())
        self.checkpoint = Path(checkpoint).expanduser().resolve()
        self.device = resolve_device(device or self.options.device)
        if self.device == "cpu":
            keep_freed_memory()
        self.model = load_model(self.checkpoint, self.device)
        self._positions = positions_of(self.model)
        self.tokenizer = load_tokenizer_of(self.checkpoint)
        trained = self.run_config.data.seq_length if self.run_config else self.max_positions or DEFAULT_WINDOW
        self.window = self.options.window_within(self.max_positions, trained)
        self.batch_tokens = self.options.batch_tokens(self.window) or BATCH_TOKENS
        self.prompts = self.options.prompts
        self.items: list[dict[str, Any]] = []
        self.failed: list[str] = []

    # What the checkpoint says of itself

    @cached_property
    def run_config(self) -> Config | None:
        """The configuration of the run that made the checkpoint, None where it is not ours."""
        from babyllama.models.loading import run_config_of

        return run_config_of(self.checkpoint)

    @property
    def run_folder(self) -> Path:
        """The folder of the run: the checkpoint's own, or the one around it."""
        return self.checkpoint if (self.checkpoint / TRAINING_CONFIG).is_file() else self.checkpoint.parent

    @cached_property
    def training_metrics(self) -> dict[str, Any]:
        """training_metrics.json of the run, empty where there is none."""
        path = self.checkpoint / TRAINING_METRICS
        return read_json(path) if path.is_file() else {}

    @property
    def max_positions(self) -> int | None:
        """Positions of the model, None where its config does not say."""
        return self._positions

    @cached_property
    def documents(self) -> list[Document]:
        """The documents that are scored: --eval-data raw, else the run's own held-out set."""
        from babyllama.data.held_out.scored import held_out_documents

        if self.options.eval_data:
            return raw_documents(self.options.eval_data)
        if self.run_config is None:
            raise DataError(f"{self.checkpoint}: not a run of ours, so it has no held-out set: give --eval-data PATH")
        folder, processor = self.run_folder, DataProcessor(self.run_config.data)
        own, test = self.run_config.plugins, self.options.split == "test"
        return held_out_documents(folder, self.training_metrics, self.tokenizer, processor, own, test=test)

    def seen_in_training(self, documents: Sequence[Document]) -> int | None:
        """Count documents that the run was trained on; None where that is not known."""
        from babyllama.data.held_out.scored import trained_on

        clean = DataProcessor(self.run_config.data).clean_text if self.run_config else lambda text, _: text
        return trained_on(self.run_folder, self.tokenizer, documents, clean)

    def learned_embedded_corpus(self) -> bool:
        """Return whether its run was trained on the embedded corpus."""
        return self.run_config is not None and self.run_config.data.train_path == "synthetic"

    def calculate_perplexity(self, documents: Sequence[Document] | None = None) -> dict[str, Any]:
        """Return perplexity, loss and bits per byte in total and by domain (babyllama/evaluation/perplexity.py).

        Args:
            documents: What to score; None: `self.documents`.
        """
        from babyllama.evaluation.perplexity import score_documents, summarize

        documents = self.documents if documents is None else documents
        scores = score_documents(
            self.model,
            self.tokenizer,
            documents,
            window=self.window,
            stride=self.options.stride,
            batch_tokens=self.batch_tokens,
            progress=partial(progress, description="perplexity"),
        )
        for number, document in enumerate(documents):
            facts = {"nll": scores.nll[number], "tokens": scores.tokens[number], "bytes": scores.bytes[number]}
            self.items.append({"task": "perplexity", "item": number, "domain": document.domain, **facts})
        results = summarize(scores, seed=self.options.seed)
        if seen := self.seen_in_training(documents):
            say(f"{seen:,} of the {len(documents):,} documents stand word for word in the text it was trained on")
            results["documents_trained_on"] = seen
        source = self.training_metrics.get("source_bits_per_byte")
        return results | ({"source_bits_per_byte": source} if source and self.options.is_held_out else {})

    def evaluate_isolated_sentences(self, documents: Sequence[Document] | None = None) -> dict[str, Any]:
        """Return bits per byte of sentences that stand alone (babyllama/evaluation/isolated_sentences.py).

        Args:
            documents: What is cut into sentences; None: `self.documents`.
        """
        from babyllama.evaluation.isolated_sentences import isolated_sentences

        documents = documents or self.documents
        options: dict[str, Any] = {"window": self.window, "batch_tokens": self.batch_tokens, "seed": self.options.seed}
        options["progress"] = partial(progress, description="lone sentences")
        figures, items = isolated_sentences(self.model, self.tokenizer, documents, **options)
        self.items += [{"task": "isolated_sentences", **item} for item in items]
        return figures

    def evaluate_minimal_pairs(self) -> dict[str, Any]:
        """Accuracy on each folder of pairs; a model of the embedded corpus also on its own (minimal_pairs.py)."""
        from babyllama.evaluation.minimal_pairs import WHERE_TO_GET, evaluate_pairs

        found = {}
        for name, pairs in self._pair_sets().items():
            figures, items = evaluate_pairs(
                self.model,
                self.tokenizer,
                pairs,
                max_length=self.max_positions,
                batch_tokens=self.batch_tokens,
                screen=self.options.screen_pairs,
                progress=partial(progress, description=f"minimal pairs: {name}"),
            )
            found[name] = figures
            self.items += [{"task": "minimal_pairs", "set": name, **item} for item in items]
        if not found:
            say(WHERE_TO_GET)
        return found

    def _pair_sets(self) -> dict[str, list[Pair]]:
        from babyllama.evaluation.minimal_pairs import keep_half, load_pair_sets, pairs_from_records

        ids, half, columns = self.options.pair_ids, self.options.pairs_half, self.options.pair_columns
        sets = load_pair_sets(self.options.minimal_pairs, ids, half, columns)
        if not sets and self.learned_embedded_corpus():
            from babyllama.data import synthetic

            made = pairs_from_records(synthetic.minimal_pairs(self.run_config.data.synthetic_seed))
            sets["embedded corpus"] = keep_half(made, half)
        return sets

    def generate_samples(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 60,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> list[Sample]:
        """Continue prompts, with the options' temperature and seed unless others are given."""
        from babyllama.evaluation.generation import generate

        return generate(
            self.model,
            self.tokenizer,
            prompts,
            window=self.window,
            max_new_tokens=max_new_tokens,
            temperature=self.options.temperature if temperature is None else temperature,
            seed=self.options.seed if seed is None else seed,
        )

    def generate(self, prompts: Sequence[str], max_new_tokens: int = 100, **settings: Any) -> list[str]:
        """Write the texts that follow the prompts (without them); settings as in `generate_samples`."""
        return [sample.completion for sample in self.generate_samples(prompts, max_new_tokens, **settings)]

    def evaluate_generation_quality(self) -> dict[str, Any]:
        """distinct-n, repetition, length and the samples (babyllama/evaluation/generation.py)."""
        from babyllama.evaluation.generation import generation_figures

        return generation_figures(self.generate_samples(self._prompts()))

    def _prompts(self) -> list[str]:
        """The user's prompts, else beginnings of held-out documents, else a few plain ones; as many as wanted."""
        from babyllama.evaluation.generation import SAMPLES, beginnings, choose_prompts

        count = self.options.num_samples or len(self.prompts or ()) or SAMPLES
        if self.prompts:
            return choose_prompts(list(self.prompts), count)
        if self.learned_embedded_corpus():
            from babyllama.data import synthetic

            return synthetic.sample_prompts(count, self.run_config.data.synthetic_seed)
        return choose_prompts(lambda: beginnings(self.documents, count), count)

    def evaluate_token_probabilities(self) -> dict[str, Any]:
        """Return entropy, top-1 and calibration over held-out tokens (babyllama/evaluation/token_statistics.py)."""
        from babyllama.evaluation.token_statistics import token_statistics

        return token_statistics(self.model, self.tokenizer, self.documents, window=self.window)

    def evaluate_completion(self, count: int = 500) -> dict[str, Any]:
        """Return exact last words of held-out sentences (babyllama/evaluation/completion.py)."""
        from babyllama.evaluation.completion import completion_accuracy, completion_items, too_few

        items = completion_items(self.documents, count, self.options.seed)
        figures, details = completion_accuracy(self.model, self.tokenizer, items, window=self.window, limit=count)
        figures = too_few(figures)
        if figures["accuracy"] is not None:
            self.items += [{"task": "completion", **detail} for detail in details]
        return figures

    def measure_speed(self) -> dict[str, Any]:
        """Generation speed (babyllama/evaluation/generation_speed.py)."""
        from babyllama.evaluation.generation_speed import generation_speed

        return generation_speed(self.model, window=self.window)

    def run(self, tasks: Sequence[str] | None = None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run tasks and collect their results under the documented schema.

        Args:
            tasks: Names of TASKS or of registered ones; None: all that apply.
            options: Passed to plugin tasks.

        Raises:
            ConfigError: A task is unknown.
        """
        from babyllama import plugins
        from babyllama.evaluation.results.tasks import chosen_tasks, run_tasks

        wanted = chosen_tasks(tasks, [*TASKS, *plugins.TASKS])
        # Each task's figures stand under its name; perplexity's are the results' own keys.
        results = self.header()
        own: dict[str, Callable[[], dict[str, Any]]] = {
            "perplexity": self.calculate_perplexity,
            "isolated_sentences": self.evaluate_isolated_sentences,
            "minimal_pairs": self.evaluate_minimal_pairs,
            "generation": self.evaluate_generation_quality,
            "token_statistics": self.evaluate_token_probabilities,
            "completion": self.evaluate_completion,
            "speed": self.measure_speed,
        }
        call = partial(run_tasks, flat=FLAT_TASKS, asked=bool(tasks or self.options.eval_data))
        self.failed = call(results, wanted, own, lambda task: task(self, options or {}))
        return results

    def header(self) -> dict[str, Any]:
        """Return what was scored, how and by which versions, and what `main.py babylm score` found of these weights."""
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": str(self.checkpoint),
            "weights": checkpoint_content(self.checkpoint),
            **provenance(),
            "seed": self.options.seed,
            "window": self.window,
            "stride": self.options.stride,
            "device": self.device,
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "eval_data": self.options.eval_data or f"the run's {self.options.split_name}",
            "data_fingerprint": self.training_metrics.get("data_fingerprint"),
            **babylm_figures(self.checkpoint),
        }

    def save(self, results: dict[str, Any], output: str | Path | None = None) -> Path:
        """Write results, sidecar, samples, plots and page.

        Args:
            results: Result of `run`.
            output: A folder, or a *.json file whose folder gets the rest; None: the checkpoint's folder.

        Returns:
            The results file.
        """
        from babyllama.evaluation.results.files import results_file, write_results
        from babyllama.pages.run_page import write_evaluation_report

        target = write_results(results, self.items, results_file(self.checkpoint, output, self.options.split))
        write_evaluation_report(results, target.parent, self.checkpoint)
        return target

    def plot_metrics(self, results: dict[str, Any], output: str | Path) -> Path:
        """Write evaluation_plots.png into a folder."""
        from babyllama.pages import figures

        return figures.write_evaluation_plots(results, Path(output))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of an evaluation."""
    from babyllama.evaluation.options import add_arguments as add_evaluation_arguments

    add_evaluation_arguments(parser, TASKS)


def run(args: argparse.Namespace) -> int:
    """Score one checkpoint: perplexity, minimal pairs, generation, statistics, completion, speed."""
    from babyllama.evaluation.options import options_of
    from babyllama.evaluation.results.files import results_file
    from babyllama.pages.terminal import print_results
    from babyllama.plugins import load_plugins

    load_plugins(args.plugin)
    evaluator_of = partial(ModelEvaluator, options=options_of(args))
    tasks = split_names(args.tasks)
    if args.milestones:
        from babyllama.research.milestone_scores import score_milestones

        written = score_milestones(Path(args.checkpoint), evaluator_of, tasks, args.output)
        say(f"written: {written}, page: {written.parent / REPORT}")
        return 0
    evaluator = evaluator_of(args.checkpoint)
    results_file(evaluator.checkpoint, args.output, args.split)  # tried before anything is computed
    window, stride = evaluator.window, evaluator.options.stride
    say(f"{evaluator.checkpoint.name}: window {window}, stride {stride or window}")
    written = evaluator.save(results := evaluator.run(tasks), args.output)  # first: a failing terminal costs nothing
    print_results(results)
    say(f"written: {written}, page: {written.parent / REPORT}")
    return 1 if evaluator.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and score the checkpoint."""
    add_arguments(parser := Parser(prog="evaluate.py", description="Score one checkpoint."))
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
