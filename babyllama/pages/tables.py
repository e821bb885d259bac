"""One table type for everything that is shown as a table: terminal, Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from babyllama.common.console import cell as column

DASH = "–"


MOST_DOMAINS = 40  # rows of a table or figure; a corpus of 1,500 files has as many domains


def largest_domains(domains: Mapping[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the domains with the most tokens, at most MOST_DOMAINS, and a line about the others.

    Args:
        domains: Domain -> its figures.

    >>> largest_domains({"a": {"total_tokens": 1}})
    ({'a': {'total_tokens': 1}}, '')
    """
    if len(domains) <= MOST_DOMAINS:
        return dict(domains), ""
    kept = sorted(domains, key=lambda name: -(domains[name].get("total_tokens") or 0))[:MOST_DOMAINS]
    left = f"{len(domains) - MOST_DOMAINS:,} domains with less text are left out here; evaluation_results.json has all"
    return {name: figures for name, figures in domains.items() if name in kept}, left


def largest_amounts(amounts: Mapping[str, int]) -> dict[str, int]:
    """Return domains with their words by name: the MOST_DOMAINS largest, and the others as one sum.

    Args:
        amounts: Domain -> words.

    >>> largest_amounts({"b": 2, "a": 3})
    {'a': 3, 'b': 2}
    """
    kept = sorted(amounts, key=lambda name: -amounts[name])[:MOST_DOMAINS]
    found = {name: amounts[name] for name in sorted(kept)}
    left = len(amounts) - len(kept)
    return found | ({f"{left:,} other domains": sum(amounts.values()) - sum(found.values())} if left else {})


@dataclass(frozen=True)
class TableData:
    """A title, column heads and rows of ready text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def render(table: TableData, kind: str) -> str:
    """Return a table as text.

    Args:
        table: What to show.
        kind: markdown, csv or latex; `table` is drawn by `print_tables`.
    """
    return {"markdown": _markdown, "csv": _csv, "latex": _latex}[kind](table)


def _markdown(table: TableData) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join(
        [f"### {table.title}", "", line(table.head), line(["---"] * len(table.head)), *map(line, table.rows)]
    )


def _csv(table: TableData) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", *table.head])
    writer.writerows([[table.title, *row] for row in table.rows])
    return stream.getvalue().rstrip("\n")


_LATEX_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "<": r"$<$",
}


def _latex(table: TableData) -> str:
    def cell(text: str) -> str:
        return "".join(_LATEX_SPECIAL.get(letter, letter) for letter in text)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(cell, cells)) + r" \\"

    head = [r"\begin{table}", r"\centering", rf"\caption{{{cell(table.title)}}}"]
    body = [rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}", r"\hline", line(table.head), r"\hline"]
    return "\n".join([*head, *body, *map(line, table.rows), r"\hline", r"\end{tabular}", r"\end{table}"])


def print_tables(tables: Sequence[TableData]) -> None:
    """Draw tables in the terminal, as wide as they are where output is not a terminal."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160)
    for data in tables:
        drawn = Table(title=Text(data.title), title_justify="left")
        for text in data.head:
            drawn.add_column(Text(column(text)))
        for row in data.rows:
            drawn.add_row(*[Text(column(text)) for text in row])
        console.print(drawn)
