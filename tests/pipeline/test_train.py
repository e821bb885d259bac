"""Real trainings of tiny models on a small text: the run folder, determinism, resume, faults of the recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import train as train_module
from babyllama import plugins
from babyllama.common.errors import CheckpointError, ConfigError, NumericError
from babyllama.common.files import read_json
from babyllama.config.loading import load_config
from babyllama.config.schema import Config
from babyllama.pages.run_page import read_log
from babyllama.training import out_of_memory
from babyllama.training.arguments import count_steps
from babyllama.training.out_of_memory import OutOfMemory
from babyllama.training.record import final_train_loss
from tests.runs import config_for, corpus, weights
from train import create_model, train

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small")


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_for(text, tmp_path_factory.mktemp("models"))).run_dir


def test_the_run_folder_holds_what_it_should(finished: Path) -> None:
    for name in (
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "training_config.yaml"),
        *("training_metrics.json", "log_history.jsonl", "README.md", "checkpoint-12", "checkpoint-8"),
    ):
        assert (finished / name).exists(), name
    assert not list(finished.rglob("*.bin")), "no pickle is left"
    metrics = read_json(finished / "training_metrics.json")
    assert metrics["global_step"] == 12
    assert metrics["finished"] is True
    assert 0 < metrics["eval_bits_per_byte"] < 8
    assert metrics["eval_documents"] > 0
    assert metrics["runtime"]["precision"] == "fp32"
    assert metrics["train_tokens"] > 0
    assert "trained from scratch with BabyLlama" in (finished / "README.md").read_text(encoding="utf-8")


def test_the_loss_goes_down_and_the_log_says_when(finished: Path) -> None:
    log = [json.loads(line) for line in (finished / "log_history.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0] - 0.5
    assert [entry["step"] for entry in log if "valid_loss" in entry] == [6, 12]
    assert all({"tokens", "words", "seconds", "epoch"} <= set(entry) for entry in log)
    assert log[-1]["tokens"] == read_json(finished / "training_metrics.json")["train_tokens"]


def test_it_loads_in_a_process_without_our_code(finished: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1]); t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "assert not any(n.startswith('babyllama') for n in sys.modules)\n"
        "x = t('The dog ran to the river', return_tensors='pt')\n"
        "print(x['input_ids'].tolist(), round(float(m(**x).logits.sum()), 3))"
    )
    command = [sys.executable, "-c", code, str(finished)]
    told = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, cwd=tmp_path).stdout
    from babyllama.models.loading import load_model, load_tokenizer_of

    ids = load_tokenizer_of(finished)("The dog ran to the river", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        total = round(float(load_model(finished)(ids).logits.sum()), 3)
    assert told.strip() == f"{ids.tolist()} {total}"


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        ("Llama", {"optimizer": "muon", "lr_scheduler": "wsd", "gradient_accumulation_steps": 2}),
        ("GPT2", {}),
        ("GPTJ", {"bf16": True}),
    ],
)
def test_same_seed_same_bits_and_a_resume_equals_the_uninterrupted_run(
    kind: str, training: dict[str, Any], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(config_for(text, tmp_path, kind, "whole", **training)).run_dir
    resumed = config_for(text, tmp_path, kind, "resumed", **training)
    resumed_dir = train(resumed).run_dir
    assert weights(whole) == weights(resumed_dir)
    for name in ("model.safetensors", "training_metrics.json"):
        (resumed_dir / name).unlink()
    import shutil

    shutil.rmtree(resumed_dir / "checkpoint-12")
    again = train(resumed, resume=True)
    assert "resuming from checkpoint-8" in capsys.readouterr().out
    assert weights(again.run_dir) == weights(whole)
    assert again.metrics["global_step"] == 12
    logs = [(run / "log_history.jsonl").read_text(encoding="utf-8").splitlines() for run in (whole, again.run_dir)]
    curves = [[(e["step"], e.get("loss"), e.get("valid_loss")) for e in map(json.loads, lines)] for lines in logs]
    assert curves[0] == curves[1]


def test_a_kill_after_the_last_checkpoint_trains_no_step_more(text: Path, tmp_path: Path) -> None:
    """The process dies between the last checkpoint and the saved model: the resume takes the checkpoint as it is."""
    config = config_for(text, tmp_path)
    run = train(config).run_dir
    before, log = weights(run), read_log(run / "log_history.jsonl")
    for name in ("training_metrics.json", "model.safetensors", "log_history.jsonl"):
        (run / name).unlink()
    result = train(config, resume=True)
    assert not result.already_finished
    assert weights(run) == before
    assert not (run / "checkpoint-13").exists()
    assert read_log(run / "log_history.jsonl") == log
    assert result.metrics["global_step"] == 12
    assert result.metrics["tokens_per_second"] > 0


def test_another_seed_gives_other_bits(text: Path, tmp_path: Path) -> None:
    seven, again, eight = (
        weights(train(config_for(text, tmp_path, name=name, seed=seed, max_steps=2)).run_dir)
        for name, seed in (("seven", 7), ("again", 7), ("eight", 8))
    )
    assert seven == again != eight


def test_the_same_command_again_says_so_and_writes_nothing(text: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    result = train(config_for(text, finished.parent))
    assert result.already_finished
    assert result.metrics["global_step"] == 12
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_another_recipe_in_the_same_folder_is_refused(text: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.lr"):
        train(config_for(text, finished.parent, lr=1e-4))


def test_resuming_with_another_recipe_names_what_differs(text: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.weight_decay: 0\.1 -> 0\.3"):
        train(config_for(text, finished.parent, weight_decay=0.3), resume=True)


def test_a_damaged_checkpoint_named_by_path_is_exit_3(text: Path, tmp_path: Path) -> None:
    config = config_for(text, tmp_path, max_steps=8)
    run = train(config).run_dir
    (run / "training_metrics.json").unlink()
    (run / "checkpoint-8" / "optimizer.pt").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt"):
        train(config, resume=str(run / "checkpoint-8"))


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(text: Path, tmp_path: Path) -> None:
    config = config_for(text, tmp_path, lr=9.0, max_grad_norm=0, weight_decay=0.0, warmup_steps=0, max_steps=200)
    config.training.adam_epsilon = 1e-30
    config.plugins = [str(_exploding_plugin(tmp_path))]
    config.model.type = "Exploding"
    with pytest.raises(NumericError, match="no checkpoint had been written"):
        train(config)
    plugins.ARCHITECTURES.pop("Exploding")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def _exploding_plugin(folder: Path) -> Path:
    """An architecture of the user's own whose weights are so large that the loss overflows."""
    file = folder / "exploding.py"
    file.write_text(
        "import torch\nfrom babyllama.models.architectures import build_model\n"
        "from babyllama.plugins import register_architecture\n"
        "def build(config, tokenizer):\n"
        "    config.model.type = 'GPT2'\n    model = build_model(config, tokenizer)\n"
        "    with torch.no_grad():\n        model.get_output_embeddings().weight.mul_(1e38)\n"
        "    return model\nregister_architecture('Exploding', build)\n",
        encoding="utf-8",
    )
    return file


