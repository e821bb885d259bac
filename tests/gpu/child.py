"""One row in a process of its own: `python -m tests.gpu.child SPEC.json RESULT.json`."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import traceback
from dataclasses import asdict, replace
from pathlib import Path


def run(function: str, plain: dict, scratch: Path) -> dict:
    """Call a row's function; an exception becomes its problem."""
    from tests.gpu.rows import Report, Spec

    module, name = function.split(":")
    spec = replace(Spec.from_dict(plain), scratch=scratch)
    try:
        report = getattr(importlib.import_module(f"tests.gpu.{module}"), name)(spec)
    except Exception as error:
        traceback.print_exc()
        first = str(error).strip().split("\n")[0]
        report = Report(problems=[f"{type(error).__name__}: {first}"])
    return asdict(report)


def do_row(spec_path: Path, result_path: Path) -> None:
    """Read the spec, call the row, write the report."""
    told = json.loads(spec_path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="gpu-row-") as scratch:
        found = run(told["function"], told["spec"], Path(scratch))

    from babyllama.common.files import write_json

    write_json(result_path, found)


if __name__ == "__main__":
    do_row(Path(sys.argv[1]), Path(sys.argv[2]))
