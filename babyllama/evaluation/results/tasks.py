"""Running the tasks of an evaluation: what can be measured is, and what cannot costs only its own result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from babyllama import plugins
from babyllama.common.console import say, warn
from babyllama.common.errors import ConfigError, DataError, PluginError
from babyllama.evaluation.results.files import mark_measured


def chosen_tasks(tasks: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Name the tasks to run: the given ones, each once, else all.

    Raises:
        ConfigError: One is unknown.
    """
    wanted = list(dict.fromkeys(known if tasks is None else tasks))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"--tasks: {', '.join(unknown)}: unknown; known: {', '.join(known)}")
    return wanted


def run_tasks(
    results: dict[str, Any],
    wanted: Sequence[str],
    own: Mapping[str, Callable[[], dict[str, Any]]],
    of_plugins: Callable[[Callable[..., dict[str, Any]]], dict[str, Any]],
    *,
    flat: Sequence[str],
    asked: bool,
) -> list[str]:
    """Run tasks and put their figures into results.

    Args:
        results: Results that begin with the head of an evaluation; changed in place.
        wanted: Names of tasks.
        own: Our tasks.
        of_plugins: Calls a plugin's task.
        flat: Tasks whose figures stand in the results by themselves and not under their name.
        asked: The user named the tasks: a text that is missing is an error then, else a line.

    Returns:
        The tasks of plugins that raised; each was told in a line with its file.

    Raises:
        DataError: A text cannot be read.
    """
    failed: list[str] = []
    done: dict[str, list[str]] = {}
    for name in wanted:
        # One that fails does not cost the others.
        try:
            if name in own:
                found = own[name]()
            else:
                with plugins.blamed(plugins.TASKS[name], f"task {name}"):
                    found = of_plugins(plugins.TASKS[name])
        except PluginError as error:
            failed.append(name)
            warn(f"error: {name}: {error}")
            continue
        except DataError as error:
            if asked:
                raise
            say(f"{name}: not measured: {error}")
            continue
        # Its figures, and which keys are its own.
        figures = found if name in flat else {name: found}
        results.update(figures)
        done[name] = list(figures)
    mark_measured(results, done)
    return failed
