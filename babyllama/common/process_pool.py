"""One function over many items on all cores: results in order, a bounded number in flight, no process left behind.

Python's own threads would clean text one at a time, so the work goes to processes. They are forked: the function and
all it refers to (a subclass's cleaners, a plugin's, a trained tokenizer) need not be pickled, only the items and the
results are. A fork beside other threads is safe on Linux for work that, as here, uses neither torch nor a GPU nor the
tokenizers library's thread pool; elsewhere everything runs in this process.

A worker that finds its parent gone (kill -9) ends within a second. Ctrl-C reaches the parent alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

from babyllama.common.distributed import available_cores
from babyllama.common.errors import BabyLlamaError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items beyond one for each process: none waits for the parent, few are held in memory
_function: Callable[[Any], Any]


class WorkerLost(BabyLlamaError):
    """A process was ended from outside; what it and its siblings had finished is kept."""


def worker_count(wanted: int | None) -> int:
    """Processes to use: `wanted`, or one for each core; one in all where the system has no safe fork, or in a process
    that may have no children.
    """
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 1
    return wanted or available_cores()


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """`map(function, items)` in several processes.

    Args:
        function: Anything callable; reaches the workers by the fork.
        items: Drawn as they are needed, pickled. A single item is worked on here.
        processes: 1: no process is started.

    Yields:
        The results in the items' order. Stop drawing and no further item is begun.

    Raises:
        WorkerLost: A worker died. Errors of the function itself come through as they are.
    """
    # One process, or one item: no pool.
    first = list(islice(items := iter(items), 2))
    if processes == 1 or len(first) < 2:
        yield from map(function, chain(first, items))
        return
    executor = ProcessPoolExecutor(
        processes, multiprocessing.get_context("fork"), initializer=_begin, initargs=(function, os.getpid())
    )
    # Keep the processes busy a few items ahead, and give results in the items' order.
    waiting: deque[Future[Result]] = deque()
    try:
        with _quiet_fork():
            waiting.append(executor.submit(_work, first[0]))
        for item in chain(first[1:], items):
            waiting.append(executor.submit(_work, item))
            if len(waiting) >= processes + AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkerLost(
            "a process that prepares text was ended from outside (out of memory?). What was finished is kept: "
            "run the same command again, with data.num_proc: 1 where memory is short."
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(function: Callable[[Any], Any], parent: int) -> None:
    """In a new worker: keep the function, leave Ctrl-C to the parent, follow it when it dies."""
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the library's threads did not come along: it would wait for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(item: object) -> object:
    return _function(item)


@contextmanager
def _quiet_fork() -> Iterator[None]:
    """Keep the tokenizers library from warning at the fork; `_begin` does what it would."""
    name = "TOKENIZERS_PARALLELISM"
    if name in os.environ:
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        del os.environ[name]
