"""`python -m tests.gpu [check|faults|speed|train|all]`: plan the rows, run each in a child, write the tables."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.gpu.processes import Child, Forked, Fresh, prepare_environment
from tests.gpu.report import read_rows, write_report
from tests.gpu.rows import GROUPS, Row, Spec, all_rows

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = Row("environment", "environment", "environment:environment", 15, 90)
QUICK_SECONDS = 10.0  # of a row on a CPU in quick mode; nearly all of it imports
QUICK_LIMIT = 900.0  # a busy machine of two cores is ten times slower
END = 5.0  # seconds kept for the report at the end of --minutes


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description="What only a GPU can show.")
    parser.add_argument("group", nargs="?", choices=[*GROUPS, "all"], default="all")
    parser.add_argument("--quick", action="store_true", help="small sizes, few steps")
    parser.add_argument("--device", default="cuda", help="cuda or cpu (default: %(default)s)")
    parser.add_argument("--data", metavar="DIR", help="real text, checkpoints, BLiMP; default: $BABYLLAMA_TEST_DATA")
    parser.add_argument("--out", metavar="DIR", default="gpu_results", help="results (default: %(default)s)")
    parser.add_argument("--minutes", type=float, metavar="N", help="rows that do not fit are left out")
    parser.add_argument("--only", default="", metavar="A,B", help="rows by parts of names; with commas: A;B")
    parser.add_argument("--jobs", type=int, default=0, help="checks beside each other (default: 1; quick, CPU: 2)")
    parser.add_argument("--list", action="store_true", help="show the rows and their seconds, run nothing")
    return parser.parse_args(argv)


def chosen_rows(args: argparse.Namespace) -> list[Row]:
    """The rows that the command line asks for, the ones worth most first."""
    words = [word.strip() for word in args.only.split(";" if ";" in args.only else ",") if word.strip()]
    possible = [row for row in all_rows() if args.group in ("all", row.group) and (row.quick or not args.quick)]
    named = [row for row in possible if not words or any(word in row.name for word in words)]
    wanted = {bool(row.options.get("teachers")) for row in named if row.function == "curves:curve"}
    return [row for row in possible if row in named or needed_reference(row, wanted)]


def needed_reference(row: Row, wanted: set[bool]) -> bool:
    """Whether a row makes the CPU's curve that a chosen row compares with; kept from before, it takes a second."""
    return row.function == "curves:reference" and bool(row.options.get("teachers")) in wanted


def why_skipped(row: Row, spec: Spec, machine: dict[str, Any]) -> str:
    """Why a row cannot be run here, "" where it can.

    Args:
        row: The row.
        spec: Device and data.
        machine: Figures of the environment row.
    """
    if "cuda" in row.needs and not spec.cuda:
        return "means something only on CUDA"
    if "two" in row.needs and machine.get("gpus", 0) < 2:
        return "needs two GPUs"
    if "data" in row.needs and spec.data is None:
        return "needs --data"
    if "compiler" in row.needs and not machine.get("compiler"):
        return "no compiler for this device"
    return ""


