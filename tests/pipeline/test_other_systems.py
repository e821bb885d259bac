"""What other systems do otherwise, forced here: no UTF-8 as default, worker processes that are spawned, odd paths.

One child process trains, resumes and scores as on such a system; no library has to be patched for it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from babyllama.common.files import read_json
from babyllama.training import record
from tests.runs import corpus

ROOT = Path(__file__).resolve().parents[2]
OURS = r"(babyllama|main|train|evaluate|benchmark|data_utils)(\.|$)"
POSIX_ONLY = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "posix"}  # Windows has none of them
POSIX_SIGNALS = {"SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGSTOP", "SIGCONT", "SIGXFSZ", "SIGALRM"}
CHILD = f"""
import multiprocessing, sys, warnings
if __name__ == "__main__":
    warnings.filterwarnings("error", category=EncodingWarning, module=r"{OURS}")
    multiprocessing.set_start_method("spawn", force=True)
    sys.path.insert(0, r"{ROOT}")
    from babyllama.common.command import run_command
    import main
    from babyllama.common import process_pool
    process_pool.worker_count = lambda wanted: 1  # as it says on systems without a safe fork
    sys.exit(run_command(main.main))
"""
CONFIG = """
model: {type: Llama, name: Größe eins, hidden_size: 32, n_layer: 1, n_head: 2}
data: {vocab_size: 400, seq_length: 32}
training: {batch_size: 8, max_steps: 6, save_steps: 3, device: cpu, torch_compile: false, dataloader_num_workers: 1}
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder, under LANG=C, with an error where a file's encoding is left to the system."""
    plain = {
        "LC_ALL": "C",
        "LANG": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONWARNDEFAULTENCODING": "1",
    }
    environment = {**os.environ, **plain, "BABYLLAMA_CACHE": str(folder / "Zwischenspeicher ü")}
    run = [sys.executable, str(folder / "child.py"), *arguments]
    return subprocess.run(
        run, cwd=folder, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


@pytest.mark.integration
def test_spawned_workers_umlauts_and_no_utf8_by_default(tmp_path: Path) -> None:
    folder = tmp_path / "Käse und Brot"
    corpus(folder / "Texte für alle")
    (folder / "Texte für alle" / "extra.train").write_text("Füße laufen über die Straße.\n" * 40, encoding="utf-8")
    (folder / "child.py").write_text(CHILD, encoding="utf-8")
    (folder / "größe.yaml").write_text(CONFIG, encoding="utf-8")
    flags = ["--config", "größe.yaml", "--train-path", "Texte für alle", "--output-dir", "Läufe 1"]
    done = command(folder, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    run = folder / "Läufe 1" / "Größe eins"
    metrics = read_json(run / "training_metrics.json")
    assert metrics["global_step"] == 6
    assert {"report.html", "README.md", "evaluation_results.json"} <= {path.name for path in run.iterdir()}

    # A second command goes on from there.
    alone = ("--dataloader-num-workers", "0")
    longer = command(folder, "train", *flags, "--max-steps", "9", "--resume_from_checkpoint", *alone)
    assert longer.returncode == 0, longer.stderr[-3000:]
    assert read_json(run / "training_metrics.json")["global_step"] == 9


MODULES = sorted([*(ROOT / "babyllama").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.py")])


def outside_functions(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """What is computed when a module is imported: no function's body, but its defaults and decorators."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from (part for decorator in node.decorator_list for part in ast.walk(decorator))
            yield from outside_functions(node.body)
        elif isinstance(node, ast.FunctionDef):
            for part in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
                yield from ast.walk(part)
        else:
            yield from ast.walk(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_needs_what_windows_lacks_to_be_imported(path: Path) -> None:
    """Tests as well: one that cannot be imported there ends the whole test run."""
    for node in outside_functions(ast.parse(path.read_text(encoding="utf-8")).body):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert not POSIX_ONLY & set(names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "signal":
            assert node.attr not in POSIX_SIGNALS, f"line {node.lineno}"


@pytest.mark.parametrize("room", ["evaluation", "babylm", "play", "training"])
def test_an_apple_gpu_is_never_asked_for_float64(room: str) -> None:
    """It has none, and says so with a TypeError, after hours of training: figures go to the CPU first."""
    on_the_cpu = {"token_statistics.py"}  # its parts come from `.cpu()` in _batch_figures
    for path in sorted((ROOT / "babyllama" / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            wide = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "to" and "float64" in ast.dump(node)
            assert not (wide and path.name not in on_the_cpu), f"{path.name}:{node.lineno}: .cpu().double()"
            if path.name not in on_the_cpu and isinstance(node, ast.Attribute) and node.attr == "double":
                moved = isinstance(node.value, ast.Call) and getattr(node.value.func, "attr", "") == "cpu"
                assert moved, f"{path.name}:{node.lineno}: .cpu().double()"


def test_peak_memory_without_the_module_that_windows_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure is asked of Windows' kernel; here stands a kernel that fills the structure at the documented place."""
    import ctypes
    from types import SimpleNamespace

    class Function:
        restype: Any = None

        def __call__(self, *arguments: Any) -> int:
            if not arguments:
                return 7
            process, counters, size = arguments
            assert (process.value, size) == (7, 72)  # 64 bits: 4 + 4 + 8 x 8
            ctypes.memmove(ctypes.addressof(counters._obj) + 8, ctypes.byref(ctypes.c_size_t(123_456)), 8)
            return 1

    kernel = SimpleNamespace(GetCurrentProcess=Function(), K32GetProcessMemoryInfo=Function())
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert record.peak_memory_bytes("cpu") == 123_456
