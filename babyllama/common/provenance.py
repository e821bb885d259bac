"""What a result came from: the command as it was typed and the versions of the packages that computed it."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import babyllama
from babyllama.common import distributed
from babyllama.common.files import ON_WINDOWS

# In a wheel the root files lie in babyllama/app; in a clone beside the package.
IS_INSTALLED = (Path(babyllama.__file__).parent / "app" / "main.py").is_file()


def program_name() -> str:
    """Return the program that is running: `babyllama`, or the file `main.py` of a clone."""
    started = Path(sys.argv[0]) if sys.argv else Path()
    as_module = started.stem == "__main__" and started.parent.name == "babyllama"
    return "babyllama" if IS_INSTALLED or as_module or started.stem == "babyllama" else "main.py"


def program() -> str:
    """Return what a user types in front of a sub-command."""
    return "babyllama" if program_name() == "babyllama" else "python main.py"


def quoted(*words: str) -> str:
    """Return words of a command as this system's shell reads them: Windows' knows no single quotes."""
    return subprocess.list2cmdline(words) if ON_WINDOWS else shlex.join(words)


def command_line() -> str:
    """Return this process's command as a user types it."""
    processes, here = distributed.world_size(), distributed.local_world_size()
    installed = program_name() == "babyllama"
    launcher = "babyllama" if installed else f"python {Path(sys.argv[0]).name}"
    if processes > 1:
        nodes = f"--nnodes {processes // here} " if processes > here else ""
        started = "-m babyllama" if installed else Path(sys.argv[0]).name
        launcher = f"torchrun {nodes}--nproc-per-node {here} {started}"
    return " ".join([launcher, *([quoted(*sys.argv[1:])] if sys.argv[1:] else [])])


def resume_command() -> str:
    """Return this process's command with the flag that goes on from the newest checkpoint."""
    command = command_line()
    return command if "--resume_from_checkpoint" in command else f"{command} --resume_from_checkpoint"


PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Return versions of Python, of this package and of what computes the figures."""
    found = {"babyllama": babyllama.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def provenance() -> dict[str, Any]:
    """Return what every results file says of its making: command, time (UTC) and versions."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"command": command_line(), "created": created, "versions": versions()}
