"""Nothing runs at a hundredth of the speed on a processor without bf16 instructions: quick start, trainings, scores.

`ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` make this machine one with AVX2 only, or with less. There a bf16 product
runs at 0.8 GFLOP/s (0.6 with less), in float32 at 38 (27; one thread of a Zen 4). Every part below computes 60 GFLOP or
more: seconds in float32, and in bf16 more than its limit. All parts share one process, which is this file as a module.
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
LIMIT = 30.0  # seconds of one part; in float32 1 to 8 on one busy core, in bf16 the first took 55, the scores XX
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
        """Three steps of 16 x 128 tokens, 256 wide: 6 x 1.6M parameters x 6,144 tokens = 60 GFLOP, and Muon's 17."""
        config = config_for(text, folder, kind, name=f"{kind}{len(more)}", bf16="auto", optimizer="muon", max_steps=3)
        config.model = config.model.model_copy(update={"hidden_size": 256, "n_head": 4})
        config.data = config.data.model_copy(update={"seq_length": 128})
        config.training = config.training.model_copy(update={"batch_size": 16, "save_steps": None, "eval_steps": None})
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


def child(folder: Path, wanted: list[str]) -> None:
    """Run the parts and print a line of JSON for each."""
    found = parts(folder)
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
    rows = [json.loads(line) for line in done.stdout.split("\n") if line.startswith('{"part"')]
    assert [row["part"] for row in rows] == wanted
    for row in rows:
        assert row["seconds"] < LIMIT, row
        if row["runtime"]:
            assert row["runtime"]["precision"] == row["runtime"]["muon_precision"] == "fp32"


if __name__ == "__main__":
    child(Path(sys.argv[1]), sys.argv[2:])
