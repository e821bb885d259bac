"""Processes that end at the worst moment: kill -9 anywhere, signals, a full disk, a second run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from babyllama.training.stop_signals import STUCK
from tests.faults.harness import SAVE_EVERY, STEPS, Bench, Outcome, kill_inside, not_killed, start_again

SAVES = STEPS // SAVE_EVERY
SAVING_SECONDS = 0.25  # longest save seen with its manifest, with room to spare


def _finish(bench: Bench, output: Path, random_source: random.Random, second_kill: bool) -> str:
    """Resume, perhaps killed once more, and start again; "" where the weights stay the undisturbed run's."""
    if second_kill:
        child = bench.start(output, "--resume_from_checkpoint")
        child.kill_after(random_source.uniform(0, bench.reference.seconds))
        if problem := not_killed(child.wait()):
            return problem
    done = bench.resume(output)
    if done.code:
        return f"exit {done.code}: {done.output.strip().splitlines()[-1:]}"
    if not bench.same(output):
        return "other weights"
    left = [path.name for path in (output / "run").glob("*.tmp")]
    return f"left behind: {left}" if left else start_again(bench, output)


def kill_in_training(bench: Bench, output: Path, source: random.Random) -> str:
    """kill -9 at a random moment of the whole run; every other trial is killed again while it resumes."""
    child = bench.start(output)
    child.kill_after(source.uniform(0.05, 1) * bench.reference.seconds)
    if problem := not_killed(child.wait()):
        return problem
    return _finish(bench, output, source, second_kill=source.random() < 0.5)


def kill_in_saving(bench: Bench, output: Path, source: random.Random) -> str:
    """kill -9 at a random moment of a random save: files, manifest, rotation."""
    from babyllama.training.trainer import BabyTrainer

    inject = kill_inside(BabyTrainer, "_save_checkpoint", source.randint(1, SAVES), source.uniform(0, SAVING_SECONDS))
    if problem := not_killed(bench.run(output, before=inject)):
        return problem
    return _finish(bench, output, source, second_kill=source.random() < 0.5)


def kill_in_rotation(bench: Bench, output: Path, source: random.Random) -> str:
    """kill -9 while an old checkpoint is removed."""
    from babyllama.training import checkpoints

    inject = kill_inside(checkpoints, "remove_checkpoint", source.randint(1, SAVES - 2), source.uniform(0, 0.004))
    killed = bench.run(output, before=inject)
    if killed.code != -9:  # one removal is left in the run behind the last that is drawn
        return not_killed(killed) or "not killed: it had ended"
    return _finish(bench, output, source, second_kill=False)


def kill_in_resuming(bench: Bench, output: Path, source: random.Random) -> str:
    """Killed in training, then killed twice before or soon after the first resumed step."""
    child = bench.start(output)
    child.kill_after(source.uniform(0.5, 0.9) * bench.reference.seconds)
    problem = not_killed(child.wait())
    for _ in range(2):
        child = bench.start(output, "--resume_from_checkpoint")
        child.kill_after(source.uniform(0, 0.6) * bench.reference.seconds)
        problem = problem or not_killed(child.wait())
    if problem:
        return problem
    return _finish(bench, output, source, second_kill=False)


def kill_at_the_end(bench: Bench, output: Path, source: random.Random) -> str:
    """kill -9 between the last checkpoint and the finished run folder."""
    import train

    if problem := not_killed(bench.run(output, before=kill_inside(train, "save_and_score", 1, source.uniform(0, 0.3)))):
        return problem
    return _finish(bench, output, source, second_kill=False)


def signalled(number: int, times: int) -> Callable[[Bench, Path, random.Random], str]:
    def trial(bench: Bench, output: Path, source: random.Random) -> str:
        child = bench.start(output)
        at = source.uniform(0.4, 0.8) * bench.reference.seconds
        for n in range(times):
            child.kill_after(at + 0.001 * n, number)
        ended = child.wait()
        if ended.code == 0:  # it was quicker than the signal
            return start_again(bench, output) if bench.same(output) else "other weights"
        if ended.code not in (128 + number, -number):
            return f"exit {ended.code}: {ended.output[-200:]}"
        # In the training it is noted: a checkpoint of that very step. Before it nothing listens yet.
        in_training = re.search(r"step \d+/|finishing the step", ended.output) is not None
        if times == 1 and in_training and (problem := _no_checkpoint_at_the_signal(output, ended, number)):
            return problem
        if times == 2 and in_training and ended.seconds - at > 2 * STUCK:
            return f"the second one took {ended.seconds - at:.1f} s"
        return _finish(bench, output, source, second_kill=False)

    name = signal.Signals(number).name
    trial.__doc__ = f"{name} {'once: a checkpoint' if times == 1 else 'twice: at once'}, exit {128 + number}, resumed."
    return trial


def _no_checkpoint_at_the_signal(output: Path, ended: Outcome, number: int) -> str:
    """Return what is missing of a training that was told once to stop: its code, the command, the checkpoint."""
    from babyllama.training.checkpoints import checkpoint_folders, is_complete

    stopped = re.search(r"stopped at step (\d+) with a checkpoint; go on with: ", ended.output)
    if ended.code != 128 + number or not stopped:
        return f"exit {ended.code} without a checkpoint and a command: {ended.output[-200:]}"
    whole = [folder.name for folder in checkpoint_folders(output / "run") if is_complete(folder)]
    return "" if f"checkpoint-{stopped[1]}" in whole else f"no checkpoint of step {stopped[1]}: {whole}"


def disk_full(bench: Bench, output: Path, source: random.Random) -> str:
    """No file may grow beyond a limit (RLIMIT_FSIZE): exit 5 and one line, then resumed without the limit."""

    def limit() -> None:
        import resource  # Windows has none

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = source.choice([20_000, 60_000, 110_000])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    ended = bench.run(output, before=limit)
    if ended.code != 5 or "disk is full" not in ended.output:
        return f"exit {ended.code}: {ended.output[-200:]}"
    return _finish(bench, output, source, second_kill=False)


def second_run(bench: Bench, output: Path, source: random.Random) -> str:
    """A second training in the same folder while the first holds it: exit 2, the first is named and not disturbed."""
    first = bench.start(output)
    while not (output / "run" / ".lock_owner").exists():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    second = bench.run(output)
    os.kill(first.pid, signal.SIGCONT)
    ended = first.wait()
    if second.code != 2 or f"process {first.pid}" not in second.output:
        return f"the second: exit {second.code}: {second.output[-200:]}"
    done = ended.code == 0 and bench.same(output)
    return start_again(bench, output) if done else f"the first: exit {ended.code}"


def copy_of(source: Path, target: Path) -> Path:
    """A copy of a run's output folder for one trial."""
    return Path(shutil.copytree(source, target))


KILLS: dict[str, Callable[[Bench, Path, random.Random], str]] = {
    "kill -9 in training": kill_in_training,
    "kill -9 in saving": kill_in_saving,
    "kill -9 in rotation": kill_in_rotation,
    "kill -9 in resuming, twice": kill_in_resuming,
    "kill -9 at the end": kill_at_the_end,
    "SIGTERM once": signalled(signal.SIGTERM, 1),
    "SIGTERM twice": signalled(signal.SIGTERM, 2),
    "Ctrl-C once": signalled(signal.SIGINT, 1),
    "Ctrl-C twice": signalled(signal.SIGINT, 2),
    "disk full": disk_full,
    "second run in the folder": second_run,
}
"""Fault -> trial(bench, folder of its own, random source) -> "" or what went wrong."""
