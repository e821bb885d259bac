"""A few of the injected faults (all of them: `python -m tests.faults --trials 100`), in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = (
    "kill -9 in saving",
    "kill -9 at the end",
    "disk full",
    "second run",
    "out of memory",
    "moved to a processor",
    "cache shared",
    "optimizer.pt bit flipped",
    "pickle in rng_state",
    "cache or tokenizer",
    "poisoned",
    "dangling",
    "YAML tag",
)


@pytest.mark.faults
@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="children are forked")
def test_faults_in_small() -> None:
    command = [sys.executable, "-m", "tests.faults", "--trials", "1", "--only", ",".join(CHOSEN)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.stdout.count("| 1 | 1 |") == len(CHOSEN)
