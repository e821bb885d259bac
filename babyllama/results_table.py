"""An evaluation's figures as a table and lines in the terminal."""

from __future__ import annotations

from typing import Any

from babyllama.common.console import say


def print_results(results: dict[str, Any]) -> None:
    """The figures as tables in the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if "bits_per_byte" in results:
        table = Table("domain", "bits per byte", "95% interval", "perplexity", "documents", title="held-out text")
        for name, figures in [*sorted(results["domains"].items()), ("total", results)]:
            low, high = figures["bits_per_byte_ci"]
            cells = (f"{figures['bits_per_byte']:.4f}", f"{low:.4f} - {high:.4f}", f"{figures['perplexity']:,.2f}")
            table.add_row(Text(name), *cells, f"{figures['num_documents']:,}")
        console.print(table)
    for name, figures in results.get("minimal_pairs", {}).items():
        low, high = figures["accuracy_ci"]
        say(
            f"minimal pairs, {name}: {100 * figures['accuracy']:.2f}% ({100 * low:.2f} - {100 * high:.2f}), mean over "
            f"{len(figures['paradigms'])} paradigms, {figures['num_pairs']:,} pairs, {figures['ties']} ties"
        )
    for task, keys in (
        ("generation", ("distinct_1", "distinct_2", "distinct_3", "repetition", "mean_words")),
        ("token_statistics", ("mean_entropy", "top1_accuracy", "expected_calibration_error")),
        ("completion", ("accuracy", "num_items")),
        ("speed", ("batch_1_tokens_per_second", "batch_16_tokens_per_second")),
    ):
        figures = results.get(task, {})
        shown = [f"{key} {figures[key]:,.4g}" for key in keys if figures.get(key) is not None]
        if shown:
            say(f"{task}: {', '.join(shown)}")
