"""The wheel: what is in it, the command from an empty folder, and Python's door beside HuggingFace's `evaluate`."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from babyllama import __version__
from babyllama.config.run_layout import config_path, preset_paths

ROOT = Path(__file__).resolve().parents[2]
API = "BenchmarkSuite, DataProcessor, ModelEvaluator, build_trainer, create_model, train"
WEIGHTS = Path("models", "Llama-10M", "model.safetensors")
TINY = "--set model.hidden_size=32 --set model.n_layer=1 --set model.n_head=2 --set model.intermediate_size=64"
FLAGS = f"train --config llama-10M --max-steps 3 --set data.synthetic_words=20000 {TINY}".split()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel puts into site-packages."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site-packages")
    return folder / "site-packages"


def _python(where: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.integration
def test_the_wheel_holds_one_package_and_every_preset(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()} == {"babyllama", f"babyllama-{__version__}.dist-info"}
    app = installed / "babyllama" / "app"
    assert {path.name for path in (app / "config").glob("*.yaml")} == {path.name for path in preset_paths().values()}
    for name in ("main.py", "train.py", "evaluate.py", "benchmark.py", "data_utils.py"):
        assert (app / name).read_bytes() == (ROOT / name).read_bytes()
    here = {str(p.relative_to(ROOT)) for p in (ROOT / "babyllama").rglob("*") if p.suffix in {".py", ".j2", ".tsv"}}
    assert here <= {str(path.relative_to(installed)) for path in installed.rglob("*")}
    script = next(installed.glob("*.dist-info")) / "entry_points.txt"
    assert "babyllama = babyllama.__main__:main" in script.read_text(encoding="utf-8")


@pytest.mark.integration
def test_the_command_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    before = os.times()
    version = _python(tmp_path, installed, "-m", "babyllama", "--version")
    assert version.stdout == f"babyllama {__version__}\n"
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 1, "of computing, 0.22 on a Zen 4: the answer comes before torch could be loaded"
    help_text = _python(tmp_path, installed, "-m", "babyllama", "--help").stdout
    assert "usage: babyllama [-h]" in help_text
    assert "babyllama COMMAND --help" in help_text
    assert "main.py" not in help_text
    completion = _python(tmp_path, installed, "-m", "babyllama", "completion", "bash")
    assert completion.returncode == 0, completion.stderr
    assert "model.hidden_size" in completion.stdout, "every command's flags are in it: no command needs the clone"
    wrong = _python(tmp_path, installed, "-m", "babyllama", "--config", "lama-10M")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: lama-10M: no such file; did you mean the preset llama-10M?\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that the clone's main.py trains."""
    folder = tmp_path_factory.mktemp("clone")
    done = _python(folder, ROOT, str(ROOT / "main.py"), *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "next: babyllama evaluate" not in done.stdout
    return folder / WEIGHTS


@pytest.mark.integration
def test_installed_and_cloned_train_the_same_weights(installed: Path, trained: Path, tmp_path: Path) -> None:
    done = _python(tmp_path, installed, "-m", "babyllama", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "next: babyllama evaluate" in done.stdout
    assert (tmp_path / WEIGHTS).read_bytes() == trained.read_bytes()


OWN = """
import sys
assert evaluate.OWNER == 'another' and sys.modules['evaluate'] is evaluate
assert not {'train', 'benchmark', 'data_utils'} & set(sys.modules)
assert ModelEvaluator.__module__ == 'babyllama.app.evaluate'
import babyllama.app.benchmark as b, babyllama.app.evaluate as e
assert b.ModelEvaluator is e.ModelEvaluator is ModelEvaluator
"""
TRAIN = """
from babyllama.config.loading import load_config
sizes = {'model.hidden_size': 32, 'model.n_layer': 1, 'model.n_head': 2, 'model.intermediate_size': 64}
if __name__ == '__main__':
    run = train(load_config('llama-10M', flags=sizes | {'training.max_steps': 3, 'data.synthetic_words': 20000}))
    results = ModelEvaluator(run.run_dir, device='cpu').run(['perplexity'])
    assert results['perplexity'] > 1 and sys.modules['evaluate'] is evaluate
"""


@pytest.fixture
def another_evaluate(tmp_path: Path) -> Path:
    """A folder in which another package `evaluate` stands, as HuggingFace's does in site-packages."""
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "__init__.py").write_text("OWNER = 'another'\n", encoding="utf-8")
    return tmp_path


@pytest.mark.integration
def test_the_api_trains_and_scores_and_leaves_the_name_evaluate_to_its_owner(
    installed: Path, trained: Path, another_evaluate: Path
) -> None:
    script = another_evaluate / "script.py"
    script.write_text(f"from babyllama.api import {API}\nimport evaluate\n{OWN}{TRAIN}", encoding="utf-8")
    done = _python(another_evaluate, installed, "script.py")
    assert done.returncode == 0, done.stderr
    assert (another_evaluate / WEIGHTS).read_bytes() == trained.read_bytes()


@pytest.mark.integration
def test_an_evaluate_that_is_imported_first_stays_what_it_was(another_evaluate: Path) -> None:
    """Here as an exact editable install of the clone puts it on the path: the package alone."""
    site = another_evaluate / "site"
    site.mkdir()
    (site / "babyllama").symlink_to(ROOT / "babyllama")
    done = _python(another_evaluate, site, "-c", f"import evaluate\nfrom babyllama.api import {API}\n{OWN}")
    assert done.returncode == 0, done.stderr


def test_in_a_process_of_the_root_files_the_same_modules_are_handed_on() -> None:
    import babyllama.api
    import evaluate
    import train

    assert babyllama.api.ModelEvaluator is evaluate.ModelEvaluator
    assert babyllama.api.train is train.train


def test_a_presets_bare_name_works_where_no_such_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("llama-10M", "llama-10M.yaml", "config/llama-10M.yaml"):
        assert config_path(name) == preset_paths()["llama-10M"]
    (tmp_path / "llama-10M").write_text("", encoding="utf-8")
    assert config_path("llama-10M") == Path("llama-10M")
    assert config_path("other/llama-10M.yaml") == Path("other/llama-10M.yaml")
    assert config_path("my.yml") == Path("my.yml")
