"""Tables and page of tokenizers side by side, made from tokenizers.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import regex

from babyllama.common.console import printable
from babyllama.common.files import write_text_atomic
from babyllama.common.units import human_count
from babyllama.pages.run_page import page_templates
from babyllama.pages.tables import DASH, TableData

_MARK = regex.compile(r"\p{M}")
_SHOWN_AS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\u200b": "ZWSP", "\u200c": "ZWNJ", "\u200d": "ZWJ"}


def _number(value: float | None, pattern: str) -> str:
    return DASH if value is None else pattern.format(value)


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}%"


def tokenizer_tables(report: dict[str, Any]) -> list[TableData]:
    """Return the figures of all tokenizers: vocabulary, text in total and by domain, boundaries."""
    rows, by_domain, cuts = [], [], []
    # A row a tokenizer, and one for each domain.
    for name, found in report["tokenizers"].items():
        total, model = found.get("total", {}), found.get("model", {})
        rows.append(
            (
                name,
                f"{found['vocabulary']['tokens']:,}",
                *_text_cells(total),
                _percent(model.get("vocabulary_share")),
                human_count(model["parameters"]) if model else DASH,
            )
        )
        by_domain += [(domain, name, *_text_cells(row)) for domain, row in found.get("domains", {}).items()]
        if "boundaries" in found:
            row = found["boundaries"]
            shares = [_percent(row[key]) for key in ("one_token", "precision", "recall", "f1")]
            cuts.append((name, f"{row['words']:,}", *shares))
    # Tables of what there is.
    text_head = ("tokens a word", "bytes a token", "used", "single bytes")
    tables = [TableData("Tokenizers", ("tokenizer", "vocabulary", *text_head, "of the model", "model"), tuple(rows))]
    if by_domain:
        by_domain.sort(key=lambda row: row[0])
        tables.append(TableData("By domain", ("domain", "tokenizer", *text_head), tuple(by_domain)))
    if cuts:
        head = ("tokenizer", "words", "one token", "precision", "recall", "F1")
        tables.append(TableData("Cuts at morphemes", head, tuple(cuts)))
    return tables


def _text_cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return (
        _number(row.get("fertility"), "{:.3f}"),
        _number(row.get("bytes_per_token"), "{:.3f}"),
        _percent(row.get("used_share")),
        _percent(row.get("single_byte_share")),
    )


def shown(piece: dict[str, str]) -> str:
    """Return a token as a reader can see it: white space as signs, a mark that begins it on a dotted circle."""
    text = piece["bytes"] or "".join(_SHOWN_AS.get(letter, letter) for letter in piece["text"])
    return f"\u25cc{text}" if _MARK.match(text) else text


def write_tokenizer_page(report: dict[str, Any], path: Path) -> Path:
    """Write the page.

    Returns:
        Its path.
    """
    cut = [
        {
            "sentence": sentence,
            "rows": [
                {"name": name, "pieces": [(shown(piece), bool(piece["bytes"])) for piece in found["sentences"][number]]}
                for name, found in report["tokenizers"].items()
            ],
        }
        for number, sentence in enumerate(report["sentences"])
    ]
    page = page_templates().get_template("tokenizers.html.j2").render(tables=tokenizer_tables(report), cut=cut)
    write_text_atomic(path, printable(page))
    return path
