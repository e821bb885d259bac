"""What Windows, macOS and containers do otherwise, each forced here where Linux can play the part."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from babyllama.common import command, distributed, file_hashes, files, provenance
from babyllama.common.cache_folders import INDUCTOR, inductor_cache
from babyllama.common.command import name_compile_cache
from babyllama.models import gpu, runtime
from babyllama.training.callbacks import MpsRandomState

ROOT = Path(__file__).resolve().parents[2]


def refusing(times: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Renaming as Windows has it while another program holds a file open: refused so often, then done."""
    real, calls = os.replace, []

    def rename(source: str | Path, target: str | Path) -> None:
        calls.append((str(source), str(target)))
        if len(calls) <= times:
            raise PermissionError(13, "The process cannot access the file", str(source))
        real(source, target)

    monkeypatch.setattr(files.os, "replace", rename)
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0, 0.0))
    return calls


def test_windows_tries_a_rename_again_while_another_program_has_the_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ON_WINDOWS", True)
    calls = refusing(3, monkeypatch)
    files.write_json(tmp_path / "a.json", {"x": 1})
    assert files.read_json(tmp_path / "a.json") == {"x": 1}
    assert len(calls) == 4
    refusing(99, monkeypatch)
    with pytest.raises(PermissionError):
        files.write_json(tmp_path / "a.json", {"x": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert files.read_json(tmp_path / "a.json") == {"x": 1}, "the old file stays, nothing half-written is left"


def test_elsewhere_a_refused_rename_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = refusing(1, monkeypatch)
    with pytest.raises(PermissionError):
        files.write_json(tmp_path / "a.json", {})
    assert len(calls) == 1


def test_a_folder_that_could_not_be_removed_is_no_obstacle_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, ignore_errors: None)  # a file in it is open
    for content in "abc":
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "x").write_text(content, encoding="utf-8")
        files.publish(tmp_path / "new", tmp_path / "it [1]")
        assert (tmp_path / "it [1]" / "x").read_text(encoding="utf-8") == content


def test_a_manifest_names_files_as_every_system_does(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"x")
    assert list(files.seal(tmp_path / "a", "manifest.json", {})["files"]) == ["b/c"]


def test_where_ctime_is_the_time_of_creation_the_ends_of_a_file_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"one" + bytes(200_000) + b"end")
    before = file.stat()
    monkeypatch.setattr(file_hashes, "ON_WINDOWS", True)
    stamp = file_hashes.stamp_of(file)
    for changed in (b"two" + bytes(200_000) + b"end", b"one" + bytes(200_000) + b"END"):
        file.write_bytes(changed)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        again = file_hashes.stamp_of(file)
        assert (stamp[:3], stamp[4] == again[4]) == (again[:3], False)
    file_hashes.wait_until_settled([file])


