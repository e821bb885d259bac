"""How fast a training is, ours against the stock HuggingFace Trainer, in one alternating run.

    python -m tests.speed.train_speed --config config/llama-10M.yaml
    python -m tests.speed.train_speed --config config/gpt-97M.yaml --steps 12 --variants stock,ours --device cuda

Every measurement is a process of its own (allocator, compile state and peak memory belong to a process), the variants
take turns for `--rounds` rounds, and the median of a variant's rounds is shown. All train the same model from the same
seed on the same chunks in the same order:

    stock-fp32   Trainer as it comes, float32, micro-batches of 8
    stock        Trainer with bf16 (float32 where that is slow) and torch_compile, the whole batch at once
    stock-eager  the same, not compiled; `-workers` behind a stock variant gives it 4 loader processes
    ours         this package, AdamW
    ours-muon    this package, the recipe's Muon; `-nograph` behind one of ours: on a GPU its step is not a CUDA graph

`--together` starts all variants at once and lets them take turns once each stands before its timed steps, two windows
each (turns.py): twelve measurements on a GPU then take two minutes instead of eight.

On a GPU the rate is tokens between two synchronised moments, with nothing logged in between but every fiftieth step
(reading the loss makes both sides wait); on a CPU it is the median of single steps. At 10M take 300 steps on a GPU:
36 are a tenth of a second.

`--isa avx2` makes this processor one of most laptops, without bf16 instructions: there, and on one that has none, all
variants compute in float32. `--isa default` leaves it less than AVX2.

Utilisation is model FLOPs (babyllama/models/flops.py) over the rate of a matrix product measured in the same run in the
same precision, or on a GPU over its data sheet's rate. `--profile` shows the operations that take longest; `--curve`
compares the losses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.speed.turns import Turns

VARIANTS = ("stock-fp32", "stock", "ours", "ours-muon")
ISA = {  # what torch's own kernels and oneDNN's may use; both are read when torch is loaded
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
WARM_UP = 8  # steps that are not timed
LOG_EVERY = {"cuda": 50, "cpu": 1}
PROFILED = 5  # steps at the end of a run that takes turns
WORKERS = 4  # loader processes of a stock variant with `-workers`


def matrix_rate(device: str, seconds: float = 2.0) -> float:
    """FLOP/s of a 2,048-wide matrix product (8,192 on a GPU) in bf16, or float32 where that is slow; the best."""
    import torch

    from babyllama.models.runtime import fast_low_precision

    size = 8192 if device.startswith("cuda") else 2048
    a = torch.randn(size, size, device=device, dtype=fast_low_precision(device))
    best, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        for _ in range(4):
            a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - begun))
    return best


def child(spec: dict[str, Any]) -> dict[str, Any]:
    """Train one variant for some steps in this process; its figures."""
    from babyllama.config.loading import load_config
    from babyllama.models.flops import flops_per_token
    from babyllama.models.loading import quiet_libraries
    from babyllama.training.record import peak_memory_bytes
    from babyllama.training.timing.clock import StepClock
    from train import create_model, prepare_data

    quiet_libraries()
    variant = spec["variant"]
    overrides = {"training.max_steps": spec["steps"], "training.device": spec["device"], "model.name": "speed"}
    overrides |= {"training.save_steps": 10**6, "training.eval_steps": 10**6}
    overrides |= {"training.logging_steps": spec.get("log_every") or LOG_EVERY[spec["device"].split(":")[0]]}
    if "muon" not in variant:
        overrides |= {"training.optimizer": "adamw"}
    if "nograph" in variant:
        overrides |= {"training.cuda_graphs": False}
    if spec["compile"]:
        overrides["training.torch_compile"] = spec["compile"]
    if spec["train_path"]:
        overrides["data.train_path"] = spec["train_path"]
    config = load_config(spec["config"], spec["set"], overrides)
    data = prepare_data(config)
    model = create_model(config, data.tokenizer)
    turns = (
        Turns(Path(spec["turns"]["folder"]), spec["turns"]["name"], *spec["turns"]["wait"]) if "turns" in spec else None
    )
    clock = MomentClock(spec["started"], spec["steps"], spec["device"], turns)
    with tempfile.TemporaryDirectory() as folder:
        make = stock_trainer if variant.startswith("stock") else our_trainer
        trainer = make(config, model, data, Path(folder), variant)
        timer = StepClock()
        trainer.add_callback(timer)
        trainer.add_callback(clock)
        if spec["profile"]:
            profile(trainer)
        else:
            trainer.train()
    tokens = config.training.batch_size * config.data.seq_length
    timed = timer.steps[WARM_UP - 4 :] or timer.steps
    step = clock.seconds_per_step() or (statistics.median(timed) if timed else None)
    return {
        "tokens_per_second": tokens / step if step else None,
        "flops_per_token": flops_per_token(model, config.data.seq_length),
        "peak_memory_bytes": peak_memory_bytes(spec["device"]),
        "first_step_seconds": clock.moments.get(1),
        "hundredth_step_seconds": clock.moments.get(100),
        "windows": [tokens / seconds for seconds in clock.windows()],
        "profile": clock.profile,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def MomentClock(  # noqa: N802 - a class made late: --help is quick
    started: float, last: int, device: str, turns: Turns | None = None
) -> Any:
    """A callback that notes when some steps ended.

    Args:
        started: time.time of the command: `moments` are seconds since then at the end of steps 1 and 100.
        last: Last step of the run.
        device: On a GPU the ends of steps WARM_UP and `last` are waited for, and memory is counted from WARM_UP on.
        turns: Take turns with other processes: the first half of the steps in one, the rest in another; the last
            PROFILED of them are not timed, but looked at by torch's profiler.
    """
    import torch
    from transformers import TrainerCallback

    on_gpu = device.startswith("cuda")

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.moments: dict[int, float] = {}
            self.synchronised: list[tuple[int, float]] = []
            self.profile: dict[str, Any] = {}
            self.profiler: Any = None
            self.edges = [WARM_UP, last]
            if turns:
                self.edges = [WARM_UP, WARM_UP + (last - PROFILED - WARM_UP) // 2, last - PROFILED]

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (1, 100):
                self.moments[state.global_step] = time.time() - started
            if state.global_step in self.edges and (on_gpu or turns):
                self.edge(state.global_step)
            if turns and state.global_step == last:
                self.finish_profile()

        def edge(self, step: int) -> None:
            """A window begins, ends, or both; between two of them another process has its turn."""
            if on_gpu:
                torch.cuda.synchronize()
            if on_gpu and step == WARM_UP:
                torch.cuda.reset_peak_memory_stats()
            self.synchronised.append((step, time.perf_counter()))
            if turns is None:
                return
            if step == WARM_UP:
                turns.arrive()
            elif step != self.edges[-1]:
                turns.end()
            if step == self.edges[-1]:
                self.profiler = profiled(PROFILED)
            else:
                turns.begin()
                self.synchronised.append((step, time.perf_counter()))

        def finish_profile(self) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            self.profile = self.profiler()
            turns.end()

        def windows(self) -> list[float]:
            """Seconds a step of each window."""
            pairs = zip(self.synchronised[1::2], self.synchronised[2::2], strict=False) if turns else ()
            return [(ended - begun) / (end - first) for (first, begun), (end, ended) in pairs]

        def seconds_per_step(self) -> float | None:
            """Seconds between the two synchronised moments over the steps between them; None where there are none."""
            if turns:
                return statistics.mean(self.windows()) if self.windows() else None
            if len(self.synchronised) < 2:
                return None
            (first, begun), (end, ended) = self.synchronised
            return (ended - begun) / (end - first)

    return Clock()


def profiled(steps: int) -> Any:
    """Begin to profile; call what comes back to end it: kernel time, launches and waits a step, the longest kernels."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    profiler = torch_profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    profiler.__enter__()
    started = time.perf_counter()

    def end() -> dict[str, Any]:
        seconds = time.perf_counter() - started
        profiler.__exit__(None, None, None)
        averages = profiler.key_averages()
        kernels = {entry.key: getattr(entry, "self_device_time_total", 0) / 1e3 / steps for entry in averages}
        calls = {entry.key: entry.count / steps for entry in averages}
        return {
            "ms a step": 1e3 * seconds / steps,
            "kernel ms a step": sum(kernels.values()),
            "launches a step": sum(n for name, n in calls.items() if "LaunchKernel" in name or "GraphLaunch" in name),
            "synchronisations a step": sum(count for name, count in calls.items() if "Synchronize" in name),
            "longest": sorted(((round(ms, 3), name[:70]) for name, ms in kernels.items()), reverse=True)[:14],
        }

    return end


