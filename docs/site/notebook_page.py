"""The notebook as a page of the site: its text and its code, without outputs (it has none stored)."""

from __future__ import annotations

import json
from pathlib import Path


def write_notebook_page(notebook: Path, page: Path) -> None:
    """Write a notebook's cells as Markdown.

    Args:
        notebook: An .ipynb file.
        page: The page to write.
    """
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```ipython\n{source}\n```")
    page.parent.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts) + "\n"
    if not page.is_file() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")