class Runner:
    """Runs rows in children and appends what they find.

    Args:
        spec: What all children share.
        minutes: Time for everything, None for no limit.
    """

    def __init__(self, spec: Spec, minutes: float | None) -> None:
        self.spec = spec
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes - END
        self.file = spec.out / "rows.jsonl"
        self.machine: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self.forks = not spec.cuda and "forkserver" in multiprocessing.get_all_start_methods()
        (spec.out / "logs").mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds until the deadline."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def expected(self, row: Row) -> float:
        """Seconds that a row will take."""
        return QUICK_SECONDS if self.spec.quick else row.expected

    def do(self, row: Row) -> dict[str, Any]:
        """Run one row, or say why not, and append the result."""
        reason = why_skipped(row, self.spec, self.machine)
        if not reason and self.expected(row) > self.left():
            reason = f"{self.expected(row):.0f} s do not fit into what is left of --minutes"
        if reason:
            return self._append(row, {"skipped": reason}, 0.0)
        started = time.monotonic()
        found = self._child(row)
        return self._append(row, found, time.monotonic() - started)

    def _child(self, row: Row) -> dict[str, Any]:
        stem = "".join(c if c.isalnum() else "_" for c in row.name)
        paths = [self.spec.out / "logs" / f"{stem}.{kind}" for kind in ("spec.json", "result.json", "log")]
        told = {"function": row.function, "spec": self.spec.to_dict() | {"options": dict(row.options)}}
        paths[0].write_text(json.dumps(told), encoding="utf-8")
        paths[1].unlink(missing_ok=True)
        limit = min(QUICK_LIMIT if self.spec.quick else row.limit, max(self.left(), 1.0))
        process = self._start([str(path) for path in paths])
        self._children.add(process)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            return {"problems": [f"took longer than its limit of {limit:.0f} s (log: {paths[2].name})"]}
        finally:
            self._children.discard(process)
        if not paths[1].is_file():
            tail = paths[2].read_text(encoding="utf-8", errors="replace").strip().split("\n")[-1]
            return {"problems": [f"the process ended with {code}: {tail[:300]}"]}
        return json.loads(paths[1].read_text(encoding="utf-8"))

    def _start(self, paths: list[str]) -> Child:
        """Start a row: a fresh interpreter, or on a CPU a fork of one that has imported everything and done nothing."""
        if self.forks:
            return Forked(paths)
        return Fresh(paths)

    def stop(self) -> None:
        """End the children that still run."""
        for process in list(self._children):
            process.kill()

    def _append(self, row: Row, found: dict[str, Any], seconds: float) -> dict[str, Any]:
        state = "skipped" if found.get("skipped") else "failed" if found.get("problems") else "passed"
        facts = {"name": row.name, "group": row.group, "state": state, "seconds": round(seconds, 1)}
        facts |= {"device": self.spec.device, "quick": self.spec.quick, "options": dict(row.options), **found}
        with self._lock:
            with self.file.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(facts) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
            said = "; ".join(found.get("problems") or []) or found.get("skipped") or "; ".join(found.get("notes") or [])
            print(f"{state:<8}{seconds:6.1f} s  {row.name}{': ' + said if said else ''}", flush=True)
        return facts


def data_folder(given: str | None) -> Path | None:
    """The folder of real text: the flag, else $BABYLLAMA_TEST_DATA, else ../shared/data; None where none is there."""
    if given is not None and not Path(given).is_dir():
        raise SystemExit(f"error: --data {given}: no such folder")
    folder = Path(given or os.environ.get("BABYLLAMA_TEST_DATA", ROOT.parent / "shared" / "data")).expanduser()
    return folder.resolve() if folder.is_dir() else None


def run_all(runner: Runner, rows: Sequence[Row], jobs: int) -> list[dict[str, Any]]:
    """Run the rows in order; checks and faults may stand beside each other; what is timed or fills a GPU, alone."""
    fills = [row for row in rows if row.function.startswith("memory:")]
    together = [row for row in rows if jobs > 1 and row.group in ("check", "faults") and row not in fills]
    first = [row for row in together if row.function.endswith(":reference")]  # others read what these leave
    alone = [row for row in rows if row not in together]
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        found = list(pool.map(runner.do, first))
        found += pool.map(runner.do, [row for row in together if row not in first])
    return found + [runner.do(row) for row in alone]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 where a row failed, 130 where it was interrupted (the page is written all the same)."""
    args = parse(argv)
    rows = chosen_rows(args)
    if args.list:
        for row in rows:
            print(f"{row.group:<8}{row.expected:5.0f} s  {row.name}")
        print(f"{sum(row.expected for row in rows):13.0f} s on a GPU")
        return 0
    spec = Spec(args.device, args.quick, Path(args.out).resolve(), data_folder(args.data))
    prepare_environment(spec)
    runner = Runner(spec, args.minutes)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found: list[dict[str, Any]] = []
    code = 0
    try:
        found.append(runner.do(ENVIRONMENT))
        runner.machine = found[0].get("figures") or {}
        if found[0]["state"] == "passed":
            found += run_all(runner, rows, args.jobs or (2 if args.quick and not spec.cuda else 1))
    except KeyboardInterrupt:
        runner.stop()
        code = 130
    page = write_report(spec.out, read_rows(runner.file))
    counts = {state: sum(row["state"] == state for row in found) for state in ("passed", "failed", "skipped")}
    print(", ".join(f"{count} {state}" for state, count in counts.items()), f"-> {page}")
    return code or (1 if counts["failed"] else 0)


if __name__ == "__main__":
    sys.exit(main())
