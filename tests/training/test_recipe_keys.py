"""The keys of a recipe in real trainings: exact resumes, averages, cooldown branches, and nothing changed where off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.common.files import read_json
from babyllama.config.fingerprint import training_fingerprint
from babyllama.config.loading import load_config
from babyllama.config.schema import Config
from babyllama.pages.run_page import read_log
from babyllama.training.checkpoints import checkpoint_bytes
from babyllama.training.recipes.averages import decay_at
from tests.runs import config_for, corpus, weights
from train import train

pytestmark = pytest.mark.integration

ALL_ON = {
    "training.optimizer": "muon",
    "training.lr_scheduler": "wsd",
    "training.embedding_weight_decay": 0.01,
    "training.cautious_weight_decay": True,
    "training.ema_decay": [0.5, 0.9],
    "training.average_epochs": 2,
    "training.keep": "ema",
    "model.resid_pdrop": 0.1,
    "model.unique_layers": 1,
    "data.start_length": 16,
    "data.start_share": 0.4,
    "data.input_noise": 0.1,
    "data.reshuffle_documents": True,
    "data.segment_tokens": [8, 24],
    "data.segment_share": 0.5,
    "data.spelling": "sentence",
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six documents of so little text that 12 steps are two epochs or more."""
    folder = corpus(tmp_path_factory.mktemp("text") / "small", sentences=24)
    lines = (folder / "small.train").read_text(encoding="utf-8").splitlines()
    parts = ["\n".join(lines[start : start + 4]) for start in range(0, 24, 4)]
    (folder / "small.train").write_text("\n<|endoftext|>\n".join(parts) + "\n", encoding="utf-8")
    return folder


def changed(config: Config, keys: dict[str, Any]) -> Config:
    plain = config.model_dump()
    for key, value in keys.items():
        section, name = key.split(".")
        plain[section][name] = value
    return Config(**plain)


def as_if_killed(run: Path, after: int = 12) -> None:
    """A finished run as it stood behind an earlier checkpoint."""
    shutil.rmtree(run / f"checkpoint-{after}")
    for name in ("model.safetensors", "training_metrics.json"):
        (run / name).unlink()


LINES = {key: value for key, value in ALL_ON.items() if "segment" not in key} | {"data.chunk_start": "line"}


