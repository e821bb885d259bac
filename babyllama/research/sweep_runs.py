"""A sweep's folder: its plan, its runs one after the other in processes of their own, its tables.

A run that crashes, or that the system kills for its memory, ends alone: it is told and the others go on. What is
finished is known from the run folders (a finished one has training_metrics.json, which is written last), so the same
command goes on where the last one was stopped, however it was stopped.

The child shares our process group: Ctrl-C in a terminal reaches it without us, and `kill -9` of the group leaves no
orphan. A signal that only we got is passed on; whether the child got it is seen in its log, for a second signal would
end it before its checkpoint.
"""

from __future__ import annotations

import csv
import io
import math
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from babyllama.common.console import say, warn
from babyllama.common.errors import ConfigError, Interrupted
from babyllama.common.files import read_json, write_json, write_text_atomic
from babyllama.common.provenance import command_line, quoted, versions
from babyllama.common.units import human_count, human_seconds
from babyllama.config.run_layout import SWEEP, TRAINING_METRICS
from babyllama.pages.tables import DASH, TableData
from babyllama.research.sweep_names import value_text
from babyllama.research.sweep_plan import Run, SweepPlan, check_extension
from babyllama.training import checkpoints
from babyllama.training.run_folder import remove_run
from babyllama.training.stop_signals import StopSignals

SCHEMA_VERSION = 1
RESULTS, TABLE, BEST, LOGS = "sweep_results.json", "sweep_results.csv", "best.yaml", "logs"
PASSED_ON_AFTER = 1.0  # seconds in which the child shows that a signal reached it, too
OPTIMISTIC = (
    "the best of several recipes on the held-out text is an optimistic figure: score it on text that chose nothing"
)