@pytest.mark.parametrize(
    ("group", "limits", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {}, 8),
        ("0::/user/job", {"user/cpu.max": "100000 100000", "user/job/cpu.max": "max 100000"}, 1),
        ("0::/user/job", {"user/cpu.max": "900000 100000", "user/job/cpu.max": "50000 100000"}, 1),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        (None, {}, 8),
    ],
)
def test_a_containers_quota_limits_cores_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str | None, limits: dict[str, str], cores: int
) -> None:
    for name, content in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="ascii")
    (tmp_path / "of_process").write_text(f"{group}\n", encoding="utf-8")
    monkeypatch.setattr(distributed, "CGROUP_OF_PROCESS", tmp_path / ("of_process" if group else "no /proc"))
    monkeypatch.setattr(distributed, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert distributed.available_cores() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    distributed.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5", "the user's"
    monkeypatch.delenv("OMP_NUM_THREADS")
    distributed.limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == (str(cores) if cores < 8 else None)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_an_output_cannot_spell_is_escaped_and_ends_nothing(encoding: str) -> None:
    code = (
        "import sys\nfrom babyllama.common.command import run_command\nfrom babyllama.common.console import say\n"
        "from babyllama.pages.tables import TableData, print_tables\n"
        "def command(argv):\n"
        "    print_tables([TableData('тексты', ('corpus', 'b'), (('ελ', '\\u22121.5'),))])\n"
        "    sys.stdout.write('日本\\n')\n    say('\\u2212')\n    return 0\n"
        "sys.exit(run_command(command, []))\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.decode(encoding).splitlines() if "\\u65e5\\u672c" in line]
    assert "\\u22121.5" in done.stdout.decode(encoding)


def test_a_command_is_quoted_as_the_systems_shell_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--train-path", "my text/a.train", "--seed", "1"]
    assert shlex.split(provenance.quoted(*words)) == words
    monkeypatch.setattr(provenance, "ON_WINDOWS", True)
    assert provenance.quoted(*words) == '--train-path "my text/a.train" --seed 1'


def test_a_cache_that_cannot_be_written_costs_no_command(tmp_path: Path, tiny_run: Path) -> None:
    """torch's compiler makes its folder when a model is loaded; a container's HOME may be /."""
    (tmp_path / "a file").write_text("", encoding="utf-8")
    environment = os.environ | {"BABYLLAMA_CACHE": str(tmp_path / "a file" / "cache"), "PYTHONPATH": str(ROOT)}
    environment.pop(INDUCTOR, None)
    asked = ["generate", str(tiny_run), "--prompt", "The dog", "--max-new-tokens", "3", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *asked],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The dog")


def test_a_user_without_a_name_gets_a_folder_for_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setenv(INDUCTOR, "put back afterwards")
    monkeypatch.delenv(INDUCTOR)
    name_compile_cache()
    assert INDUCTOR not in os.environ
    monkeypatch.setattr(command.getpass, "getuser", nameless)
    name_compile_cache()
    assert Path(os.environ[INDUCTOR]).parent.name.startswith("babyllama-")


@pytest.mark.parametrize("home", ["Jörg Müller", "anna"])
def test_compiled_code_lies_where_no_blank_is_in_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("BABYLLAMA_CACHE", str(tmp_path / home))
    monkeypatch.delenv(INDUCTOR, raising=False)
    found = inductor_cache()
    assert " " not in str(found)
    assert (found.parent == tmp_path / home) == (home == "anna")


def test_compiled_code_of_each_precision_has_its_folder_whatever_torch_wrote_into_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`import torch._dynamo` sets the variable to torch's own folder, which was then taken for the user's."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setenv("BABYLLAMA_CACHE", str(tmp_path))
    folders = {"bf16": tmp_path / "inductor", "fp32": tmp_path / "inductor", "fp16": tmp_path / "inductor-fp16"}
    for before in (default_cache_dir(), *map(str, folders.values())):
        monkeypatch.setenv(INDUCTOR, before)
        assert {precision: inductor_cache(precision) for precision in folders} == folders
    monkeypatch.setenv(INDUCTOR, str(tmp_path / "mine"))
    assert {inductor_cache(precision) for precision in folders} == {tmp_path / "mine"}, "the user's"


def test_windows_asks_for_its_own_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: name if name == "g++" else None)
    assert runtime.has_cpp_compiler()
    monkeypatch.setattr(runtime, "ON_WINDOWS", True)
    assert not runtime.has_cpp_compiler(), "torch would not take g++ there"


@pytest.mark.parametrize(
    ("device", "waited"), [("cpu", []), ("mps", ["mps"]), ("cuda", ["cuda"]), ("cuda:1", ["cuda:1"])]
)
def test_each_device_is_waited_for_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, device: str, waited: list[str]
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", calls.append)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("mps"))
    if wait := gpu.synchronizer(device):
        wait()
    assert calls == waited


def test_an_apple_gpus_random_state_goes_into_the_checkpoint_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[torch.Tensor] = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.arange(44, dtype=torch.uint8))
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    (tmp_path / "checkpoint-3").mkdir()
    arguments, state = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(global_step=3)
    MpsRandomState(lambda: None).on_save(arguments, state, TrainerControl())
    resumed: list[Callable[[], Path | None]] = [lambda: None, lambda: tmp_path, lambda: tmp_path / "checkpoint-3"]
    for checkpoint in resumed:
        MpsRandomState(checkpoint).on_train_begin(arguments, TrainerState(), TrainerControl())
    assert len(states) == 1, "a new run, and a checkpoint of another device, have none"
    assert torch.equal(states[0], torch.arange(44, dtype=torch.uint8))