@pytest.mark.parametrize("keys", [ALL_ON, LINES], ids=["segments", "lines"])
def test_with_every_key_on_a_resumed_run_has_the_bits_of_the_unbroken_one(
    keys: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    recipe = {"save_words": [100, 300]}
    done = train(changed(config_for(text, tmp_path, name="whole", **recipe), keys))
    whole = done.run_dir
    assert read_log(whole / "log_history.jsonl")[-1]["epoch"] > 1.5
    config = changed(config_for(text, tmp_path, name="resumed", **recipe), keys)
    resumed = train(config).run_dir
    assert weights(whole) == weights(resumed)
    as_if_killed(resumed)
    averages = ("ema_0.5", "ema_0.9", "mean_2_epochs")
    for name in averages:
        shutil.rmtree(resumed / name)
    again = train(config, resume=True)
    assert weights(whole) == weights(resumed)
    for name in (*averages, "chck_100", "chck_300"):
        assert weights(whole / name) == weights(resumed / name), name
    kept = {name for name in averages if weights(whole / name) == weights(whole)}
    assert kept == {entry["name"] for entry in done.metrics["averages"] if entry["kept"]}
    assert len(kept) == 1
    assert again.metrics["averages"] == done.metrics["averages"]


CHANGES = ALL_ON | LINES


@pytest.mark.parametrize("key", [key for key in CHANGES if key not in {"training.optimizer", "training.lr_scheduler"}])
def test_each_key_changes_the_weights(key: str, text: Path, tmp_path: Path, plain_weights: str) -> None:
    keys = {key: CHANGES[key]}
    if key == "training.keep":
        keys["training.ema_decay"] = 0.9
    if key == "data.segment_share":
        keys["data.segment_tokens"] = [8, 24]
    if key == "data.start_share":
        keys["data.start_length"] = 16
    if key == "data.spelling":
        text = tmp_path / "text"
        text.mkdir()
        (text / "childes.train").write_text("is that a bird ?\nit's a lamb .\na pig .\n" * 60, encoding="utf-8")
        plain_weights = weights(train(config_for(text, tmp_path, name="plain", max_steps=8)).run_dir)
    run = train(changed(config_for(text, tmp_path, max_steps=8), keys)).run_dir
    watching = {"training.ema_decay", "training.average_epochs"}
    assert (weights(run) == plain_weights) == (key in watching), "averages alone watch and change nothing"


@pytest.fixture(scope="module")
def plain_weights(text: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return weights(train(config_for(text, tmp_path_factory.mktemp("plain"), max_steps=8)).run_dir)


def test_older_checkpoints_lack_the_keys_and_are_still_resumed() -> None:
    plain = Config(model={"type": "Llama"})
    names = {key.split(".")[1] for key in CHANGES} - {"optimizer", "lr_scheduler", "resid_pdrop"}
    assert not {key for key in training_fingerprint(plain, "d", "t") if key.split(".")[-1] in names}
    found = training_fingerprint(changed(plain, CHANGES), "d", "t")
    assert {key.split(".")[-1] for key in found} >= names - {"keep"}


def test_an_average_is_the_recursion_of_its_definition(text: Path, tmp_path: Path) -> None:
    config = config_for(text, tmp_path, save_steps=1, logging_steps=1, max_steps=3, save_total_limit=9, ema_decay=0.5)
    run = train(config).run_dir
    import train as pipeline

    start = pipeline.create_model(config, pipeline.prepare_data(config).tokenizer)
    average = {name: p.detach().double() for name, p in start.named_parameters()}
    for step in (1, 2, 3):
        now, decay = load_file(run / f"checkpoint-{step}/model.safetensors"), decay_at(0.5, step)
        average = {n: decay * a + (1 - decay) * now[n].double() for n, a in average.items()}
    saved = load_file(run / "ema_0.5/model.safetensors")
    assert all(torch.allclose(saved[n].double(), average[n], atol=1e-6) for n in average)


def test_a_mean_of_epochs_is_the_mean_of_the_weights_at_their_ends(text: Path, tmp_path: Path) -> None:
    keys = {"save_steps": 1, "logging_steps": 1, "save_total_limit": 99, "average_epochs": 3, "num_epochs": 3}
    done = train(config_for(text, tmp_path, max_steps=None, batch_size=4, **keys))
    last = done.metrics["global_step"]
    ends = [last // 3, 2 * last // 3, last]
    entry = done.metrics["averages"][0]
    assert (entry["name"], entry["steps"], entry["kept"]) == ("mean_3_epochs", ends, False)
    saved = load_file(done.run_dir / "mean_3_epochs/model.safetensors")
    points = [load_file(done.run_dir / f"checkpoint-{step}/model.safetensors") for step in ends]
    for name, tensor in saved.items():
        assert torch.allclose(tensor.double(), sum(point[name].double() for point in points) / 3, atol=1e-6)


def test_a_mean_whose_places_moved_is_left_out_of_a_longer_run(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(config_for(text, tmp_path, max_steps=4, average_epochs=2)).run_dir
    (run / "training_metrics.json").unlink()
    longer = train(config_for(text, tmp_path, max_steps=5, average_epochs=2), resume=True)
    assert "this length wants" in capsys.readouterr().out
    assert longer.metrics["averages"][0]["steps"] == [5]


def test_an_average_is_a_model_that_evaluate_loads_and_overwrite_removes(text: Path, tmp_path: Path) -> None:
    from evaluate import ModelEvaluator

    run = train(config_for(text, tmp_path, max_steps=4, ema_decay="0.9")).run_dir
    found = ModelEvaluator(run / "ema_0.9", "cpu").run(["perplexity"])
    recorded = read_json(run / "training_metrics.json")["averages"]
    assert [entry["eval_bits_per_byte"] for entry in recorded] == [pytest.approx(found["bits_per_byte"], abs=1e-6)]
    train(config_for(text, tmp_path, max_steps=5), overwrite=True)
    assert not (run / "ema_0.9").exists()


@pytest.mark.parametrize(
    ("model", "keys"),
    [({}, {}), ({"unique_layers": 1}, {}), ({"unique_layers": 1}, {"ema_decay": [0.5, 0.9], "average_epochs": 2})],
    ids=["plain", "shared layers", "shared layers and three averages"],
)
def test_the_room_that_is_asked_for_is_what_a_checkpoint_takes(
    text: Path, tmp_path: Path, model: dict[str, Any], keys: dict[str, Any]
) -> None:
    import train as pipeline

    config = changed(config_for(text, tmp_path, max_steps=2, save_steps=2, **keys), {"model.n_layer": 4})
    config = changed(config, {f"model.{key}": value for key, value in model.items()})
    asked = checkpoint_bytes(pipeline.create_model(config, pipeline.prepare_data(config).tokenizer), config.training)
    folder = train(config).run_dir / "checkpoint-2"
    files = ("model.safetensors", "optimizer.pt", "weight_averages.safetensors")
    taken = sum((folder / name).stat().st_size for name in files if (folder / name).exists())
    assert taken == pytest.approx(asked, rel=0.1)


def test_a_branch_goes_on_from_the_trunk_and_decays_to_zero(text: Path, tmp_path: Path) -> None:
    recipe = {"warmup_steps": 2, "logging_steps": 1, "save_total_limit": 9}
    trunk = train(config_for(text, tmp_path, name="trunk", lr_scheduler="constant", **recipe)).run_dir
    decaying = {"lr_scheduler": "wsd", "decay_from": str(trunk / "checkpoint-4"), "max_steps": 8, "save_steps": 2}
    config = config_for(text, tmp_path, name="branch", **{**recipe, **decaying})
    branch = train(config).run_dir
    rates = {e["step"]: e["learning_rate"] for e in read_log(branch / "log_history.jsonl") if "learning_rate" in e}
    assert rates[4] == pytest.approx(3e-3)
    assert [rates[step] / 3e-3 for step in (6, 7, 8)] == pytest.approx([0.75, 0.5, 0.25], abs=0.26)
    assert rates[5] >= rates[6] > rates[7] > rates[8]
    before = weights(branch)
    shutil.rmtree(branch / "checkpoint-8")
    for name in ("model.safetensors", "training_metrics.json"):
        (branch / name).unlink()
    train(config, resume=True)
    assert weights(branch) == before, "a resumed branch goes on from its own checkpoint"
    file = trunk / "checkpoint-4" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        train(config_for(text, tmp_path, name="another branch", **{**recipe, **decaying}))


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"decay_from": "nowhere/checkpoint-3"}, CheckpointError, "not a whole checkpoint"),
        ({"lr": 1e-3}, ConfigError, "training.lr: 0.003 -> 0.001"),
        ({"max_steps": 4}, ConfigError, "count from the trunk's beginning"),
    ],
)
def test_a_branch_that_cannot_be_says_why(
    keys: dict[str, Any], error: type[Exception], said: str, text: Path, tmp_path: Path
) -> None:
    trunk = train(config_for(text, tmp_path, name="trunk", lr_scheduler="constant", max_steps=4)).run_dir
    recipe = {"lr_scheduler": "wsd", "decay_from": str(trunk / "checkpoint-4"), "max_steps": 8, **keys}
    with pytest.raises(error, match=said):
        train(config_for(text, tmp_path, name="branch", **recipe))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("training.keep", "ema", "there is no average"),
        ("training.average_epochs", 3, "more than the run has"),
        ("training.ema_decay", 1.5, "above 0 and below 1"),
        ("data.segment_tokens", [20, 500], "to seq_length 128"),
        ("data.start_length", 48, "a part of seq_length 128 that divides it"),
        ("model.unique_layers", 9, "more than there are"),
        ("training.decay_from", "x/checkpoint-1", "a cooldown decays"),
    ],
)
def test_keys_that_do_not_fit_are_told_at_the_start(key: str, value: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    section, name = key.split(".")
    more = f", {name}: {value}}}" if section == "model" else f"}}\n{section}: {{{name}: {value}}}"
    path.write_text(f"model: {{type: Llama{more}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_config(path)