class Sweep:
    """The folder of a plan.

    Args:
        plan: What is to be trained.
        folder: Holds sweep.json and the run folders.
        command: What trains one run, without its own flags.
        keep_checkpoints: Leave the checkpoints of finished runs (several times a model's size each).
    """

    def __init__(
        self, plan: SweepPlan, folder: Path, command: Sequence[str], *, keep_checkpoints: bool = False
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.command = list(command)
        self.keep_checkpoints = keep_checkpoints
        self.failed: dict[str, dict[str, Any]] = {}
        self._seconds: list[float] = []  # of the runs that this process trained from step 0

    def open(self, *, overwrite: bool, write: bool = True) -> None:
        """See what the folder holds, and note the plan there.

        Args:
            overwrite: Remove what another sweep of ours left.
            write: False for a look only.

        Raises:
            ConfigError: It holds another sweep, or runs of none.
        """
        old = self._old_plan()
        if overwrite:
            if write:
                self._clear(old)
            old = None
        elif old is None and any((self.folder / run.name).exists() for run in self.plan.runs):
            raise ConfigError(
                f"{self.folder}: holds runs without a whole {SWEEP}. Choose another --model-name, or replace them with "
                "--overwrite."
            )
        if old is not None:
            more = check_extension(str(self.folder), old, self.plan)
            self.failed = {name: facts for name, facts in old["failed"].items() if self.state(name) != "finished"}
            if more:
                say(f"{self.folder}: {more} runs more than before")
        if write:
            self._save()

    def _old_plan(self) -> dict[str, Any] | None:
        try:
            return dict(read_json(self.folder / SWEEP))
        except (OSError, ValueError, TypeError):
            return None

    def _save(self) -> None:
        facts = {
            "schema_version": SCHEMA_VERSION,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command_line(),
            "name": self.plan.name,
            "base": self.plan.base,
            "keys": self.plan.keys,
            "seeds": self.plan.seeds,
            "runs": [asdict(run) for run in self.plan.runs],
            "failed": self.failed,
        }
        write_json(self.folder / SWEEP, facts)

    def _clear(self, old: Mapping[str, Any] | None) -> None:
        """Remove the sweep's files and runs; for a folder that is not our run, remove_run raises ConfigError."""
        names = [run["name"] for run in old["runs"]] if old else []
        for name in dict.fromkeys([*names, *(run.name for run in self.plan.runs)]):
            remove_run(self.folder / name)
            (self.folder / LOGS / f"{name}.log").unlink(missing_ok=True)
        for name in (SWEEP, RESULTS, TABLE, BEST):
            (self.folder / name).unlink(missing_ok=True)

    # Training

    def state(self, name: str) -> str:
        """`finished`, `failed`, `unfinished` or `to do`."""
        if self.metrics(name):
            return "finished"
        if name in self.failed:
            return "failed"
        return "unfinished" if checkpoints.checkpoint_folders(self.folder / name) else "to do"

    def metrics(self, name: str) -> dict[str, Any]:
        """Return a finished run's training_metrics.json, empty for another."""
        try:
            found = dict(read_json(self.folder / name / TRAINING_METRICS))
        except (OSError, ValueError, TypeError):
            return {}
        return found if found.get("finished") else {}

    def train_all(self) -> None:
        """Train what is not finished.

        Raises:
            Interrupted: A signal; the run under way wrote its checkpoint.
        """
        runs = self.plan.runs
        say(f"what each training prints is in {self.folder / LOGS}")
        with StopSignals() as signals:
            for number, run in enumerate(runs, start=1):
                if self.state(run.name) != "finished":
                    self._train(run, f"{number}/{len(runs)} {run.name}", signals)
                if signals.received:
                    raise Interrupted(
                        f"stopped at run {number} of {len(runs)}; go on with the same command: {_without_overwrite()}",
                        signals.received,
                    )
                if not self.keep_checkpoints and self.state(run.name) == "finished":
                    checkpoints.remove_checkpoints(self.folder / run.name)

    def _train(self, run: Run, title: str, signals: StopSignals) -> None:
        log = self.folder / LOGS / f"{run.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        again = (self.folder / run.name).exists()
        say(f"{title}: {'going on' if again else 'training'}")
        started = time.monotonic()
        code = _run_child(self.run_command(run, again), log, signals)
        seconds = time.monotonic() - started
        metrics = self.metrics(run.name)
        if code == 0 and metrics:
            self.failed.pop(run.name, None)
            self._seconds += [] if again else [seconds]
            say(f"{title}: {metrics['eval_bits_per_byte']:.4f} bits per byte, {human_seconds(seconds)}{self._left()}")
        elif not signals.received:
            self.failed[run.name] = {"exit_code": code, "error": _last_words(log, code)}
            warn(f"error: {title}: failed (exit {code}): {self.failed[run.name]['error']}")
        self._save()

    def _left(self) -> str:
        left = sum(self.state(run.name) != "finished" for run in self.plan.runs)
        if not (left and self._seconds):
            return ""
        return f"; about {human_seconds(left * statistics.fmean(self._seconds))} for the {left} left"

    def run_command(self, run: Run, again: bool) -> list[str]:
        """Return the command of one run; `again` goes on from its newest checkpoint, or starts at step 0."""
        flags = [part for key, value in run.overrides.items() for part in ("--set", f"{key}={value_text(value)}")]
        flags += ["--model-name", run.name, "--output-dir", str(self.folder), "--seed", str(run.seed)]
        return [*self.command, *flags, *(["--resume_from_checkpoint"] if again else [])]

    # Results

    def results(self) -> dict[str, Any]:
        """Return what sweep_results.json holds: runs, recipes from best to worst, the best one."""
        runs = [self._run_row(run) for run in self.plan.runs]
        recipes = [self._recipe_row(recipe.name, recipe.overrides, runs) for recipe in self.plan.recipes]
        recipes.sort(key=lambda row: (row["bits_per_byte"] is None, row["bits_per_byte"] or 0.0))
        scored = [row for row in recipes if row["bits_per_byte"] is not None]
        best = next((row for row in scored if row["seeds"] == self.plan.seeds), scored[0] if scored else None)
        return {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command_line(),
            "versions": versions(),
            "name": self.plan.name,
            "keys": list(self.plan.keys),
            "best": best["name"] if best else None,
            "notes": self._notes(runs, scored),
            "recipes": recipes,
            "runs": runs,
        }

    def _run_row(self, run: Run) -> dict[str, Any]:
        metrics = self.metrics(run.name)
        return {
            "name": run.name,
            "path": str(self.folder / run.name),
            "recipe": run.recipe,
            "overrides": run.overrides,
            "seed": run.seed,
            "state": self.state(run.name),
            "bits_per_byte": metrics.get("eval_bits_per_byte"),
            "perplexity": metrics.get("eval_perplexity"),
            "loss": metrics.get("eval_loss"),
            "train_seconds": metrics.get("train_seconds"),
            "train_tokens": metrics.get("train_tokens"),
            "num_parameters": metrics.get("num_parameters"),
            "held_out_fingerprint": metrics.get("held_out_fingerprint"),
            "error": self.failed.get(run.name, {}).get("error"),
        }

    def _recipe_row(self, name: str, overrides: dict[str, Any], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        done = [row for row in runs if row["recipe"] == name and row["bits_per_byte"] is not None]
        bits = [row["bits_per_byte"] for row in done]
        return {
            "name": name,
            "overrides": overrides,
            "bits_per_byte": statistics.fmean(bits) if bits else None,
            "sd": statistics.stdev(bits) if len(bits) > 1 else None,
            "seeds": len(done),
            "train_seconds": statistics.fmean(row["train_seconds"] for row in done) if done else None,
            "num_parameters": done[0]["num_parameters"] if done else None,
            "runs": [row["name"] for row in done],
        }

    def _notes(self, runs: Sequence[dict[str, Any]], scored: Sequence[dict[str, Any]]) -> list[str]:
        notes = [OPTIMISTIC] if len(scored) > 1 else []
        texts = {row["held_out_fingerprint"] for row in runs if row["state"] == "finished"}
        if len(texts) > 1:
            notes.append("the runs were held to different texts: their bits per byte do not compare. Give --eval-path")
        if any(row["state"] == "failed" for row in runs):
            notes.append("recipes with failed seeds are not named best while there is another")
        return notes

    def save_results(self, results: Mapping[str, Any]) -> None:
        """Write sweep_results.json, and its runs as sweep_results.csv."""
        write_json(self.folder / RESULTS, results)
        write_text_atomic(self.folder / TABLE, runs_as_csv(results))


def runs_as_csv(results: Mapping[str, Any]) -> str:
    """Return a row a run, a column a swept key."""
    stream = io.StringIO()
    figures = ("state", "bits_per_byte", "perplexity", "loss", "train_seconds", "train_tokens", "num_parameters")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["name", "recipe", *results["keys"], "seed", *figures])
    for row in results["runs"]:
        values = [value_text(row["overrides"][key]) for key in results["keys"]]
        writer.writerow([row["name"], row["recipe"], *values, row["seed"], *[row[key] for key in figures]])
    return stream.getvalue()


def plan_table(sweep: Sweep) -> TableData:
    """Return the runs in the order of training, with their states."""
    keys = sweep.plan.keys
    rows = tuple(
        (
            str(number),
            run.name,
            *[value_text(run.overrides[key]) for key in keys],
            str(run.seed),
            sweep.state(run.name),
        )
        for number, run in enumerate(sweep.plan.runs, start=1)
    )
    return TableData(sweep.plan.name, ("", "run", *keys, "seed", "state"), rows)


def plan_line(sweep: Sweep) -> str:
    """Return how many runs there are, and how long those left will take where finished ones tell."""
    plan, runs = sweep.plan, sweep.plan.runs
    done = [sweep.metrics(run.name) for run in runs if sweep.state(run.name) == "finished"]
    left = len(runs) - len(done)
    counted = [_count(*pair) for pair in ((len(runs), "run"), (len(plan.recipes), "recipe"), (plan.seeds, "seed"))]
    line = f"{counted[0]}: {counted[1]} x {counted[2]}; {len(done)} finished, {left} left"
    if done and left:
        line += f", about {human_seconds(left * statistics.fmean(m['train_seconds'] for m in done))} of training"
    return line


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def results_table(results: Mapping[str, Any], seeds: int) -> TableData:
    """Return the recipes from best to worst."""
    rows = []
    for place, row in enumerate(results["recipes"], start=1):
        scored = row["bits_per_byte"] is not None
        score = f"{row['bits_per_byte']:.4f}" if scored else DASH
        spread = f" ± {row['sd']:.4f}" if row["sd"] is not None else ""
        rows.append(
            (
                str(place) if scored else "",
                *[value_text(row["overrides"][key]) for key in results["keys"]],
                score + spread,
                f"{row['seeds']} of {seeds}",
                human_seconds(row["train_seconds"]) if scored else DASH,
                human_count(row["num_parameters"]) if scored else DASH,
            )
        )
    head = ("", *results["keys"], "bits per byte (± sd of seeds)", "seeds", "training", "parameters")
    return TableData(f"{results['name']}: held-out text", head, tuple(rows))


def significance(compared: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """From how many others the best recipe differs by the comparison's tests, as a part of a sentence."""
    for metric in compared["metrics"]:
        if metric["name"] == "bits_per_byte" and len(metric["ranking"]) > 1:
            for row in metric["ranking"]:
                if row["name"] in {best["name"], *best["runs"]}:
                    kind = "over seeds" if row["seeds"] > 1 else "one seed each: the seeds' own noise is unknown"
                    return f" (better than {len(row['better_than'])} of {len(metric['ranking']) - 1} others, {kind})"
    return ""


# The child


def _run_child(command: Sequence[str], log: Path, signals: StopSignals) -> int:
    """Run a command to its end, its output added to the log; a signal of ours is passed on once."""
    with log.open("ab") as stream:
        stream.write(f"$ {quoted(*command)}\n".encode())
        stream.flush()
        begin = stream.tell()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
        passed_on = False
        noticed = math.inf
        while True:
            try:
                return child.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                noticed = min(noticed, time.monotonic()) if signals.received else noticed
            if not passed_on and time.monotonic() - noticed > PASSED_ON_AFTER:
                passed_on = True
                if not _has_noticed(log, begin):
                    with suppress(ValueError, OSError):  # Windows passes nothing on: its console told the child as well
                        child.send_signal(signals.received)


def _has_noticed(log: Path, begin: int) -> bool:
    """Return whether a training said that it got a signal (babyllama.training.stop_signals)."""
    return b"finishing the step, then a checkpoint" in log.read_bytes()[begin:]


def _last_words(log: Path, code: int) -> str:
    """Return the line that says why a run ended."""
    if code < 0:
        why = " (the system may have run out of memory)" if -code == getattr(signal, "SIGKILL", 9) else ""
        return f"ended by {signal.Signals(-code).name}{why}"
    lines = log.read_text(errors="replace", encoding="utf-8").split("\n")
    start = max((i for i, line in enumerate(lines) if line.startswith("$ ")), default=0)
    ours = [line for line in lines[start:] if re.match(r"(internal )?error: ", line)]
    return ours[-1].removeprefix("error: ") if ours else "it did not say why"


def _without_overwrite() -> str:
    return command_line().replace(" --overwrite", "")