def test_keep_best_saves_the_weights_of_the_best_point(text: Path, tmp_path: Path) -> None:
    config = config_for(text, tmp_path, keep="best", max_steps=16, eval_steps=4, lr=0.3, warmup_steps=0.5)
    result = train(config)
    best = result.metrics["best_step"]
    kept = result.run_dir / f"checkpoint-{best}"
    assert kept.is_dir()
    from safetensors.torch import load_file

    saved, chosen = load_file(result.run_dir / "model.safetensors"), load_file(kept / "model.safetensors")
    assert all(torch.equal(saved[name], chosen[name]) for name in chosen)


def test_init_from_goes_on_with_a_checkpoints_weights_and_tokenizer(text: Path, finished: Path, tmp_path: Path) -> None:
    config = config_for(text, tmp_path, max_steps=1, lr=1e-9, warmup_steps=0)
    config.model.init_from = str(finished)
    result = train(config)
    old = read_json(finished / "training_metrics.json")["eval_loss"]
    assert result.metrics["eval_loss"] == pytest.approx(old, abs=0.01)


def test_the_seed_makes_the_model(tiny_tokenizer: Any) -> None:
    config = Config(model={"type": "Llama", "hidden_size": 32, "n_layer": 1}, training={"seed": 3})
    one, two = (create_model(config, tiny_tokenizer).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_epochs_become_steps() -> None:
    config = Config(model={"type": "Llama"}, training={"batch_size": 8, "num_epochs": 2.5})
    plan = count_steps(config, chunks=80)
    assert (plan.total_steps, plan.steps_per_epoch, plan.micro_batch) == (25, 10, 8)
    assert plan.save_steps % plan.logging_steps == 0
    with pytest.raises(ConfigError, match="it divides by"):
        count_steps(config, chunks=80, world_size=3)


def test_the_final_training_loss_weighs_entries_by_their_steps() -> None:
    assert final_train_loss([]) is None
    assert final_train_loss([{"step": 2, "loss": 3.0}, {"step": 2, "valid_loss": 9}, {"step": 4, "loss": 1.0}]) == 2.0


def test_the_resolved_config_is_saved_with_the_run(text: Path, finished: Path) -> None:
    saved = load_config(finished / "training_config.yaml")
    assert saved.training.lr == 3e-3
    assert saved.data.train_path == str(text)


def test_wandb_offline_keeps_its_id_and_never_stops_a_training(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from babyllama.training.live.wandb_log import project_name, wandb_mode

    monkeypatch.setenv("WANDB_MODE", "offline")
    config = config_for(text, tmp_path, max_steps=2)
    config.logging.wandb = True
    config.logging.report_to = ["tensorboard"]
    run = train(config).run_dir
    assert "wandb: offline (WANDB_MODE)" in capsys.readouterr().out
    assert (run / "wandb_id.txt").read_text(encoding="utf-8").strip()
    assert list((run / "wandb").glob("offline-run-*"))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert wandb_mode()[0] in {"offline", "online"}
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert project_name(config) == "mine"
    config.logging.project = "yours"
    assert project_name(config) == "yours"


def _hungry(rows: int) -> Any:
    """A Llama that needs too much memory for more than `rows` sequences at once."""

    def build(config: Config, tokenizer: Any) -> Any:
        from babyllama.models.architectures import build_model

        model = build_model(
            config.model_copy(update={"model": config.model.model_copy(update={"type": "Llama"})}), tokenizer
        )

        def refuse(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            if module.training and keywords["input_ids"].shape[0] > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

        model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
        return model

    return build


def test_out_of_memory_on_a_cpu_says_what_to_set(text: Path, tmp_path: Path) -> None:
    plugins.register_architecture("Hungry", _hungry(2))
    with pytest.raises(OutOfMemory, match=r"gradient_accumulation_steps: 2 \(micro-batches of 4\)"):
        train(config_for(text, tmp_path, "Hungry"))


def test_out_of_memory_on_a_gpu_halves_the_micro_batch(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch stays 8: 8, then 4, then 2 at a time; the weights are those of a run that was told so."""
    monkeypatch.setattr(out_of_memory, "halves_by_itself", lambda device: True)  # no GPU here
    plugins.register_architecture("Hungry", _hungry(2))
    (tmp_path / "plugin.py").write_text(
        "", encoding="utf-8"
    )  # the type is registered here; the config only has to name a plugin
    config = config_for(text, tmp_path, "Hungry", name="halved")
    config.plugins = [str(tmp_path / "plugin.py")]
    run = train(config).run_dir
    assert capsys.readouterr().out.count("going on with") == 2
    assert config.training.gradient_accumulation_steps == 4
    told = config_for(text, tmp_path, "Hungry", name="told", gradient_accumulation_steps=4)
    told.plugins = config.plugins
    assert weights(run) == weights(train(told).run_dir)


def test_out_of_memory_while_the_model_moves_to_the_gpu_is_met_as_well(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Trainer moves the model (and teachers) before the first step: there, too, the parts are halved."""
    monkeypatch.setattr(out_of_memory, "halves_by_itself", lambda device: True)  # no GPU here
    build, calls = train_module.build_trainer, []

    def short(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("CUDA error: out of memory")
        return build(*arguments)

    monkeypatch.setattr(train_module, "build_trainer", short)
    config = config_for(text, tmp_path, max_steps=4)
    result = train(config)
    assert "going on with training.gradient_accumulation_steps: 2" in capsys.readouterr().out
    assert (config.training.gradient_accumulation_steps, result.metrics["global_step"]) == (2, 4)


def test_a_compiler_that_fails_costs_the_speed_and_not_the_run(text: Path, tmp_path: Path) -> None:
    """A g++ that is there and cannot compile: one line, and the same weights as a run that was never compiled."""
    import os

    from babyllama.config.loading import save_config

    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\necho broken >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    config = config_for(text, tmp_path / "models", max_steps=4, torch_compile=True)
    save_config(config, tmp_path / "run.yaml")
    environment = os.environ | {"CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    command = [sys.executable, "train.py", "--config", str(tmp_path / "run.yaml")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "going on without compiling" in done.stdout
    assert read_json(tmp_path / "models/run/training_metrics.json")["runtime"]["compile"] == "off"
    eager = train(config_for(text, tmp_path, name="eager", max_steps=4, attention="plain")).run_dir
    assert weights(tmp_path / "models/run") == weights(eager)  # everything else of the decision stays


def test_a_score_that_does_not_fit_goes_on_smaller_and_then_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tiny_run: Path, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from babyllama.data.documents import Document
    from babyllama.evaluation import perplexity

    load, asked = perplexity.load_model, []

    def loading(folder: Any, device: str) -> Any:
        asked.append(device)
        if device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(folder, device)

    monkeypatch.setattr(perplexity, "load_model", loading)
    config = Config(model={"type": "Llama"}, data={"seq_length": 32})
    documents = [Document("The dog ran to the old house.", "x")]
    found = perplexity.score_checkpoint(config, tiny_tokenizer, documents, tiny_run, device="cuda")
    assert asked == ["cuda", "cuda", "cpu"]
    assert "going on with 8,192 tokens at once on cpu" in capsys.readouterr().out
    assert found == perplexity.score_checkpoint(config, tiny_tokenizer, documents, tiny_run, device="cpu")
