"""Nothing finished is destroyed by a start that then fails, and a resume never trains over another run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from babyllama.common.errors import ConfigError
from babyllama.training import checkpoints, replaced
from babyllama.training.out_of_memory import is_out_of_memory
from babyllama.training.run_folder import guard_run
from tests.tiny_runs import settings, trained_on, write_corpus
from train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return trained_on(tmp_path_factory.mktemp("replaced"), range(120))


@pytest.fixture
def copy(trained: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    corpus, run = trained
    return corpus, Path(shutil.copytree(run, tmp_path / "models" / "run"))


def content(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def test_a_failing_overwrite_leaves_the_old_run(copy: tuple[Path, Path]) -> None:
    corpus, run = copy
    before = content(run)
    bad = settings(corpus, run.parent, training__lr=9.9, training__max_grad_norm=1e9, training__weight_decay=1e30)
    with pytest.raises(Exception, match="the loss became"):
        train(bad, overwrite=True)
    assert content(run) == before


def test_an_overwrite_that_ends_replaces(copy: tuple[Path, Path]) -> None:
    corpus, run = copy
    before = (run / "model.safetensors").read_bytes()
    result = train(settings(corpus, run.parent, training__lr=1e-4), overwrite=True)
    assert (result.run_dir / "model.safetensors").read_bytes() != before
    assert not [path for path in run.iterdir() if path.name.startswith(replaced.ASIDE)]


@pytest.mark.parametrize("moved", [0, 2, None])
def test_a_kill_anywhere_is_settled(copy: tuple[Path, Path], moved: int | None) -> None:
    """Killed while the old run is put aside (some files moved), or after that with half of a new run in its place."""
    _, run = copy
    before = content(run)
    if moved is None:
        replaced.put_aside(run)
        (run / "training_config.yaml").write_text("half", encoding="utf-8")
        (run / "checkpoint-2").mkdir()
    else:
        (run / replaced.MOVING).mkdir()
        for path in replaced.run_parts(run)[:moved]:
            os.replace(path, run / replaced.MOVING / path.name)
    replaced.settle(run)
    assert content(run) == before


def test_an_old_run_that_cannot_go_stays_with_one_line_and_is_no_victim_of_the_next(
    copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Windows renames no folder while a file in it is open."""
    _, run = copy
    before = content(run)
    replaced.put_aside(run)
    (run / "training_metrics.json").write_text("{}", encoding="utf-8")

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Access is denied", str(source), None, str(target))

    with monkeypatch.context() as held:
        held.setattr(replaced.os, "replace", refuse)
        for _ in range(3):  # each save asks
            replaced.drop_replaced(run)
    assert capsys.readouterr().err.count("cannot be removed yet") == 1
    with pytest.raises(ConfigError, match="is still there; remove it"):
        replaced.put_aside(run)
    assert content(run / replaced.ASIDE) == before
    replaced.drop_replaced(run)
    assert not (run / replaced.ASIDE).exists()


def test_a_new_run_that_fails_behind_a_whole_checkpoint_stays(copy: tuple[Path, Path]) -> None:
    _, run = copy
    replaced.put_aside(run)

    def train_and_fail() -> None:
        (run / "checkpoint-1").mkdir()
        (run / "checkpoint-1" / "model.safetensors").write_bytes(b"new")
        checkpoints.commit(run / "checkpoint-1", {})
        raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"), replaced.replacing(run):
        train_and_fail()
    assert (run / "checkpoint-1" / "model.safetensors").read_bytes() == b"new"


def test_a_new_checkpoint_lets_the_old_run_go(copy: tuple[Path, Path]) -> None:
    _, run = copy
    replaced.put_aside(run)
    shutil.copytree(run / replaced.ASIDE / "checkpoint-4", run / "checkpoint-4")
    replaced.settle(run)
    assert not (run / replaced.ASIDE).exists()
    assert not (run / "model.safetensors").exists()


@pytest.mark.parametrize("key", ["model.init_from", "data.tokenizer_path", "training.decay_from"])
def test_overwrite_refuses_to_replace_what_it_reads(copy: tuple[Path, Path], key: str) -> None:
    corpus, run = copy
    before = content(run)
    recipe = {"training__lr_scheduler": "wsd"} if key == "training.decay_from" else {}
    with pytest.raises(ConfigError, match=f"{key}: .* lies in"):
        train(settings(corpus, run.parent, **{key.replace(".", "__"): str(run)}, **recipe), overwrite=True)
    assert content(run) == before


