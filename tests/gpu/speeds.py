"""Tokens per second of a preset, ours and the stock Trainer; five steps under the profiler; pairs and generation.

The training itself is that of tests/speed/train_speed.py. One variant is one row, so that a cut command keeps what it
has, and variants alternate because rounds are rows, too.
"""

from __future__ import annotations

import time
from typing import Any

from tests.gpu.environment import product_rate
from tests.gpu.rows import Report, Spec
from tests.gpu.runs import ROOT, command, configuration, trainer_of

QUICK_SET = (
    *("data.synthetic_words=3000", "data.seq_length=32", "data.vocab_size=300", "training.batch_size=4"),
    *("model.hidden_size=32", "model.n_layer=2", "model.n_head=2", "model.intermediate_size=64"),
)


def training_spec(spec: Spec, steps: int) -> dict[str, Any]:
    """What `tests.speed.train_speed.child` is told."""
    options = spec.options
    micro = [] if spec.quick else ["training.gradient_accumulation_steps=1"]  # the preset's batch in one part
    return {
        "variant": options["variant"],
        "steps": 12 if spec.quick else steps,
        "device": spec.device,
        "set": list(QUICK_SET) if spec.quick else micro,
        "compile": "false" if spec.quick else "true",
        "train_path": None,
        "profile": False,
        "config": str(ROOT / "config" / f"{options['config']}.yaml"),
        "started": time.time(),
    }


def speed(spec: Spec) -> Report:
    """One variant of one preset."""
    from tests.speed.train_speed import child

    if spec.quick and spec.options["variant"].startswith("stock"):
        train_eagerly()
    found = child(training_spec(spec, spec.options["steps"]))
    figures = {"tokens_per_second": found["tokens_per_second"], "first_step_seconds": found["first_step_seconds"]}
    figures["quick"] = spec.quick
    rate = found["tokens_per_second"] * found["flops_per_token"]
    if spec.cuda:
        import torch

        from babyllama.models.flops import known_peak

        peak = known_peak(spec.device, "bf16")
        figures["mfu"] = rate / peak if peak else None
        figures["of_product_rate"] = rate / product_rate(spec.device, torch.bfloat16, 8192, 1.0)
        figures["peak_allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
        figures["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
    report = Report(figures)
    report.expect(found["tokens_per_second"] > 0, "no step was timed")
    report.expect(
        found["losses"][-1] < found["losses"][0] + 0.5, f"losses {found['losses'][:1]} ... {found['losses'][-1:]}"
    )
    return report


def train_eagerly() -> None:
    """Let the stock Trainer's torch.compile do nothing: compiling is not what a quick run is about."""
    import torch

    torch.compiler.set_stance("force_eager")


def profile(spec: Spec) -> Report:
    """Kernel time over wall time, launches and synchronisations a step, from five steps under the profiler."""
    from tests.speed import train_speed

    found: dict[str, Any] = {}
    make_ours, make_stock = train_speed.our_trainer, train_speed.stock_trainer

    def watched(make: Any) -> Any:
        def build(*arguments: Any) -> Any:
            trainer = make(*arguments)
            trainer.add_callback(window(found))
            return trainer

        return build

    train_speed.our_trainer, train_speed.stock_trainer = watched(make_ours), watched(make_stock)
    train_speed.child(training_spec(spec, steps=30))
    longest = [f"{name[:60]} {milliseconds:.2f} ms" for milliseconds, name in found.pop("longest")[:8]]
    return Report({"kernel time / wall": found["kernel ms a step"] / found["ms a step"], **found}, notes=longest)


def window(found: dict[str, Any]) -> Any:
    """A callback that profiles five steps from the twentieth on, waiting for the card at both ends."""
    import torch
    from transformers import TrainerCallback

    from tests.speed.train_speed import PROFILED, profiled

    class Window(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (20, 20 + PROFILED):
                torch.cuda.synchronize()
            if state.global_step == 20:
                self.end = profiled(PROFILED)
            elif state.global_step == 20 + PROFILED:
                found.update(self.end())

    return Window()


def blimp(spec: Spec) -> Report:
    """Seconds of the whole command on 67,000 pairs, by the small checkpoint of the data folder."""
    checkpoint, pairs = spec.data / "checkpoints" / "stories260K-hf", spec.data / "evals" / "blimp"
    if not (checkpoint.is_dir() and pairs.is_dir()):
        return Report(skipped="no checkpoint or no BLiMP in --data")
    started = time.monotonic()
    arguments = [str(checkpoint), "--minimal-pairs", str(pairs), "--tasks", "minimal_pairs", "--device", spec.device]
    log = spec.scratch / "log.txt"
    done = command("evaluate.py", *arguments, "--output", str(spec.scratch / "scored"), limit=280, log=log)
    report = Report({"seconds": time.monotonic() - started})
    report.expect(done.returncode == 0, f"exit {done.returncode}: {done.stdout[-300:]}")
    return report


def generation(spec: Spec) -> Report:
    """Tokens per second at batch 1 and larger of an untrained llama-10M."""
    from babyllama.evaluation.generation_speed import generation_speed

    config = configuration(spec)
    if not spec.quick:
        config.model.hidden_size, config.model.n_layer, config.model.n_head = 192, 6, 6
    trainer = trainer_of(config)
    model = trainer.model.eval().to(spec.device)
    found = generation_speed(model, window=config.data.seq_length)
    flat = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return Report(flat)
