"""Checkpoints: whole or not at all; run folders: one run, one owner; what may be resumed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from babyllama.common import disk_space
from babyllama.common.errors import CheckpointError, ConfigError, DiskError
from babyllama.common.files import write_json
from babyllama.config.fingerprint import BOOKKEEPING, check_resume, differences, training_fingerprint
from babyllama.config.run_layout import CHECKPOINT_MANIFEST
from babyllama.config.schema import Config
from babyllama.training import checkpoints
from babyllama.training.folder_lock import run_lock
from babyllama.training.run_folder import guard_run
from babyllama.training.stop_signals import StopSignals

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def _checkpoint(run: Path, step: int, commit: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(f"{name} at {step}".encode() * 10)
    if commit:
        checkpoints.commit(folder, {"fingerprint": {"a": 1}})
    return folder


def test_a_committed_checkpoint_is_whole_and_remembers_its_run(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path, 5)
    checkpoints.verify(folder)
    assert checkpoints.is_complete(folder)
    assert checkpoints.manifest_extra(folder) == {"fingerprint": {"a": 1}}


@pytest.mark.parametrize("name", [*FILES, CHECKPOINT_MANIFEST])
@pytest.mark.parametrize("fault", ["missing", "truncated", "flipped"])
def test_every_fault_of_every_file_is_seen_and_the_older_one_used(
    tmp_path: Path, name: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = _checkpoint(tmp_path, 5), _checkpoint(tmp_path, 10)
    path = newer / name
    content = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    elif fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    assert checkpoints.newest_complete(tmp_path) == older
    line = capsys.readouterr().err
    assert name in line
    assert "set aside as checkpoint-10." in line


def test_a_named_damaged_checkpoint_is_refused_by_its_files_name(tmp_path: Path) -> None:
    folder = _checkpoint(tmp_path, 5)
    (folder / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"optimizer\.pt: damaged: 1 bytes") as caught:
        checkpoints.resolve_resume(tmp_path, str(folder))
    assert caught.value.exit_code == 3


def test_only_damaged_ones_is_exit_3_only_incomplete_ones_is_step_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _checkpoint(tmp_path / "a", 5, commit=False)
    assert checkpoints.resolve_resume(tmp_path / "a", True) is None
    assert "starting at step 0" in capsys.readouterr().out
    (_checkpoint(tmp_path / "b", 5) / FILES[0]).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        checkpoints.resolve_resume(tmp_path / "b", True)


def test_rotation_keeps_two_whole_ones_and_the_best(tmp_path: Path) -> None:
    folders = [_checkpoint(tmp_path, step, commit=step != 30) for step in (10, 20, 30, 40, 50)]
    checkpoints.rotate(tmp_path, limit=1, keep=folders[0])
    assert [folder.name for folder in checkpoints.checkpoint_folders(tmp_path)] == [
        "checkpoint-10",
        "checkpoint-30",
        "checkpoint-40",
        "checkpoint-50",
    ]


def test_an_old_checkpoint_that_cannot_go_is_a_line_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Windows renames no folder while a file in it is open."""
    for step in (10, 20, 30, 40):
        _checkpoint(tmp_path, step)

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "The process cannot access the file", str(source))

    monkeypatch.setattr(checkpoints, "replace", refuse)
    checkpoints.rotate(tmp_path, limit=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(part in lines[0] for part in ("checkpoint-10", "remove it by hand"))
    assert checkpoints.newest_complete(tmp_path) == tmp_path / "checkpoint-40"


def test_what_a_failed_attempt_left_half_written_is_set_aside_for_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _checkpoint(tmp_path, 5)
    _checkpoint(tmp_path, 10, commit=False)
    checkpoints.set_incomplete_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10.incomplete-1", "checkpoint-5"]
    assert "set aside as checkpoint-10.incomplete-1" in capsys.readouterr().err


def test_an_interrupted_removal_is_finished_later(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5.deleting").mkdir()
    (tmp_path / ".training_config.yaml.123.tmp").write_text("half", encoding="utf-8")
    checkpoints.clean_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


FINGERPRINT = {"training.lr": 1e-3, "training.num_epochs": 1, "data": "abc"}


def _run(folder: Path, finished: bool, **changes: object) -> Path:
    folder.mkdir()
    write_json(folder / "run_fingerprint.json", {**FINGERPRINT, **changes})
    if finished:
        write_json(folder / "training_metrics.json", {"finished": True})
    return folder


@pytest.mark.parametrize(
    ("finished", "other", "overwrite", "resume", "expected"),
    [
        (True, {}, False, False, "finished"),
        (True, {}, False, True, "finished"),
        (True, {}, True, False, "fresh"),
        (True, {"training.num_epochs": 2}, False, True, "resume"),
        (False, {}, False, True, "resume"),
        (False, {}, False, False, "fresh"),
    ],
)
def test_what_may_happen_in_a_run_folder(
    tmp_path: Path, finished: bool, other: dict, overwrite: bool, resume: bool, expected: str
) -> None:
    folder = _run(tmp_path / "run", finished)
    if expected == "resume":
        _checkpoint(folder, 5)
    assert guard_run(folder, {**FINGERPRINT, **other}, overwrite=overwrite, resume=resume) == expected


def test_a_finished_run_without_checkpoints_is_not_trained_over(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", finished=True)
    with pytest.raises(ConfigError, match="its checkpoints are gone"):
        guard_run(folder, {**FINGERPRINT, "training.num_epochs": 2}, overwrite=False, resume=True)


@pytest.mark.parametrize(
    ("finished", "other", "message"),
    [
        (True, {"training.lr": 2e-3}, r"another run \(training.lr: 0.001 -> 0.002\)"),
        (True, {"training.num_epochs": 2}, "finished at another length"),
    ],
)
def test_another_run_in_the_folder_is_refused(tmp_path: Path, finished: bool, other: dict, message: str) -> None:
    folder = _run(tmp_path / "run", finished)
    with pytest.raises(ConfigError, match=message):
        guard_run(folder, {**FINGERPRINT, **other}, overwrite=False, resume=False)


def test_an_unfinished_run_asks_what_to_do(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", finished=False)
    _checkpoint(folder, 5)
    with pytest.raises(ConfigError, match="--resume_from_checkpoint"):
        guard_run(folder, FINGERPRINT, overwrite=False, resume=False)


def test_overwrite_touches_only_what_a_run_writes(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", finished=True)
    _checkpoint(folder, 5)
    (folder / "my_notes.txt").write_text("keep me", encoding="utf-8")
    assert guard_run(folder, FINGERPRINT, overwrite=True, resume=False) == "fresh"
    left = {path.name for path in folder.iterdir()}
    assert left == {"my_notes.txt", ".replaced"}, "the old run is put aside until the new one can be loaded"


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    for overwrite in (True, False):
        with pytest.raises(ConfigError, match="not a run of ours"):
            guard_run(tmp_path, FINGERPRINT, overwrite=overwrite, resume=False)
    assert (tmp_path / "thesis.tex").exists()


def test_the_fingerprint_holds_what_changes_the_weights() -> None:
    def made(**training: object) -> dict:
        return training_fingerprint(Config(model={"type": "Llama"}, training=training), "d", "t")

    assert differences(made(), made(save_steps=7, logging_steps=3, dataloader_num_workers=2)) == []
    assert differences(made(), made(lr=0.5)) == ["training.lr: 0.003 -> 0.5"]
    assert check_resume(made(), made(num_epochs=3)) == [
        "training.num_epochs: 1.0 -> 3.0; the schedule is stretched to the new length"
    ]
    with pytest.raises(ConfigError, match="what differs"):
        check_resume(made(), made(seed=1))


def test_only_these_keys_do_not_count_for_a_resume() -> None:
    """Any other key changes the weights, the text or the tokenizer, and a resume with another value is refused."""
    data = {"train_path", "eval_path", "cache_dir", "num_proc", "eval_samples", "tokenizer_path", "tokenizer_output"}
    training = {"save_steps", "save_words", "eval_steps", "logging_steps", "save_total_limit", "dataloader_num_workers"}
    training |= {"keep", "device", "bf16", "fp16", "torch_compile", "attention", "threads", "keep_freed_memory", "tf32"}
    training |= {"deterministic", "cuda_graphs", "slow_batch_size", "quick_start", "quick_start_minutes", "decay_from"}
    assert {"data": data, "model": {"name"}, "training": training | {"fsdp"}} == BOOKKEEPING


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from babyllama.training.folder_lock import run_lock\n"
        "from babyllama.common.errors import ConfigError\n"
        "try:\n    with run_lock(Path(sys.argv[1])): print('got it')\n"
        "except ConfigError as e: print(e)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with run_lock(tmp_path / "run"):
        told = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
        assert f"process {os.getpid()} on" in told
    assert "got it" in subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    assert not (tmp_path / "run").exists(), "an empty folder is not left behind"


def test_the_first_signal_is_noted_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signals.received == 0
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_ends_at_once() -> None:
    code = (
        "import signal; from babyllama.training.stop_signals import StopSignals\n"
        "with StopSignals():\n    signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGINT); print('no')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert (ended.returncode, ended.stdout) == (130, "")


def test_disk_space_and_full_disks(tmp_path: Path) -> None:
    disk_space.check_space(tmp_path, 1000, "a test")
    with pytest.raises(DiskError, match="needed for a test"):
        disk_space.check_space(tmp_path, 10**18, "a test")
    disk_space.check_writable(tmp_path / "new")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(DiskError, match="cannot be written"):
        disk_space.check_writable(tmp_path / "file" / "sub")
    wrapped = RuntimeError("failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert disk_space.is_disk_full(wrapped)
    assert disk_space.is_disk_full(RuntimeError("PytorchStreamWriter failed writing file"))
    assert not disk_space.is_disk_full(ValueError("x"))
