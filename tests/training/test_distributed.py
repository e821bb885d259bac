"""Several processes on one machine (gloo, CPU): the same curve as one, the same end whatever ends one of them.

Faults are put in by a plugin that the config names: it stops, spoils or kills one process at one step, so that no test
waits for the right moment.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from babyllama.common import distributed
from babyllama.common.errors import ConfigError, NumericError
from babyllama.common.files import read_json
from babyllama.config.loading import save_config
from babyllama.config.schema import Config
from babyllama.models.fsdp import check_sharding, sharding_arguments
from babyllama.pages.run_page import read_log
from babyllama.training import stop_signals
from babyllama.training.checkpoints import checkpoint_folders, is_complete, verify
from tests.runs import corpus, weights
from train import train

ROOT = Path(__file__).resolve().parents[2]
FAULTS = """
import os, signal, time
from babyllama.training.trainer import BabyTrainer

plain = BabyTrainer.training_step
rank, step, fault = os.environ.get("FAULT", "-:0:none").split(":")

def training_step(self, *args, **kwargs):
    loss = plain(self, *args, **kwargs)
    if rank == os.environ.get("RANK", "0") and self.state.global_step == int(step):
        if fault == "nan":
            self.not_finite = True
        elif fault == "wait":  # until the test has seen the step before and sent its signal
            time.sleep(1.0)
        elif fault == "disk":
            raise OSError(28, "No space left on device")
        elif fault != "none":
            os.kill(os.getpid(), getattr(signal, fault))
    return loss