def our_trainer(config: Any, model: Any, data: Any, folder: Path, variant: str) -> Any:
    """What `train.train` builds."""
    from babyllama.data.packing import packed_datasets
    from babyllama.models import runtime as rt
    from babyllama.training.arguments import count_steps
    from train import build_trainer

    chunks = len(packed_datasets(config, data)[0])
    size = sum(parameter.numel() for parameter in model.parameters())
    runtime = rt.decide(config, total_steps=count_steps(config, chunks).total_steps, num_parameters=size)
    rt.apply(runtime)
    print(runtime.line(), file=sys.stderr)
    return build_trainer(config, model, data, runtime, folder)


def stock_trainer(config: Any, model: Any, data: Any, folder: Path, variant: str) -> Any:
    """HuggingFace's Trainer on the same chunks, as its documentation would have one write it."""
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainingArguments, default_data_collator

    from babyllama.data.packing import packed_datasets
    from babyllama.models.runtime import fast_low_precision
    from babyllama.training.optim import schedule_arguments

    packed, _ = packed_datasets(config, data)

    class Rows(Dataset):
        def __len__(self) -> int:
            return len(packed)

        def __getitem__(self, index: int) -> dict[str, Any]:
            batch = packed.__getitems__([index])
            return {"input_ids": batch["input_ids"][0], "labels": batch["labels"][0]}

    training = config.training
    parts = variant.split("-")
    plain = "fp32" in parts
    micro = min(8, training.batch_size) if plain else training.batch_size // training.gradient_accumulation_steps
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=training.batch_size // micro,
        max_steps=training.max_steps,
        learning_rate=training.lr,
        weight_decay=training.weight_decay,
        adam_beta2=training.adam_beta2,
        adam_epsilon=training.adam_epsilon,
        max_grad_norm=training.max_grad_norm,
        bf16=not plain and str(fast_low_precision(training.device)) == "torch.bfloat16",
        torch_compile=not plain and "eager" not in parts,
        use_cpu=training.device == "cpu",
        seed=training.seed,
        data_seed=training.seed,
        logging_steps=training.logging_steps,
        dataloader_num_workers=WORKERS if "workers" in parts else 0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **schedule_arguments(training, training.max_steps),
    )
    return Trainer(model=model, args=arguments, train_dataset=Rows(), data_collator=default_data_collator)


