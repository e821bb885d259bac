"""corpus.html: what a corpus holds, drawn from corpus.json alone; the same figures give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babyllama.common.console import printable
from babyllama.common.files import write_text_atomic
from babyllama.common.scripts import SCRIPTS
from babyllama.pages.run_page import page_templates

SHOWN = 50  # rows of a table of copies or leaks; all stand in corpus.json


def write_corpus_page(report: dict[str, Any], path: Path) -> Path:
    """Write the page of a survey's report.

    Returns:
        The page's path.
    """
    letters = sum(report["scripts"].values())
    page = (
        page_templates()
        .get_template("corpus.html.j2")
        .render(
            report=report,
            total=report["total"],
            words=max(report["total"]["words"], 1),
            letters=max(letters, 1),
            script_names=SCRIPTS,
            tallest=max([1, *(row["documents"] for row in report["lengths"])]),
            shown=SHOWN,
        )
    )
    write_text_atomic(path, printable(page))
    return path
