"""Damaged and hostile files: every file of a checkpoint, the tokenizer, the cache, pickles that would run code."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from tests.faults.harness import Bench, start, start_again

KINDS = ("missing", "truncated", "bit flipped")


def stopped_run(bench: Bench) -> Path:
    """The output folder of a run that was killed with several whole checkpoints; made once a bench."""
    target = bench.folder / "stopped"
    if not target.exists():
        from babyllama.training import checkpoints
        from tests.faults.harness import kill_inside

        killed = bench.run(target, before=kill_inside(checkpoints, "commit", 5, 0.0))
        again = bench.resume(target, before=kill_inside(checkpoints, "commit", 2, 0.0))
        assert killed.code == again.code == -9, killed.output + again.output
    return target


def newest(output: Path) -> Path:
    """The newest whole checkpoint of a run."""
    from babyllama.training.checkpoints import checkpoint_folders, is_complete

    return [folder for folder in checkpoint_folders(output / "run") if is_complete(folder)][-1]


def damage(path: Path, kind: str, source: random.Random) -> None:
    """Spoil one file."""
    if kind == "missing":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(content[: source.randrange(len(content))])
        return
    content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    path.write_bytes(content)


def checkpoint_files(bench: Bench) -> list[str]:
    """Names of the files of a checkpoint."""
    folder = newest(stopped_run(bench))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def damaged_checkpoint(name: str, kind: str) -> Callable[[Bench, Path, random.Random], str]:
    """A trial: one file of the newest checkpoint is spoiled; the older one is used, or exit 3 names the file."""

    def trial(bench: Bench, output: Path, source: random.Random) -> str:
        shutil.copytree(stopped_run(bench), output)
        damage(newest(output) / name, kind, source)
        done = bench.resume(output)
        if done.code == 3:
            again = bench.resume(output)  # refused alike
            told = Path(name).name in done.output and (again.code, again.output) == (3, done.output)
            return "" if told else f"exit 3, then {again.code}: {done.output[-200:]}{again.output[-200:]}"
        if done.code:
            return f"exit {done.code}: {done.output[-200:]}"
        if "set aside" not in done.output:
            return "silent"
        return start_again(bench, output) if bench.same(output) else "other weights"

    return trial


def damaged_cache(bench: Bench, output: Path, source: random.Random) -> str:
    """A file of the prepared tokens or of the cached tokenizer is spoiled: built anew, the same weights."""
    cache = Path(os.environ["BABYLLAMA_CACHE"])
    files = [p for part in ("tokens", "tokenizers") for p in (cache / part).rglob("*") if p.is_file()]
    damage(source.choice(files), source.choice(KINDS), source)
    done = bench.run(output)
    if done.code:
        return f"exit {done.code}: {done.output[-200:]}"
    return start_again(bench, output) if bench.same(output) else "other weights"


def poisoned_weights(bench: Bench, output: Path, source: random.Random) -> str:
    """A model whose weights hold a NaN: exit 3, said in one line."""
    import evaluate

    run = Path(shutil.copytree(bench.reference_dir / "run", output))
    from safetensors.torch import load_file, save_file

    weights = load_file(run / "model.safetensors")
    weights[source.choice(sorted(weights))].view(-1)[0] = float("nan")
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})
    done = start(evaluate.main, [str(run), "--tasks", "perplexity"], output / "log.txt").wait()
    return "" if done.code == 3 and "not finite" in done.output else f"exit {done.code}: {done.output[-200:]}"


class _Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def pickle_payload(name: str) -> Callable[[Bench, Path, random.Random], str]:
    """A trial: a file of the checkpoint is a pickle that runs code, and the manifest vouches for it."""

    def trial(bench: Bench, output: Path, source: random.Random) -> str:
        import evaluate
        from babyllama.training import checkpoints

        shutil.copytree(stopped_run(bench), output)
        folder, marker = newest(output), output / "code_was_run"
        extra = checkpoints.manifest_extra(folder)
        torch.save(_Payload(marker), folder / name)
        if source.random() < 0.5:
            (folder / name).write_bytes(pickle.dumps(_Payload(marker)))
        checkpoints.commit(folder, extra)
        bench.resume(output)
        start(evaluate.main, [str(folder), "--tasks", "perplexity"], output / "log.txt").wait()
        return "code was run" if marker.exists() else ""

    return trial


PICKLES = (
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "pytorch_model.bin",
    "model.safetensors",
)


def damage_table(bench: Bench) -> dict[str, Callable[[Bench, Path, random.Random], str]]:
    """Fault -> trial."""
    found = {f"{name} {kind}": damaged_checkpoint(name, kind) for name in checkpoint_files(bench) for kind in KINDS}
    found |= {f"pickle in {name}": pickle_payload(name) for name in PICKLES}
    return found | {"cache or tokenizer damaged": damaged_cache, "poisoned weights": poisoned_weights}