def profile(trainer: Any) -> None:
    """Train under torch's profiler and print the operations that take longest of themselves."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile
    from transformers import TrainerCallback

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if trainer.args.device.type == "cuda" else [])
    profiler = torch_profile(activities=kinds)

    class Window(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == WARM_UP:
                profiler.__enter__()

    trainer.add_callback(Window())
    trainer.train()
    profiler.__exit__(None, None, None)
    key = "self_cuda_time_total" if len(kinds) > 1 else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=key, row_limit=18, max_name_column_width=46), file=sys.stderr)


def run_child(spec: dict[str, Any]) -> dict[str, Any]:
    """One measurement in its own process."""
    command = [sys.executable, "-m", "tests.speed.train_speed", "--child"]
    environment = os.environ | {"BABYLLAMA_SPEED": json.dumps(spec | {"started": time.time()})}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(done.stdout.rstrip().split("\n")[-1])


def run_together(specs: list[dict[str, Any]], wait: float) -> list[dict[str, Any]]:
    """Measurements in processes that start together and take turns (turns.py), in the order of their specs.

    Args:
        specs: What each child is told.
        wait: Seconds after which those that are ready begin without the others.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for number, spec in enumerate(specs):
            turns = {"folder": folder, "name": str(number), "wait": [len(specs), wait]}
            told = json.dumps(spec | {"turns": turns, "started": time.time()})
            command = [sys.executable, "-m", "tests.speed.train_speed", "--child"]
            environment = os.environ | {"BABYLLAMA_SPEED": told}
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8"))
        said = [process.communicate()[0] for process in started]
    return [json.loads(text.rstrip().split("\n")[-1]) for text in said]


