"""Nothing runs at a hundredth of the speed on a processor without bf16 instructions: quick start, trainings, scores.

`ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` make this machine one with AVX2 only, or with less. There a bf16 product
runs at about 2 GFLOP/s, in float32 at 90 (one thread of a Zen 4). A part below computes 60 GFLOP or more: seconds in
float32, and in bf16 more than its limit. All parts share one process, which is this file as a module.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.speed.train_speed import ISA

ROOT = Path(__file__).resolve().parents[2]
LIMIT, RATE = 25.0, 90e9  # seconds of one part where a float32 product runs at this rate; slower machines get more
KINDS = ("Llama", "GPT2", "GPTJ")


def parts(folder: Path) -> dict[str, Callable[[], dict[str, Any] | None]]:
    """What is computed, by name; each returns the runtime that it recorded."""
    import main
    from babyllama.common.files import read_json
    from babyllama.config.schema import DistillationConfig
    from babyllama.evaluation.minimal_pairs import Pair, evaluate_pairs
    from evaluate import ModelEvaluator
    from tests.runs import config_for, corpus
    from train import train

    text = corpus(folder / "text")

    def training(kind: str, **more: Any) -> dict[str, Any]:
        """Three steps of 32 x 128 tokens, 256 wide: 6 x 1.6M parameters x 12,288 tokens = 120 GFLOP, and Muon's 17."""
        config = config_for(text, folder, kind, name=f"{kind}{len(more)}", bf16="auto", optimizer="muon", max_steps=3)
        config.model = config.model.model_copy(update={"hidden_size": 256, "n_head": 4})
        config.data = config.data.model_copy(update={"seq_length": 128})
        config.training = config.training.model_copy(update={"batch_size": 32, "save_steps": None, "eval_steps": None})
        config.distillation = more.get("distillation")
        return train(config).metrics["runtime"]

    def quick_start() -> dict[str, Any]:
        flags = ["--max-steps", "3", "--output-dir", str(folder), "--set", "model.n_layer=1"]
        assert main.main([*flags, "--set", "data.synthetic_words=3000", "--set", "data.eval_samples=8"]) == 0
        return read_json(folder / "Llama-10M" / "training_metrics.json")["runtime"]

    def scores() -> None:
        evaluator = ModelEvaluator(folder / "Llama0", device="cpu")
        pairs = [Pair("order", str(n), f"The dog ran to house {n}.", f"House {n} ran dog the to.") for n in range(5000)]
        evaluator.run(["perplexity", "generation"])
        evaluate_pairs(evaluator.model, evaluator.tokenizer, pairs, screen=True)

    def distillation() -> dict[str, Any]:
        return training("Llama", distillation=DistillationConfig(teachers=[str(folder / "GPT20")]))

    trainings = {kind: (lambda kind=kind: training(kind)) for kind in KINDS}
    return {**trainings, "scores": scores, "distillation": distillation, "quick start": quick_start}


def float32_rate() -> float:
    """FLOP/s of a product in seconds of the processor."""
    import torch

    matrix = torch.randn(1024, 1024)
    matrix @ matrix
    begun = time.process_time()
    for _ in range(10):
        matrix @ matrix
    return 10 * 2 * 1024**3 / (time.process_time() - begun)


def child(folder: Path, wanted: list[str]) -> None:
    """Run the parts and print a line of JSON for each."""
    found = parts(folder)
    print(json.dumps({"rate": float32_rate()}))
    for name in wanted:
        begun = time.process_time()
        runtime = found[name]()
        print(json.dumps({"part": name, "seconds": time.process_time() - begun, "runtime": runtime}), flush=True)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("lowered", "wanted"),
    [
        pytest.param(ISA["avx2"], [*KINDS, "scores", "distillation", "quick start"], id="avx2"),
        pytest.param(ISA["default"], ["Llama", "scores"], id="default"),
    ],
)
def test_no_part_is_slow_without_bf16_instructions(lowered: dict[str, str], wanted: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, **lowered, "BABYLLAMA_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-m", "tests.pipeline.test_lowered_instructions", str(tmp_path), *wanted]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.split("\n") if line.startswith(('{"rate"', '{"part"'))]
    limit = LIMIT * max(1.0, RATE / rows.pop(0)["rate"])
    assert [row["part"] for row in rows] == wanted
    for row in rows:
        assert row["seconds"] < limit, row
        if row["runtime"]:
            assert row["runtime"]["precision"] == row["runtime"]["muon_precision"] == "fp32"


if __name__ == "__main__":
    child(Path(sys.argv[1]), sys.argv[2:])
