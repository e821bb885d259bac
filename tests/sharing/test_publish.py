"""Publishing to a hub on 127.0.0.1 that keeps its state: what arrives, what a second run sends, what a kill leaves."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.common.files import read_json, write_json
from babyllama.sharing.hub import Hub, HubError, publish_branches
from babyllama.sharing.hub_files import PublishedFile, branches, without_local_paths
from babyllama.sharing.model_index import eval_results
from tests.sharing.hub_server import TOKEN, HubServer

ROOT = Path(__file__).resolve().parents[2]
MILESTONES = [f"chck_{n}M" for n in (*range(1, 11), *range(20, 101, 10))]  # BabyLM strict: 19 branches
REPOSITORY = "my-lab/tiny"
RESULTS = {
    "eval_data": "the run's held-out set",
    "perplexity": 6.859472913847123,
    "perplexity_ci": [6.801, 6.9123456789012345],
    "bits_per_byte": 0.7190000000000001,
    "bits_per_byte_ci": [0.7139, 0.7242],
    "average_loss": 1.925628374650192,
    "average_loss_ci": [1.91, 1.94],
    "num_documents": 411,
    "total_tokens": 50123,
    "total_bytes": 133700,
    "window": 32,
    "minimal_pairs": {"blimp": {"accuracy": 0.6123456789, "accuracy_ci": [0.59, 0.63], "num_pairs": 67000, "ties": 7}},
    "completion": {"accuracy": 0.0, "accuracy_ci": [0.0, 0.01], "num_items": 300},
}


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.close()


@pytest.fixture(scope="module")
def run_dir(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 19 milestones, its records, and what must never be published."""
    from babyllama.config.loading import save_config
    from babyllama.config.schema import Config

    folder = tmp_path_factory.mktemp("lab") / "Tiny"
    shutil.copytree(tiny_run, folder)
    save_config(Config(model={"type": "Llama"}, data={"train_path": "synthetic"}), folder / "training_config.yaml")
    write_json(folder / "evaluation_results.json", RESULTS | {"checkpoint": str(folder), "command": "python x.py"})
    write_json(folder / "training_metrics.json", {"eval_loss": 1.5, "command": f"python {Path.home()}/x.py"})
    (folder / "README.md").write_text(
        "---\nlibrary_name: transformers\nlicense: mit\n---\n\n# Tiny\n\nWritten by its owner.\n\n"
        'model = AutoModelForCausalLM.from_pretrained("PATH")\n',
        encoding="utf-8",
    )
    for place in (folder / "checkpoint-10", folder / "gguf"):
        place.mkdir()
    for secret in ("checkpoint-10/optimizer.pt", "training_args.bin", "optimizer.pt", "notes.md", ".env", "x.pkl"):
        (folder / secret).write_bytes(b"not for others")
    for number, name in enumerate(MILESTONES, start=1):
        shutil.copytree(tiny_run, folder / name)
        facts = {"schema_version": 1, "name": name, "target": number * 1000, "step": number, "words": number * 1001}
        write_json(folder / name / "milestone.json", facts)
        weights = folder / name / "model.safetensors"  # another model each: one byte of the last weight
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([number]))
    return folder


def _publish(server: HubServer, folder: Path) -> tuple[int, list[str]]:
    hub, lines = Hub(REPOSITORY, server.url), []
    hub.create(private=True)
    return publish_branches(hub, branches(folder, REPOSITORY), lines.append), lines