def show(results: dict[str, Any]) -> None:
    """The table."""
    rows = results["variants"]
    print(f"{results['config']}: matrix product {results['matrix_flops'] / 1e9:,.0f} GFLOP/s")
    print(f"{'':<12}{'tokens/s':>10}{'of matrix rate':>16}{'memory':>10}{'1st step':>10}{'100th':>8}")
    for name, row in rows.items():
        hundredth = f"{row['hundredth_step_seconds']:.1f} s" if row["hundredth_step_seconds"] else "-"
        print(
            f"{name:<12}{row['tokens_per_second']:>10,.0f}{100 * row['utilisation']:>15.1f}%"
            f"{row['peak_memory_bytes'] / 1e9:>7.2f} GB{row['first_step_seconds']:>8.1f} s{hundredth:>8}"
        )
    for a in rows:
        if a.startswith("ours"):
            for b in (n for n in rows if n.startswith("stock")):
                print(f"{a} / {b}: {rows[a]['tokens_per_second'] / rows[b]['tokens_per_second']:.2f}")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All variants in turn."""
    spec = {
        "config": args.config,
        "steps": args.steps,
        "device": args.device,
        "set": args.set,
        "compile": args.torch_compile,
        "train_path": args.train_path,
        "profile": args.profile,
        "log_every": args.log_every,
    }
    wanted = args.variants.split(",")
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    rates = [matrix_rate(args.device)]
    if args.together:
        found = run_together([spec | {"variant": name} for name in wanted], args.wait)
        rounds = {name: [row] for name, row in zip(wanted, found, strict=True)}
    for number in range(0 if args.together else args.rounds):
        for name in wanted:
            rounds[name].append(run_child(spec | {"variant": name}))
            print(f"round {number + 1}: {name} {rounds[name][-1]['tokens_per_second']:,.0f} tokens/s", file=sys.stderr)
        rates.append(matrix_rate(args.device))
    peak = statistics.median(rates)
    found = {}
    for name, runs in rounds.items():
        row = {
            key: statistics.median(values) if (values := [r[key] for r in runs if r[key] is not None]) else None
            for key in runs[0]
            if key not in ("losses", "windows", "profile")
        }
        row["utilisation"] = row["tokens_per_second"] * row["flops_per_token"] / peak
        found[name] = row | {"rounds": [r["tokens_per_second"] for r in runs], "losses": runs[-1]["losses"]}
    return {"config": args.config, "device": args.device, "matrix_flops": peak, "variants": found}


def show_curve(variants: dict[str, Any]) -> None:
    """Losses of the variants, a tenth of the run at a time."""
    names = list(variants)
    losses = [variants[name]["losses"] for name in names]
    print("step".rjust(6), *(name.rjust(12) for name in names))
    part = max(1, len(losses[0]) // 10)
    for start in range(0, len(losses[0]), part):
        print(
            str(min(start + part, len(losses[0]))).rjust(6),
            *(f"{statistics.mean(loss[start : start + part]):12.4f}" for loss in losses),
        )


def main() -> int:
    """The command line."""
    if "--child" in sys.argv:
        print("\n" + json.dumps(child(json.loads(os.environ["BABYLLAMA_SPEED"]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="config/llama-10M.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--train-path", help="text; default: the preset's")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--together", action="store_true", help="start all variants at once, on a GPU; they take turns")
    parser.add_argument("--wait", type=float, default=120.0, help="seconds that they wait for each other")
    parser.add_argument("--isa", choices=ISA, help="lower this processor's instruction set, here and in the processes")
    parser.add_argument("--log-every", type=int, help="steps between log entries (default: 1 on a CPU, 50 on a GPU)")
    parser.add_argument("--torch-compile", default="true", help="of ours: auto, true or false")
    parser.add_argument("--profile", action="store_true", help="show the operations that take longest")
    parser.add_argument("--curve", action="store_true", help="compare the losses")
    parser.add_argument("--output", metavar="FILE.json")
    args = parser.parse_args()
    os.environ.update(ISA.get(args.isa, {}))
    results = measure(args)
    show(results)
    if args.curve:
        show_curve(results["variants"])
    if args.output:
        Path(args.output).write_text(json.dumps(results | {"isa": args.isa}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
