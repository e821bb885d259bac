"""Start a real training in a child process, disturb it, resume it, compare the weights."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS, SAVE_EVERY = 30, 3
TIME_LIMIT = 180.0

CONFIG = f"""model: {{type: GPT2, name: run, hidden_size: 32, n_layer: 2, n_head: 2, resid_pdrop: 0.1}}
data: {{vocab_size: 400, seq_length: 32}}
training:
  {{optimizer: muon, lr: 3e-3, batch_size: 8, gradient_accumulation_steps: 2, max_steps: {STEPS},
   save_steps: {SAVE_EVERY}, logging_steps: {SAVE_EVERY}, eval_steps: 15, device: cpu,
   torch_compile: false, bf16: false}}
"""


@dataclass
class Outcome:
    """How a child ended.

    Attributes:
        code: Exit code, negative where a signal ended it.
        seconds: From fork to end.
        output: What it printed on both streams.
        peak_bytes: Peak resident memory.
    """

    code: int
    seconds: float
    output: str
    peak_bytes: int


@dataclass
class Child:
    """A started child."""

    pid: int
    started: float
    log: Path

    def kill_after(self, seconds: float, number: int | None = None) -> None:
        """Send a signal (None: SIGKILL, which Windows' module lacks) after a time, if it still runs then."""
        time.sleep(max(0.0, seconds - (time.monotonic() - self.started)))
        os.kill(
            self.pid, signal.SIGKILL if number is None else number
        )  # not waited for yet, so that the pid is still its own

    def wait(self) -> Outcome:
        """Wait for its end; one that takes too long is killed and counts as failed."""
        timer = threading.Timer(TIME_LIMIT, lambda: os.kill(self.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(self.pid, 0)
        timer.cancel()
        seconds = time.monotonic() - self.started
        output = (
            self.log.read_text(errors="replace", encoding="utf-8") if self.log.exists() else ""
        )  # killed before its first line
        return Outcome(os.waitstatus_to_exitcode(status), seconds, output, usage.ru_maxrss * 1024)


def start(
    command: Callable[[Sequence[str] | None], int],
    arguments: Sequence[str],
    log: Path,
    before: Callable[[], None] | None = None,
) -> Child:
    """Fork and run a command line there.

    Args:
        command: `train.main`, `evaluate.main` or `main.main`.
        arguments: Its arguments.
        log: Gets both streams.
        before: Done in the child first: limits, injected kills.
    """
    from babyllama.common.command import run_command

    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, time.monotonic(), log)
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        import torch

        torch.set_num_threads(1)
        sys.argv = ["train.py", *arguments]
        if before is not None:
            before()
        code = run_command(command, list(arguments))
        for look in atexit_of_child:
            look()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


NEVER_CALLED = "what was to be killed was never called"
atexit_of_child: list[Callable[[], object]] = []  # filled in a child, which looks before it ends by itself


class Bench:
    """A folder with a corpus, a config and the undisturbed run that all others are compared with.

    Args:
        folder: An empty folder.
        overrides: Further `--set` values for every training of this bench.
    """

    def __init__(self, folder: Path, overrides: Sequence[str] = ()) -> None:
        import train

        self.folder = folder
        self.command = train.main
        self.overrides = [part for item in overrides for part in ("--set", item)]
        self._count = 0
        self.text = folder / "text"
        self.text.mkdir(parents=True)
        lines = [
            f"The {a} {b} the {c}." for a in "dog cat girl man".split() for b in ("saw", "met") for c in "abcdefgh"
        ]
        (self.text / "small.train").write_text("\n".join(lines * 12) + "\n", encoding="utf-8")
        (self.text / "small.dev").write_text("\n".join(lines[::5]) + "\n", encoding="utf-8")
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG, encoding="utf-8")
        self.reference_dir = folder / "reference"
        self.reference = self.run(self.reference_dir)
        if self.reference.code:
            raise SystemExit(f"the undisturbed run failed:\n{self.reference.output}")
        self.weights = weights(self.reference_dir)
        self.reference = self.run(folder / "timed")  # now with a warm cache: the times that kills are drawn from

    def arguments(self, output: Path, *more: str) -> list[str]:
        """Arguments of `train.py` for a run under `output`."""
        usual = {"--config": self.config, "--train-path": self.text, "--output-dir": output}
        given = [part for flag, value in usual.items() if flag not in more for part in (flag, str(value))]
        return [*given, *self.overrides, *more]

    def start(self, output: Path, *more: str, before: Callable[[], None] | None = None) -> Child:
        """Start a training."""
        self._count += 1
        log = self.folder / f"log-{self._count}.txt"
        return start(self.command, self.arguments(output, *more), log, before)

    def run(self, output: Path, *more: str, before: Callable[[], None] | None = None) -> Outcome:
        """Start a training and wait for its end."""
        return self.start(output, *more, before=before).wait()

    def resume(self, output: Path, before: Callable[[], None] | None = None) -> Outcome:
        """Go on to the end."""
        return self.run(output, "--resume_from_checkpoint", before=before)

    def same(self, output: Path) -> bool:
        """Whether a run ended with the undisturbed run's weights."""
        return weights(output) == self.weights


def weights(output: Path) -> str | None:
    """SHA-256 of the saved weights of `output`/run, None where there are none."""
    path = output / "run" / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def not_killed(outcome: Outcome) -> str:
    """Return how a child ended that was to be killed; nothing where it was, or had come to its end before."""
    if outcome.code in {-9, 0} and NEVER_CALLED not in outcome.output:
        return ""
    return f"not killed: exit {outcome.code}: {outcome.output.strip().splitlines()[-1:]}"


def start_again(bench: Bench, output: Path, *more: str, before: Callable[[], None] | None = None) -> str:
    """Give the command of a finished run a second time; "" where it says so with exit 0 and touches nothing.

    Args:
        bench: The bench.
        output: Folder that holds the finished run.
        *more: Arguments of the first command.
        before: Done in the child first.
    """
    files = {path: path.read_bytes() for path in (output / "run").rglob("*") if path.is_file()}
    again = bench.run(output, *more, before=before)
    if again.code:
        return f"second start: exit {again.code}: {again.output[-300:]}"
    now = {path: path.read_bytes() for path in (output / "run").rglob("*") if path.is_file()}
    changed = sorted(path.name for path in {**files, **now} if files.get(path) != now.get(path))
    return f"second start: it wrote {changed}" if changed else ""


def kill_inside(owner: Any, name: str, call: int, delay: float) -> Callable[[], None]:
    """Make the child kill itself `delay` seconds after the `call`-th call of `owner.name` began.

    Args:
        owner: Module or class.
        name: Its function.
        call: Counted from 1.
        delay: Seconds; may fall behind the function's end.

    Raises:
        AttributeError: There is no such function. Raised here and not in the child, whose end by an error would look
            like one by the kill: after a renaming, a hundred kills never happened and passed.
    """
    original = getattr(owner, name)

    def inject() -> None:
        calls = 0

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)
        atexit_of_child.append(lambda: calls >= call or os.write(2, NEVER_CALLED.encode()))

    return inject
