"""A golden loss curve for each architecture: a change that moves the numbers of a training is seen here.

Twenty steps of a tiny model in float32 on a small text. The curves were made with torch 2.13 on a
processor with AVX-512; another machine's rounding moves them by about 1e-4, which the tolerance of 2e-3 allows.
To make them again: `python -m tests.pipeline.test_golden`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from babyllama.pages.run_page import read_log
from tests.runs import config_for, corpus
from train import train

pytestmark = pytest.mark.integration

CURVES: dict[str, list[float]] = {
    "Llama": [5.743, 5.2299, 4.8401, 4.592, 4.5021],
    "GPT2": [5.712, 5.2353, 4.8367, 4.5795, 4.5058],
    "GPTJ": [5.6884, 5.1223, 4.7359, 4.4792, 4.3957],
}


def curve(kind: str, folder: Path) -> list[float]:
    """The logged loss of every fourth step of twenty."""
    text = corpus(folder / "text", 400)
    config = config_for(text, folder / "out", kind, max_steps=20, logging_steps=4, save_steps=20, eval_steps=20, seed=1)
    run = train(config).run_dir
    return [round(entry["loss"], 4) for entry in read_log(run / "log_history.jsonl") if "loss" in entry]


@pytest.mark.parametrize("kind", CURVES)
def test_the_loss_curve_is_the_golden_one(kind: str, tmp_path: Path) -> None:
    assert curve(kind, tmp_path) == pytest.approx(CURVES[kind], abs=2e-3)


if __name__ == "__main__":
    for name in ("Llama", "GPT2", "GPTJ"):
        with tempfile.TemporaryDirectory() as place:
            print(f'    "{name}": {curve(name, Path(place))},')
