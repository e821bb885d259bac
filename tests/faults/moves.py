"""What changes under a run: memory that ends, another processor under its checkpoint, two runs on one cache."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.harness import SAVE_EVERY, STEPS, Bench, kill_inside, start_again

FEWER = 2  # sequences that the injected GPU's memory holds; the bench's micro-batches have 4
# What makes torch's kernels, oneDNN's products and our own decisions those of a processor without bf16.
OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
AUTO = ("--set", "training.bf16=auto", "--set", "training.muon_adamw_lr=2e-3")
MOVED = "this machine cannot compute as the checkpoint did"


def out_of_memory(stop_at: int | None) -> Callable[[], None]:
    """Make the child's training refuse micro-batches of more than `FEWER`, and kill itself at a step."""

    def inject() -> None:
        import torch

        from babyllama.training import out_of_memory as parts
        from babyllama.training.trainer import BabyTrainer

        real = BabyTrainer.training_step

        def step(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            if len(inputs["input_ids"]) > FEWER:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if self.state.global_step == stop_at:
                os.kill(os.getpid(), 9)
            return real(self, model, inputs, *rest, **more)

        BabyTrainer.training_step = step
        parts.halves_by_itself = lambda runtime: True  # no GPU here

    return inject


def halved(bench: Bench, output: Path, source: random.Random) -> str:
    """Out of GPU memory at step 0, parts halved, killed, resumed where memory is short and where it is not, again."""
    stop_at = source.randrange(SAVE_EVERY + 1, STEPS)
    killed = bench.run(output, before=out_of_memory(stop_at))
    if killed.code != -9 or "going on with" not in killed.output:
        return f"exit {killed.code}: {killed.output[-200:]}"
    refused = bench.run(output)  # the same command without the flag that goes on
    if refused.code != 2 or "--resume_from_checkpoint" not in refused.output:
        return f"the same command: exit {refused.code}: {refused.output[-200:]}"
    done = bench.resume(output, before=out_of_memory(None) if source.random() < 0.5 else None)
    if done.code or "as the checkpoint's run came to" not in done.output:
        return f"exit {done.code}: {done.output[-200:]}"
    return start_again(bench, output)


def on(processor: dict[str, str], then: Callable[[], None] | None = None) -> Callable[[], None]:
    """Make the child compute as another processor would, and whatever `then` does besides."""

    def inject() -> None:
        os.environ.update(processor)
        if then is not None:
            then()

    return inject


def moved(first: dict[str, str], second: dict[str, str]) -> Callable[[Bench, Path, random.Random], str]:
    """Return a trial: killed on one processor, gone on with on another, and the same command once more on the first."""

    def trial(bench: Bench, output: Path, source: random.Random) -> str:
        from babyllama.models.runtime import cpu_has_bf16
        from babyllama.training import checkpoints

        saves = source.randint(1, STEPS // SAVE_EVERY - 1)
        killed = bench.run(output, *AUTO, before=on(first, kill_inside(checkpoints, "commit", saves + 1, 0.0)))
        if killed.code != -9:
            return f"not killed: exit {killed.code}: {killed.output[-300:]}"
        done = bench.run(output, *AUTO, "--resume_from_checkpoint", before=on(second))
        if done.code:
            return f"exit {done.code}: {done.output[-300:]}"
        told = MOVED in done.output
        if told != (cpu_has_bf16() and not first and bool(second)):
            return f"it says {'' if told else 'not '}that it computes otherwise: {done.output[-300:]}"
        if not first and not second and not _same_as_unmoved(bench, output):
            return "other weights"
        return start_again(bench, output, *AUTO, before=on(first))

    trial.__doc__ = f"From a processor {_named(first)} to one {_named(second)}."
    return trial


def _named(processor: dict[str, str]) -> str:
    return "with AVX2" if processor else "as it is"


def _same_as_unmoved(bench: Bench, output: Path) -> bool:
    from tests.faults.harness import weights

    unmoved = bench.folder / "unmoved"
    if not unmoved.exists():
        bench.run(unmoved, *AUTO)
    return weights(output) == weights(unmoved)


def shared_cache(bench: Bench, output: Path, source: random.Random) -> str:
    """Two runs start together on an empty cache; in every other trial one is killed while it fills it."""
    cache = output / "cache"
    empty = on({"BABYLLAMA_CACHE": str(cache)})
    output.mkdir()
    one, two = bench.start(output / "one", before=empty), bench.start(output / "two", before=empty)
    killed = source.random() < 0.5
    if killed:
        one.kill_after(source.uniform(0.1, 0.6) * bench.reference.seconds)
    ended = {"one": one.wait(), "two": two.wait()}
    if killed:
        ended["one"] = bench.run(output / "one", "--resume_from_checkpoint", before=empty)
    for name, found in ended.items():
        if found.code or not bench.same(output / name):
            return f"{name}: exit {found.code}: {found.output[-300:]}"
    left = [path.name for path in cache.rglob("*") if path.name.endswith((".building", ".tmp"))]
    shutil.rmtree(cache)
    return f"left behind: {left}" if left else ""


MOVES: dict[str, Callable[[Bench, Path, random.Random], str]] = {
    "out of memory, halved, killed": halved,
    "checkpoint stays on this processor": moved({}, {}),
    "checkpoint moved to a processor without bf16": moved({}, OLDER),
    "checkpoint moved from a processor without bf16": moved(OLDER, {}),
    "cache shared by two runs that start together": shared_cache,
}
"""Fault -> trial(bench, folder of its own, random source) -> "" or what went wrong."""
