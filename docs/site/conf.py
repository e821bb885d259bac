"""The documentation site: `make docs` builds build/site from README.md, docs/ and the docstrings; warnings are errors.

The pages are the Markdown files of the project as they are, read where they lie (the source folder is the project's
root), so that they read the same on GitHub. Made for the site are the navigation, a page of the API for each room
(api_pages.py) and the notebook as a page.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from api_pages import ROOT_FILES, write_api_pages  # noqa: E402
from notebook_page import write_notebook_page  # noqa: E402

import babyllama  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project, author, release = "BabyLlama", "BabyLlama maintainers", babyllama.__version__
copyright = "2026, BabyLlama maintainers"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "examples/**.md", "build/site-pages/**.md"]
exclude_patterns = ["build/site"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "attrs_block"]
myst_disable_syntax = ["html_inline", "html_block"]  # `<s>` in a sentence is a token, not HTML
html_theme = "furo"
html_title = "BabyLlama"
html_static_path, html_css_files = ["static"], ["site.css"]
highlight_language = "bash"  # a block without a language holds commands
html_show_sphinx = False
html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "monokai"

PAGES = "build/site-pages"
NAVIGATION = {
    "First steps": ["TRAINING_GUIDE", f"{PAGES}/first_hour", "docs/README"],
    "Your text": [
        "docs/corpus",
        "docs/tokenizers",
        "docs/languages",
        "docs/large_corpora",
        "docs/surprisal",
        "docs/minimal_pairs",
    ],
    "Your model": ["docs/playing", "docs/sharing"],
    "Research": ["docs/babylm", "docs/experiments", "docs/results"],
    "Reference": ["docs/configuration", "API_REFERENCE", f"{PAGES}/api/index"],
    "Behind it": ["docs/performance", "docs/scaling", "docs/reliability", "CONTRIBUTING", "CHANGELOG"],
}


def navigation() -> str:
    """Return the tables of contents: the pages named above that are there, then every other page of docs/ and
    examples/.
    """
    written = {name: [page for page in pages if (ROOT / f"{page}.md").is_file()] for name, pages in NAVIGATION.items()}
    named = {page for pages in written.values() for page in pages}
    files = [path for folder in ("docs", "examples") for path in (ROOT / folder).rglob("*.md")]
    files.sort(key=lambda path: (path.stem != "README", path))
    others = [path.relative_to(ROOT).with_suffix("").as_posix() for path in files]
    written["Behind it"] += [page for page in others if page not in named]
    trees = []
    for caption, pages in written.items():
        lines = [f"```{{toctree}}\n:hidden:\n:caption: {caption}\n", *pages, "```"]
        trees.append("\n".join(lines))
    return "\n\n".join(trees)


def unlink_folders(app: Sphinx, page: str, source: list[str]) -> None:
    """Leave only the text of a link to a folder or to Markdown that is no page: GitHub shows them, the site cannot."""
    here = (ROOT / page).parent

    def text_alone(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        is_page = target.parent == ROOT or {ROOT / "docs", ROOT / "examples"} & set(target.parents)
        return link[1] if target.is_dir() or (target.suffix == ".md" and not is_page) else link[0]

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)\)", text_alone, source[0])


def link_modules(app: Sphinx, page: str, source: list[str]) -> None:
    """Let a link to a module, which on GitHub shows the source, lead to its place in the made pages."""
    here = (ROOT / page).parent

    def made(link: re.Match[str]) -> str:
        parts = (here / link[1]).resolve().relative_to(ROOT).with_suffix("").parts
        if parts[0] != "babyllama" and parts not in {(name,) for name in ROOT_FILES}:
            return link[0]
        name = {1: "pipeline", 2: "doors"}.get(len(parts)) or parts[1]  # headings are a module's dotted name
        return f"]({os.path.relpath(ROOT / PAGES / 'api' / name, here)}.md#{''.join(parts)})"

    source[0] = re.sub(r"\]\(([\w./]+\.py)\)", made, source[0])


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the navigation into the home page, which on GitHub needs none."""
    if page == root_doc:
        source[0] += f"\n\n{navigation()}\n"


def write_index(app: Sphinx, error: Exception | None) -> None:
    """Let the folder's address lead to the home page."""
    if error is None:
        text = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html"><a href="{root_doc}.html">'
        (Path(app.outdir) / "index.html").write_text(f"{text}BabyLlama</a>\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Make the pages that are made, and connect the rest."""
    from pygments.lexers.special import TextLexer

    write_api_pages(ROOT, ROOT / PAGES / "api")
    write_notebook_page(ROOT / "examples" / "first_hour.ipynb", ROOT / PAGES / "first_hour.md")
    app.add_lexer("mermaid", TextLexer)  # GitHub draws it; here it is text
    app.connect("source-read", unlink_folders)
    app.connect("source-read", link_modules)
    app.connect("source-read", add_navigation)
    app.connect("build-finished", write_index)