def _main(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "main.py", "publish", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.integration
def test_all_branches_arrive_with_weights_tokenizer_card_and_records_only(hub_server: HubServer, run_dir: Path) -> None:
    uploaded, lines = _publish(hub_server, run_dir)

    repository = hub_server.repositories[REPOSITORY]
    assert repository.private
    assert set(repository.branches) == {"main", *MILESTONES}
    assert len(lines) == 20
    assert uploaded == len(hub_server.uploaded) == sum(len(b.files) for b in branches(run_dir, REPOSITORY))
    for name in MILESTONES:
        files = repository.files(name)
        assert files["model.safetensors"] == (run_dir / name / "model.safetensors").read_bytes()
        assert "evaluation_results.json" not in files, "a milestone's branch has no figures of the final model"
        assert f'revision="{name}"' in files["README.md"].decode()
    everything = {path for _, path in hub_server.uploaded}
    assert everything <= {
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("README.md", "training_config.yaml", "training_metrics.json", "evaluation_results.json", "milestone.json"),
    }


@pytest.mark.integration
def test_a_second_run_uploads_nothing_and_a_changed_file_alone_is_sent(
    hub_server: HubServer, run_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Tiny"
    shutil.copytree(run_dir, folder)
    _publish(hub_server, folder)
    commits = len(hub_server.repositories[REPOSITORY].commits)
    assert _publish(hub_server, folder)[0] == 0
    assert len(hub_server.repositories[REPOSITORY].commits) == commits, "no empty commits"

    weights = folder / "chck_3M" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x77")
    hub_server.uploaded.clear()
    assert _publish(hub_server, folder)[0] == 1
    assert hub_server.uploaded == [("chck_3M", "model.safetensors")]


@pytest.mark.integration
def test_weights_of_an_earlier_publication_do_not_stay_beside_the_new_ones(
    hub_server: HubServer, tiny_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Tiny"
    shutil.copytree(tiny_run, folder)
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in shards:
        shutil.copyfile(folder / "model.safetensors", folder / name)
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": {}})
    _publish(hub_server, folder)
    repository = hub_server.repositories[REPOSITORY]
    assert set(shards) <= set(repository.files("main"))
    owners = {"notes.md": b"the owner's", "onnx/config.json": b"{}"}
    repository.files("main").update(owners)

    shutil.copyfile(folder / shards[0], folder / "model.safetensors")
    for name in (*shards, "model.safetensors.index.json"):
        (folder / name).unlink()
    commits = len(repository.commits)
    uploaded, lines = _publish(hub_server, folder)
    files = repository.files("main")
    assert uploaded == 1
    assert "model.safetensors" in files
    assert not {*shards, "model.safetensors.index.json"} & set(files), "transformers would read the shards"
    assert {name: files[name] for name in owners} == owners
    assert len(repository.commits) == commits + 1, "one commit, so that no reader finds a model without weights"
    assert lines[0].endswith(
        f"; removed, of an earlier publication: {', '.join([*shards, 'model.safetensors.index.json'])}"
    )
    assert _publish(hub_server, folder) == (0, [f"main: 0 of {len(files) - 3} files uploaded, all were there"])


@pytest.mark.integration
def test_the_card_has_every_figure_to_the_last_digit_and_keeps_what_its_owner_wrote(
    hub_server: HubServer, run_dir: Path
) -> None:
    _publish(hub_server, run_dir)
    card = hub_server.repositories[REPOSITORY].files("main")["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "mit"
    assert "Written by its owner." in card
    assert f'from_pretrained("{REPOSITORY}")' in card
    (index,) = head["model-index"]
    assert index["name"] == "tiny"
    found = {
        (result["dataset"]["name"], metric["type"]): (metric["value"], metric["args"]["confidence_interval_95"])
        for result in index["results"]
        for metric in result["metrics"]
    }
    pairs, completion = RESULTS["minimal_pairs"]["blimp"], RESULTS["completion"]
    held_out = "held-out text of synthetic"
    assert found == {
        (held_out, "perplexity"): (RESULTS["perplexity"], RESULTS["perplexity_ci"]),
        (held_out, "bits_per_byte"): (RESULTS["bits_per_byte"], RESULTS["bits_per_byte_ci"]),
        (held_out, "loss"): (RESULTS["average_loss"], RESULTS["average_loss_ci"]),
        ("minimal pairs: blimp", "accuracy"): (pairs["accuracy"], pairs["accuracy_ci"]),
        ("last words of held-out sentences of synthetic", "accuracy"): (
            completion["accuracy"],
            completion["accuracy_ci"],
        ),
    }


@pytest.mark.integration
def test_killed_between_two_branches_it_goes_on(hub_server: HubServer, run_dir: Path) -> None:
    """The process is killed when it asks for the sixth branch; the same command brings what is missing, no more."""
    reached, dead = threading.Event(), threading.Event()

    def stop(method: str, path: str) -> None:
        if method == "POST" and path.endswith("/branch/chck_6M") and not dead.is_set():
            reached.set()
            dead.wait(60)

    hub_server.before = stop
    command = [sys.executable, "main.py", "publish", str(run_dir), REPOSITORY]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert reached.wait(120)
    process.kill()
    process.wait()
    dead.set()
    done = {branch for branch, _ in hub_server.uploaded}
    assert done == {"main", *MILESTONES[:5]}
    first = list(hub_server.uploaded)

    second = _main(str(run_dir), REPOSITORY)
    assert second.returncode == 0, second.stderr
    again = hub_server.uploaded[len(first) :]
    assert {branch for branch, _ in again} == set(MILESTONES[5:])
    assert len(set(hub_server.uploaded)) == len(hub_server.uploaded), "no file twice"
    assert "main: 0 of" in second.stdout
    assert TOKEN not in second.stdout + second.stderr


@pytest.mark.integration
def test_large_files_go_through_lfs_once(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git-lfs's basic transfer, which the hub uses for whoever has no Xet."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    server = HubServer(lfs=True)
    try:
        _publish(server, run_dir)
        weights = (run_dir / "chck_1M" / "model.safetensors").read_bytes()
        assert server.large[hashlib.sha256(weights).hexdigest()] == weights
        assert len(server.large) == 20
        sent = len([path for method, path in server.requests if method == "PUT"])
        assert sent == 20
        assert _publish(server, run_dir)[0] == 0
        assert len([path for method, path in server.requests if method == "PUT"]) == sent
    finally:
        server.close()


@pytest.mark.integration
def test_what_was_published_loads_from_the_hub(
    hub_server: HubServer, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    from babyllama.models.loading import load_model, load_tokenizer_of

    _publish(hub_server, run_dir)
    for revision, source in (("main", run_dir), ("chck_100M", run_dir / "chck_100M")):
        folder = tmp_path / revision
        snapshot_download(REPOSITORY, revision=revision, local_dir=folder, endpoint=hub_server.url, token=TOKEN)
        there, here = load_model(folder).state_dict(), load_model(source).state_dict()
        assert all((there[name] == here[name]).all() for name in here)
        assert load_tokenizer_of(folder)("a cat").input_ids == load_tokenizer_of(source)("a cat").input_ids


def test_a_dry_run_lists_and_sends_nothing(hub_server: HubServer, run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Tiny"
    shutil.copytree(run_dir, folder)
    shutil.copytree(folder / "chck_7M", folder / "chck_200M", ignore=shutil.ignore_patterns("milestone.json"))
    done = _main(str(folder), REPOSITORY, "--dry-run", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "chck_200M: not published, it has no milestone.json" in done.stdout
    assert "chck_100M: " in done.stdout
    assert "20 branches" in done.stdout
    assert "optimizer" not in done.stdout
    assert not hub_server.requests


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        ([REPOSITORY], {"HF_TOKEN": "hf_wrong"}, 2, "the hub does not know the token: hf auth login"),
        (["not-mine/x"], {}, 2, "not-mine/x: the token may not write there (the hub answered 403)"),
        (["a/b/c"], {}, 2, "'a/b/c' is no name of a repository"),
        ([REPOSITORY], {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "the hub cannot be reached (ConnectError)"),
        ([REPOSITORY], {"HF_HUB_OFFLINE": "1"}, 2, "HF_HUB_OFFLINE is set: unset it to publish"),
    ],
)
@pytest.mark.integration
def test_what_goes_wrong_is_one_line_without_the_token(
    hub_server: HubServer, run_dir: Path, arguments: list[str], environment: dict[str, str], code: int, message: str
) -> None:
    done = _main(str(run_dir), *arguments, **environment)
    assert done.returncode == code
    (line,) = done.stderr.strip().split("\n")
    assert line.startswith(f"error: {message}")
    assert "hf_" not in done.stdout + done.stderr.replace("hf auth", "")


def test_a_damaged_or_unfinished_run_is_not_published(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors: the run has not ended yet"):
        branches(tmp_path, REPOSITORY)
    whole = (run_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        branches(tmp_path, REPOSITORY)


def test_records_leave_without_the_folders_of_this_machine(run_dir: Path) -> None:
    files = {file.name: file for file in branches(run_dir, REPOSITORY)[0].files}
    results = json.loads(files["evaluation_results.json"].read())
    assert results["checkpoint"] == "Tiny"
    assert {key: results[key] for key in RESULTS} == RESULTS
    assert str(Path.home()) not in files["training_metrics.json"].read().decode()
    assert read_json(run_dir / "evaluation_results.json")["checkpoint"] == str(run_dir), "the run itself is untouched"
    assert without_local_paths("/other/place", run_dir) == "/other/place"


def test_neither_the_current_folder_nor_the_homes_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project" / "here").mkdir(parents=True)
    (tmp_path / "elsewhere" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "homes" / "anna"))
    places = ("project/here/data/a.train", "project/shared/b.dev", "homes/anna/c.yaml", "homes/berta/d.yaml")
    text = " ".join(str(tmp_path / place) for place in places)
    found = without_local_paths(text, tmp_path / "elsewhere" / "run")
    assert found == "data/a.train shared/b.dev c.yaml berta/d.yaml"


def test_folders_of_other_disks_do_not_leave_either(tmp_path: Path) -> None:
    (tmp_path / "training_config.yaml").write_text("data: {train_path: /srv/anna & co/corpora/x.train}\n", "utf-8")
    quoted = shlex.join(
        ["--minimal-pairs", "/mnt/Jörg Müller's/pairs/blimp", "--set", "data.train_path=/media/käthe/x"]
    )
    command = f"main.py --set model.init_from=/mnt/thesis/base {quoted}"
    samples = {"samples": [{"prompt": "/one/two", "completion": " or three"}]}
    results = {"eval_data": ["/scratch/berta/dev.txt"], "command": command, "generation": samples}
    write_json(tmp_path / "evaluation_results.json", results)
    text = json.dumps(results) + "/srv/anna & co/corpora/y.train <td>/srv/anna &amp; co/corpora/x.train</td> /one/two"
    found = without_local_paths(text, tmp_path)
    assert not [name for name in ("anna", "berta", "thesis", "scratch", "rg M", "ller", "käthe") if name in found]
    assert '["dev.txt"]' in found
    assert "init_from=base" in found
    assert "--minimal-pairs 'blimp'" in found
    assert found.endswith("y.train <td>x.train</td> /one/two"), "what a model wrote is no path"
    assert '"prompt": "/one/two"' in found


def test_a_server_error_says_that_the_same_command_goes_on(hub_server: HubServer, run_dir: Path) -> None:
    def break_down(method: str, path: str) -> None:
        if path.endswith("/refs"):
            hub_server.repositories.clear()  # the next lookup finds nothing

    hub_server.before = break_down
    with pytest.raises((ConfigError, HubError), match="my-lab/tiny: "):
        _publish(hub_server, run_dir)


def test_results_without_a_task_make_no_entry() -> None:
    assert eval_results({"generation": {}}, "x") == []
    (loss,) = eval_results({"perplexity": 2.0, "eval_data": ["/a/wiki.dev", "/b/x.dev"]}, "x")
    assert loss.dataset_name == "wiki.dev, x.dev"
    assert loss.metric_value == 2.0
    assert loss.metric_args is None or "confidence_interval_95" not in loss.metric_args


def test_linked_weights_and_tokenizer_are_followed_and_no_linked_record(tiny_run: Path, tmp_path: Path) -> None:
    for path in tiny_run.iterdir():
        if path.is_file() and path.name != "training_metrics.json":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "private.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "training_metrics.json").symlink_to(tmp_path / "private.txt")
    (main,) = branches(tmp_path, REPOSITORY)
    names = {file.name for file in main.files}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert "training_metrics.json" not in names


def test_a_file_knows_its_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert PublishedFile("a", tmp_path / "a").size == PublishedFile("a", b"12345").size == 5
    assert PublishedFile("a", tmp_path / "a").read() == b"12345"