BabyTrainer.training_step = training_step
"""
posix = pytest.mark.skipif(sys.platform != "linux", reason="signals and processes as Linux has them")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    corpus(folder / "text")
    (folder / "faults.py").write_text(FAULTS, encoding="utf-8")
    return folder


def config_of(bench: Path, name: str, **training: Any) -> Config:
    """Fifty steps in float32 with dropout off, so that processes can be compared with one."""
    recipe = {"lr": 3e-3, "batch_size": 8, "max_steps": 50, "save_steps": 10, "logging_steps": 1, "eval_steps": 10}
    return Config(
        model={"type": "Llama", "name": name, "hidden_size": 32, "n_layer": 2, "n_head": 2},
        data={
            "train_path": str(bench / "text"),
            "vocab_size": 400,
            "seq_length": 32,
            "cache_dir": str(bench / "cache"),
        },
        training={**recipe, "device": "cpu", "torch_compile": False, "bf16": False, **training},
        logging={"output_dir": str(bench / "models")},
        plugins=[str(bench / "faults.py")],
    )


def launch(config: Config, *flags: str, fault: str = "-:0:none", launcher: str = "torchrun") -> tuple[int, str]:
    """Run train.py in two processes; exit code of the launcher and all that was printed."""
    file = Path(config.logging.output_dir).parent / f"{config.model.name}.yaml"
    save_config(config, file)
    start = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"],
    }[launcher]
    command = [sys.executable, "-m", *start, "train.py", "--config", str(file), *flags]
    environment = {**os.environ, "FAULT": fault}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def errors(told: str) -> list[str]:
    """Our own error lines."""
    return [line for line in told.split("\n") if line.startswith(("error: ", "internal error: "))]


def exit_codes(told: str) -> set[int]:
    """Those of the processes, as the launcher lists them."""
    return {int(code) for code in re.findall(r"exitcode\s*: (-?\d+)", told)}


def curves_differ(one: Path, two: Path, key: str) -> float:
    """Largest relative difference of a log's column."""
    a, b = ([entry[key] for entry in read_log(run / "log_history.jsonl") if key in entry] for run in (one, two))
    assert len(a) == len(b) > 4
    return max(abs(x - y) / abs(x) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def undisturbed(bench: Path) -> Path:
    """A run of two processes that nobody disturbed."""
    code, told = launch(config_of(bench, "undisturbed"))
    assert code == 0, told
    assert "2 processes, 1 threads each" in told or "2 processes" in told
    assert told.count("saved: ") == 1, "only one process prints"
    return bench / "models" / "undisturbed"


@pytest.mark.integration
def test_two_processes_train_the_same_model_as_one(bench: Path, undisturbed: Path) -> None:
    one = train(config_of(bench, "one")).run_dir
    assert curves_differ(one, undisturbed, "loss") < 1e-4  # seen: 2e-7
    assert curves_differ(one, undisturbed, "valid_loss") < 1e-6
    for key in ("eval_loss", "eval_bits_per_byte", "train_loss"):
        figures = [read_json(run / "training_metrics.json")[key] for run in (one, undisturbed)]
        assert figures[0] == pytest.approx(figures[1], rel=1e-6), key


@pytest.mark.integration
def test_muon_by_accelerate_launch_agrees_too(bench: Path) -> None:
    """Muon orthogonalises in bfloat16, so a rounded gradient may turn its last bits."""
    recipe = {"optimizer": "muon", "lr": 1e-2}
    one = train(config_of(bench, "muon-one", **recipe)).run_dir
    code, told = launch(config_of(bench, "muon-two", gradient_accumulation_steps=2, **recipe), launcher="accelerate")
    assert code == 0, told
    assert curves_differ(one, bench / "models/muon-two", "loss") < 2e-3  # seen: 3e-5
    assert read_json(bench / "models/muon-two/training_metrics.json")["runtime"]["processes"] == 2


@pytest.mark.integration
def test_a_manifest_counts_every_processs_part(undisturbed: Path) -> None:
    folder = undisturbed / "checkpoint-50"
    assert is_complete(folder)
    files = read_json(folder / "checkpoint_manifest.json")["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(files)


@posix
@pytest.mark.integration
def test_a_signal_at_one_process_stops_all_and_the_resume_is_bit_exact(bench: Path, undisturbed: Path) -> None:
    config = config_of(bench, "stopped")
    code, told = launch(config, fault="1:17:SIGUSR1")
    assert code == 1  # torchrun's own; those of the processes are in its table
    assert exit_codes(told) == {128 + signal.SIGUSR1}
    assert len(errors(told)) == 1
    assert "stopped at step 18 with a checkpoint; go on with: torchrun --nproc-per-node 2 train.py" in errors(told)[0]
    code, told = launch(config, "--resume_from_checkpoint")
    assert code == 0, told
    assert "resuming from checkpoint-18" in told
    assert weights(bench / "models/stopped") == weights(undisturbed)


@posix
@pytest.mark.integration
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_others_with_one_line(bench: Path, undisturbed: Path, rank: int) -> None:
    config = config_of(bench, f"killed-{rank}")
    run = bench / "models" / f"killed-{rank}"
    started = time.monotonic()
    code, told = launch(config, fault=f"{rank}:23:SIGKILL")
    assert code == 1
    assert time.monotonic() - started < 60
    assert len(errors(told)) == 1, told
    assert "another process of this training is gone" in errors(told)[0]
    assert f"The last whole checkpoint is {run / 'checkpoint-20'}; go on with: torchrun" in errors(told)[0]
    assert errors(told)[0].endswith(" --resume_from_checkpoint")
    assert [folder.name for folder in checkpoint_folders(run)] == ["checkpoint-10", "checkpoint-20"]
    for folder in checkpoint_folders(run):
        verify(folder)
    code, told = launch(config, "--resume_from_checkpoint")
    assert code == 0, told
    assert weights(run) == weights(undisturbed)


@posix
@pytest.mark.integration
def test_a_loss_that_is_not_finite_in_one_process_stops_all_of_them(bench: Path) -> None:
    code, told = launch(config_of(bench, "nan"), fault="1:12:nan")
    assert code == 1
    assert len(errors(told)) == 1
    assert "the loss became nan at step 13" in errors(told)[0]
    assert "checkpoint-10" in errors(told)[0]
    assert exit_codes(told) == {NumericError.exit_code}
    assert not (bench / "models/nan/model.safetensors").exists()


@posix
@pytest.mark.integration
def test_a_refusal_is_one_line_and_ends_all(bench: Path, undisturbed: Path) -> None:
    before = weights(undisturbed)
    code, told = launch(config_of(bench, "undisturbed", lr=1e-3))
    assert code == 1
    assert len(errors(told)) == 1
    assert "holds another run (training.lr: 0.003 -> 0.001)" in errors(told)[0]
    assert exit_codes(told) == {ConfigError.exit_code}
    assert weights(undisturbed) == before


@posix
@pytest.mark.slow
@pytest.mark.integration
def test_a_full_disk_at_rank_0_is_told_once(bench: Path) -> None:
    code, told = launch(config_of(bench, "full"), fault="0:12:disk")
    assert code == 1
    assert len(errors(told)) == 1
    assert "the disk is full" in errors(told)[0]


@posix
@pytest.mark.slow
@pytest.mark.integration
def test_one_process_goes_on_with_what_two_wrote(bench: Path, undisturbed: Path) -> None:
    """And the other way round: allowed, said not to be bit-exact, and close."""
    config = config_of(bench, "changed")
    launch(config, fault="0:17:SIGTERM")
    result = train(config, resume=True)
    assert result.metrics["runtime"]["processes"] == 1
    expected = read_json(undisturbed / "training_metrics.json")["eval_loss"]
    assert result.metrics["eval_loss"] == pytest.approx(expected, rel=1e-4)


@posix
@pytest.mark.slow
@pytest.mark.integration
def test_compiled_layers_under_ddp(bench: Path) -> None:
    one = train(config_of(bench, "compiled-one", torch_compile=True)).run_dir
    code, told = launch(config_of(bench, "compiled-two", torch_compile=True))
    assert code == 0, told
    assert curves_differ(one, bench / "models/compiled-two", "loss") < 1e-4


@pytest.mark.integration
def test_fully_sharded_training_is_the_unsharded_one(tmp_path: Path) -> None:
    """torch's fully_shard over our fused head, with both optimizers and state taken out and put back in the middle."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, "-m", "tests.training.sharded", str(tmp_path / "found.json")],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = read_json(tmp_path / "found.json")
    assert len(found) == 16
    for name, figures in found.items():
        tolerance = 1e-6 if name.endswith("adamw") else 1e-4  # seen: 2e-7 and 1e-5; Muon computes in bfloat16
        assert figures["loss"] < tolerance, name
        assert figures["held_out"] < tolerance, name
        assert figures["weights"] < (1e-5 if name.endswith("adamw") else 1e-2), name
        assert figures["compared"] > 20, name
        assert figures["unchanged"] == 0.0, name


# A cluster's time limit: examples/slurm.sh with stand-ins for the cluster's commands

SRUN = """#!/bin/bash
while [ "${1#--}" != "$1" ]; do shift; done
"$@" &
child=$!
trap 'kill -USR1 $child' USR1
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
exit $code
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$REQUEUED"\n'
SLURM = ROOT / "examples" / "slurm.sh"


def submit(bench: Path, config: Config, processes: int, fault: str) -> tuple[int, str, bool]:
    """Run the job script as Slurm would; its exit code, what it printed, whether it queued itself again."""
    tools, requeued = bench / "bin", bench / f"requeued-{config.model.name}"
    tools.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(0o755)
    requeued.unlink(missing_ok=True)
    file = bench / f"{config.model.name}.yaml"
    save_config(config, file)
    environment = {**os.environ, "FAULT": fault, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": sys.executable}
    environment |= {"SLURM_JOB_ID": "7", "PROCESSES": str(processes), "REQUEUED": str(requeued)}
    with subprocess.Popen(
        ["bash", str(SLURM), "--config", str(file)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as job:
        told = ""
        for line in job.stdout or ():
            told += line
            if fault.endswith("wait") and line.startswith("step 12/"):
                job.send_signal(signal.SIGUSR1)  # what --signal=B:USR1 does
        job.wait(120)
    return job.returncode, told, requeued.exists()


def test_the_job_script_is_a_shell_script() -> None:
    assert subprocess.run(["bash", "-n", str(SLURM)], check=False).returncode == 0
    directives = [line for line in SLURM.read_text(encoding="utf-8").split("\n") if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=B:USR1@120" in directives


@posix
@pytest.mark.integration
@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_at_its_time_limit_queues_itself_again_and_ends(bench: Path, undisturbed: Path, processes: int) -> None:
    config = config_of(bench, f"job-{processes}")
    code, told, requeued = submit(bench, config, processes, "0:13:wait")
    assert (code, requeued) == (0, True), told
    assert "no complete checkpoint: starting at step 0" in told
    assert "with a checkpoint; go on with" in told
    code, told, requeued = submit(bench, config, processes, "-:0:none")
    assert (code, requeued) == (0, False), told
    assert "resuming from checkpoint-" in told
    if processes == 2:
        assert weights(bench / f"models/job-{processes}") == weights(undisturbed)


@posix
@pytest.mark.slow
@pytest.mark.integration
def test_a_job_that_fails_is_not_queued_again(bench: Path) -> None:
    code, told, requeued = submit(bench, config_of(bench, "job-wrong", batch_size=7), 2, "-:0:none")
    assert (code, requeued) == (1, False)
    assert "does not divide into gradient_accumulation_steps" in told


# What can be shown without a launch


@pytest.mark.parametrize(
    ("device", "processes", "message"), [("cpu", 2, "needs CUDA GPUs"), ("mps", 2, "CUDA"), ("cuda", 1, "torchrun")]
)
def test_sharding_where_it_would_be_something_else_is_refused(device: str, processes: int, message: str) -> None:
    config = Config(model={"type": "Llama"}, training={"fsdp": True})
    with pytest.raises(ConfigError, match=message):
        check_sharding(config, device, processes)
    check_sharding(Config(model={"type": "Llama"}), device, processes)
    assert sharding_arguments(config.training)["fsdp_config"]["version"] == 2
    assert sharding_arguments(Config(model={"type": "Llama"}).training) == {}


def test_one_process_needs_no_group() -> None:
    assert distributed.all_reduce_max(3, 0) == (3, 0)
    assert distributed.all_reduce_sum(1.5, 2) == (1.5, 2)
    assert distributed.gather("a") == ["a"]
    assert distributed.on_rank_zero(lambda: 7) == 7
    assert distributed.rank_zero_first(lambda: 7) == 7
    with pytest.raises(ConfigError, match="as it was"), distributed.raise_on_all_ranks():
        raise ConfigError("as it was")


@pytest.mark.parametrize(
    ("local", "omp", "expected"), [("1", "1", None), ("2", "1", 4), ("3", "1", 2), ("16", "1", 1), ("2", "3", None)]
)
def test_the_launchers_one_thread_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, local: str, omp: str, expected: int | None
) -> None:
    """torchrun sets OMP_NUM_THREADS to 1; eight cores are shared out instead. Another number is the user's."""
    monkeypatch.setattr(distributed, "available_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert distributed.threads_per_process() == expected


def test_only_one_process_has_the_last_word(tmp_path: Path) -> None:
    assert [distributed.claim_report(tmp_path) for _ in range(3)] == [True, False, False]
    distributed.clear_report_mark(tmp_path)
    assert distributed.claim_report(tmp_path)
    assert distributed.claim_report(tmp_path / "not there"), "rather twice than not at all"


def test_errors_of_a_lost_connection_are_known() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711")
    assert distributed.is_lost(lost)
    outer = ValueError("while saving")
    outer.__cause__ = lost
    assert distributed.is_lost(outer)
    assert not distributed.is_lost(RuntimeError("shapes differ"))


def test_world_size_without_a_launcher_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="the processes do not find each other"), distributed.process_group("cpu"):
        pass
    with (
        pytest.raises(ConfigError, match="several processes need CUDA GPUs or the CPU"),
        distributed.process_group("mps"),
    ):
        pass
    with pytest.raises(ConfigError, match="each takes its own GPU"), distributed.process_group("cuda:1"):
        pass


@posix
def test_a_cluster_may_signal_again_without_cutting_off_the_checkpoint() -> None:
    with stop_signals.StopSignals() as stop:
        for name in ("SIGUSR1", "SIGUSR1", "SIGTERM"):  # a fourth, SIGTERM again, would end this process
            os.kill(os.getpid(), getattr(signal, name))
        assert stop.received == signal.SIGUSR1


@posix
def test_without_an_agreement_a_sigterm_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_signals, "PATIENCE", 0.05)
    ended: list[int] = []
    with stop_signals.StopSignals() as stop:
        stop.watch(ended.append)
        signal.raise_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
    assert ended == [signal.SIGTERM]
    with stop_signals.StopSignals() as stop:
        stop.watch(ended.append)
        signal.raise_signal(signal.SIGTERM)
        stop.agreed = signal.SIGTERM
        time.sleep(0.2)
    assert len(ended) == 1, "they agreed: the checkpoint is being written"
