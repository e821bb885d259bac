"""Print what a person reads in the terminal: an evaluation, milestones, presets, the end of the main command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babyllama.common.console import printable, say
from babyllama.common.provenance import program, quoted
from babyllama.common.units import human_bytes, human_count, human_seconds
from babyllama.config.run_layout import REPORT
from babyllama.pages.babylm_tables import babylm_tables
from babyllama.pages.tables import DASH, TableData, largest_domains, print_tables


def print_results(results: dict[str, Any]) -> None:
    """Print an evaluation's figures: held-out text as a table by domain, the other tasks as lines."""
    # Text.
    if "bits_per_byte" in results:
        print_tables([_domain_table(results)])
    if results.get("isolated_bits_per_byte") is not None:
        low, high = results["isolated_bits_per_byte_ci"]
        say(
            f"lone sentences: {results['isolated_bits_per_byte']:.4f} bits per byte ({low:.4f} - {high:.4f}), "
            f"{results['isolated_sentences']:,} sentences"
        )
    # Choices.
    for name, figures in results.get("minimal_pairs", {}).items():
        low, high = figures["accuracy_ci"]
        soft = figures.get("soft_accuracy")
        say(
            f"minimal pairs, {name}: {100 * figures['accuracy']:.2f}% ({100 * low:.2f} - {100 * high:.2f}), mean over "
            f"{len(figures['paradigms'])} paradigms, {figures['num_pairs']:,} pairs, {figures['ties']} ties"
            + (f", soft accuracy {100 * soft:.2f}%" if soft is not None else "")
        )
    if results.get("babylm"):
        print_tables(babylm_tables(results["babylm"]))
    # The rest in a line each.
    for task, keys in (
        ("generation", ("distinct_1", "distinct_2", "distinct_3", "repetition", "mean_words")),
        ("token_statistics", ("mean_entropy", "top1_accuracy", "expected_calibration_error")),
        ("completion", ("accuracy", "num_items")),
        ("speed", ("batch_1_tokens_per_second", "batch_16_tokens_per_second")),
    ):
        figures = results.get(task, {})
        shown = [f"{key} {figures[key]:,.4g}" for key in keys if figures.get(key) is not None]
        if figures.get("reason"):
            say(f"{task}: {DASH} ({figures['reason']})")
        elif shown:
            say(f"{task}: {', '.join(shown)}")


def _domain_table(results: dict[str, Any]) -> TableData:
    """Return the held-out text's figures by domain, the total last."""
    kept, left = largest_domains(results["domains"])
    rows = [_domain_row(name, figures) for name, figures in sorted(kept.items())]
    head = ("domain", "bits per byte", "95% interval", "perplexity", "documents")
    title = "test text" if results.get("eval_data") == "the run's test set" else "held-out text"
    title += f" ({left})" if left else ""
    return TableData(title, head, (*rows, _domain_row("total", results)))


def _domain_row(name: str, figures: dict[str, Any]) -> tuple[str, ...]:
    low, high = figures["bits_per_byte_ci"]
    interval = f"{low:.4f} - {high:.4f}"
    perplexity, count = f"{figures['perplexity']:,.2f}", f"{figures['num_documents']:,}"
    return name, f"{figures['bits_per_byte']:.4f}", interval, perplexity, count


def print_milestones(rows: Sequence[dict[str, Any]]) -> None:
    """Print the scores of a run's milestones as a table."""
    sets = list(rows[0].get("minimal_pairs", {}))
    cells = []
    for row in rows:
        bits, perplexity = row.get("bits_per_byte"), row.get("perplexity")
        scores = [f"{bits:.4f}" if bits else DASH, f"{perplexity:,.2f}" if perplexity else DASH]
        scores += [f"{100 * row['minimal_pairs'][name]['accuracy']:.1f}%" for name in sets]
        cells.append((row["name"], f"{row['words']:,}", f"{row['step']:,}", *scores))
    head = ("milestone", "words", "step", "bits per byte", "perplexity", *sets)
    print_tables([TableData("milestones", head, tuple(cells))])


def print_presets(presets: Sequence[Any]) -> None:
    """Print the presets: parameters, tokens per step, epochs, memory to train, what the recipe rests on.

    Args:
        presets: Result of `babyllama.models.architectures.presets`.
    """
    rows = []
    for p in presets:
        sizes = human_count(p.parameters), f"{p.tokens_per_step:,}", f"{p.epochs:g}", human_bytes(p.memory_bytes)
        rows.append((p.name, p.type, *sizes, p.evidence))
    head = ("preset", "type", "parameters", "tokens per step", "epochs", "memory (estimate)", "recipe")
    print_tables([TableData("presets", head, tuple(rows))])


def print_summary(run_dir: Path, metrics: dict[str, Any], results: dict[str, Any]) -> None:
    """Print the figures that matter, three samples, where everything is, and what to type next."""
    say()
    # The scores.
    say(f"held-out: {results['bits_per_byte']:.3f} bits per byte, perplexity {results['perplexity']:,.2f}")
    if len(results["domains"]) > 1:
        print_tables([_domain_table(results)])
    source = metrics.get("source_bits_per_byte")
    if source:
        above = 100 * (results["bits_per_byte"] / source - 1)
        say(f"exact entropy of these documents: {source:.3f} bits per byte; the model is {above:.1f}% above it")
    for folder, pairs in results.get("minimal_pairs", {}).items():
        say(f"minimal pairs ({folder}): {100 * pairs['accuracy']:.1f}% right of {pairs['num_pairs']:,}")
    # The cost.
    speed = metrics["tokens_per_second"]
    say(
        f"trained on {metrics['train_tokens']:,} tokens ({metrics['train_words']:,} words) "
        f"in {human_seconds(metrics['train_seconds'])}, {f'{speed:,.0f}' if speed else '-'} tokens/s"
    )
    # Samples, and where to go on.
    for sample in results.get("generation", {}).get("samples", [])[:3]:
        say()
        say(printable(sample["prompt"] + sample["completion"]))
    say()
    say(f"everything is in {run_dir}; open {run_dir / REPORT}")
    folder = quoted(str(run_dir))
    say(f"next: {program()} generate {folder} --prompt 'Once upon a time'")
    say(f"      {program()} evaluate {folder} --minimal-pairs DIR_WITH_BLIMP")