def test_a_resume_never_trains_over_another_run(copy: tuple[Path, Path]) -> None:
    corpus, run = copy
    for folder in run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    before = content(run)
    with pytest.raises(ConfigError, match="holds another run"):
        train(settings(corpus, run.parent, training__lr=1e-4), resume=True)
    with pytest.raises(ConfigError, match="checkpoints are gone"):
        train(settings(corpus, run.parent, training__max_steps=8), resume=True)
    assert content(run) == before


@pytest.mark.integration
def test_out_of_memory_then_the_same_command_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start that had to halve its micro-batch, stopped, resumes with the printed command and is finished after it."""
    import torch

    from babyllama.training import out_of_memory
    from babyllama.training.trainer import BabyTrainer

    corpus = write_corpus(tmp_path / "corpus", range(120))

    def config() -> Any:
        return settings(corpus, tmp_path / "models", training__save_steps=2, training__logging_steps=1)

    monkeypatch.setattr(out_of_memory, "halves_by_itself", lambda runtime: True)
    real, limit = BabyTrainer.training_step, {"stop": True}

    def step(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if limit["stop"] and self.state.global_step == 1:
            limit["stop"] = False
            signal.raise_signal(signal.SIGTERM)
        return real(self, model, inputs, *rest, **more)

    monkeypatch.setattr(BabyTrainer, "training_step", step)
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    with pytest.raises(Exception, match="stopped at step"):
        train(config())
    result = train(config(), resume=True)
    assert result.metrics["global_step"] == 4
    assert "as the checkpoint's run came to after running out of memory" in capsys.readouterr().out
    assert train(config()).already_finished


def test_a_killed_overwrite_says_where_the_old_run_is(copy: tuple[Path, Path]) -> None:
    """`no config.json: not a model folder` was all that evaluate said, while the finished run lay in .replaced."""
    from babyllama.common.errors import CheckpointError
    from babyllama.models.loading import load_model

    _, run = copy
    replaced.put_aside(run)
    with pytest.raises(CheckpointError, match=r"the run that was to be replaced is whole in .*\.replaced"):
        load_model(run)


SIGNALLED = """
import sys
from tests.tiny_runs import settings
from pathlib import Path
from babyllama.common.command import run_command
from train import train
def main(argv):
    steps = {"training__max_steps": 2000, "training__save_steps": 1000, "training__logging_steps": 1}
    train(settings(Path(sys.argv[1]), Path(sys.argv[2]), **steps))
    return 0
sys.exit(run_command(main, []))
"""


posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")


@contextmanager
def running(tmp_path: Path, ignored: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A training that has begun, in a process of its own; it does not outlive the block."""
    corpus, root = write_corpus(tmp_path / "corpus", range(120)), Path(__file__).resolve().parents[2]

    def before() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)  # the tests may run under nohup

    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(corpus), str(tmp_path / "models")],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        preexec_fn=before,
    )
    try:
        log = tmp_path / "models" / "run" / "log_history.jsonl"
        deadline = time.monotonic() + 240
        while not (log.is_file() and log.stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < deadline, "the training did not begin"
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.integration
@posix
def test_a_closed_terminal_ends_with_a_checkpoint(tmp_path: Path) -> None:
    with running(tmp_path, ignored=False) as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=120) == 129
    assert list((tmp_path / "models" / "run").glob("checkpoint-*/checkpoint_manifest.json"))


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="Windows has no terminals of POSIX")
def test_a_terminal_that_is_really_gone_ends_with_a_checkpoint(tmp_path: Path) -> None:
    """The bar's last line raised OSError (EIO), then the error's own line: a traceback and exit 1."""
    corpus, root = write_corpus(tmp_path / "corpus", range(120)), Path(__file__).resolve().parents[2]
    pid, terminal = os.forkpty()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.chdir(root)
        argv = [sys.executable, "-c", SIGNALLED, str(corpus), str(tmp_path / "models")]
        os.execve(sys.executable, argv, os.environ | {"PYTHONPATH": str(root), "TERM": "xterm"})
    log, deadline = tmp_path / "models" / "run" / "log_history.jsonl", time.monotonic() + 240
    while not (log.is_file() and log.stat().st_size):
        assert os.read(terminal, 65536)
        assert time.monotonic() < deadline, "the training did not begin"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert list((tmp_path / "models" / "run").glob("checkpoint-*/checkpoint_manifest.json"))


@pytest.mark.integration
@posix
def test_nohup_stays_nohup(tmp_path: Path) -> None:
    with running(tmp_path, ignored=True) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 143


def test_an_unfinished_run_is_guarded(copy: tuple[Path, Path]) -> None:
    _, run = copy
    assert guard_run(run, {"a": 1}, overwrite=True, resume=False) == "fresh"
    assert (run / replaced.ASIDE / "model.safetensors").is_file()
