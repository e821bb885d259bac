"""What the user sees in the terminal: plain lines, a bar where a person is looking, nothing twice.

Only the first process of a distributed run prints. Text that a model generated passes through `printable`, which
strips control codes: a sample must not be able to move the cursor or change the terminal's title.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from babyllama.common.distributed import is_main_process

T = TypeVar("T")

TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # U+202E shows what follows backwards
LEFT_TO_RIGHT = "\u200e"
LINE_SECONDS = 10.0  # between two lines about the same long work, where there is no terminal


_command_began: float | None = None


def begin_command() -> None:
    """Note that the user's command begins now."""
    global _command_began
    _command_began = time.monotonic()


def seconds_since_start() -> float:
    """Return how long the user has waited for this command; 0 where none was noted (a call from Python)."""
    return 0.0 if _command_began is None else time.monotonic() - _command_began


def say(line: str = "") -> None:
    """Print one line on standard output."""
    if is_main_process():
        _print(line, sys.stdout)


def warn(line: str) -> None:
    """Print one line on standard error."""
    if is_main_process():
        _print(line, sys.stderr)


def _print(line: str, stream: TextIO) -> None:
    """Print; a terminal that was closed is no error, for the training goes on to its checkpoint."""
    try:
        print(line, file=stream, flush=True)
    except UnicodeEncodeError:  # a file name of an old archive, or a terminal that knows ASCII only
        known = line.encode(stream.encoding or "ascii", "backslashreplace").decode(stream.encoding or "ascii")
        print(known, file=stream, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        leave_closed_terminal()


def leave_closed_terminal() -> None:
    """Let all further output go nowhere where the terminal is gone.

    A bar's last line and Python's own flush at the end would raise as well, and cost the exit code that tells a
    training with a checkpoint (129) from one without.
    """
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError as error:
            if error.errno != errno.EIO:
                continue
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def printable(text: str) -> str:
    """Return text without control codes but line feed and tab, and without marks that turn the direction of writing."""
    return "".join(c for c in text if c in "\n\t" or not (unicodedata.category(c) == "Cc" or c in TURNS))


def cell(text: str, width: int = 0) -> str:
    """Return text for a column of a terminal: as wide as its letters are drawn there, and left to right behind it.

    Han characters take two columns, combining marks none. Behind letters that run from right to left a mark of no width
    (U+200E) keeps what follows in its place in terminals that reorder a line: numbers would change sides.

    Args:
        text: Any text of one line.
        width: Columns to fill up with blanks; a longer text stays as it is.

    >>> cell("中文", 6), cell("a", 3), len(cell("عربي", 6))
    ('中文  ', 'a  ', 7)
    """
    if text.isascii():
        return text.ljust(width)
    from rich.cells import cell_len

    turned = any(unicodedata.bidirectional(c) in {"R", "AL"} for c in text)
    return text + LEFT_TO_RIGHT * turned + " " * max(0, width - cell_len(text))


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


@contextmanager
def transfer(description: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far work on many bytes has come: a bar on a terminal, elsewhere a line every ten seconds.

    Args:
        description: What is being done.
        total_bytes: Bytes of all the work; None where that is not known (no time left is shown then).

    Yields:
        A function to be told how many bytes were done since it was last called.
    """
    if not is_main_process():
        yield lambda count: None
    elif not sys.stderr.isatty():
        yield _lines(description, total_bytes)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=total_bytes)
            yield lambda count: bar.advance(task, count)


def _lines(description: str, total_bytes: int | None) -> Callable[[int], None]:
    started = last = time.monotonic()
    done = 0

    def seen(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last < LINE_SECONDS:
            return
        last, rate = now, done / (now - started)
        known = total_bytes is not None and done <= total_bytes
        left = round((total_bytes - done) / rate) if known else 0  # type: ignore[operator]
        of = f" of {total_bytes / 1e6:,.0f}" if known else ""  # type: ignore[operator]
        time_left = f", {left // 60} min {left % 60} s left" if known else ""
        say(f"{description}: {done / 1e6:,.0f}{of} MB, {rate / 1e6:.1f} MB/s{time_left}")

    return seen
