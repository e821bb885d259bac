"""What the user sees in the terminal: plain lines, a bar where a person is looking, nothing twice.

Only the first process of a distributed run prints. Text that a model generated passes through `printable`, which
strips control codes: a sample must not be able to move the cursor or change the terminal's title.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def is_main_process() -> bool:
    """Whether this process prints and writes (rank 0, or the only one)."""
    return int(os.environ.get("RANK", "0")) == 0


def say(line: str = "") -> None:
    """Print one line on standard output."""
    if is_main_process():
        print(line, flush=True)


def warn(line: str) -> None:
    """Print one line on standard error."""
    if is_main_process():
        print(line, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text without control codes, except line feed and tab."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and c not in "\x7f" and not "\x80" <= c <= "\x9f"))


def progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Pass an iterable through, with a bar on a terminal; silent elsewhere.

    Args:
        iterable: What is worked through.
        description: What is being done, shown beside the bar.
        total: Number of items; unset: `len(iterable)` where it has one.

    Yields:
        The items.
    """
    if not (is_main_process() and sys.stderr.isatty()):
        yield from iterable
        return
    from rich.console import Console
    from rich.progress import track

    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    yield from track(iterable, description, total=total, console=Console(stderr=True), transient=True)
