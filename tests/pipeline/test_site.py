"""The documentation site builds without a warning and has every public name; the notebook runs as it is."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "first_hour.ipynb"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("sphinx", "myst_parser", "furo", "griffe"):
        pytest.importorskip(package, reason="the packages of the documentation are not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-c", "docs/site", "."]
    done = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def _public_names(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]


@pytest.mark.integration
def test_the_site_builds_without_a_warning_and_its_pages_are_there(site: Path) -> None:
    home = (site / "README.html").read_text(encoding="utf-8")
    for page in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]:
        name = page.relative_to(ROOT).with_suffix(".html").as_posix()
        assert (site / name).is_file()
        assert name in home, "every page is in the navigation"
    assert "README.html" in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "build/site-pages/first_hour.html").is_file()


@pytest.mark.integration
def test_the_api_reference_leads_to_the_made_pages(site: Path) -> None:
    page = (site / "API_REFERENCE.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="build/site-pages/api/(\w+)\.html#([\w-]+)"', page))
    wanted = {("pipeline", "train"), ("doors", "babyllamaplugins"), ("data", "babyllamadatadocuments")}
    assert wanted <= {(name, heading.replace("-", "")) for name, heading in links}, "a heading has an id in both forms"
    for name, heading in links:
        assert f'id="{heading}"' in (site / f"build/site-pages/api/{name}.html").read_text(encoding="utf-8"), heading


@pytest.mark.integration
def test_every_public_name_is_on_its_rooms_page(site: Path) -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (site / "build/site-pages/api").glob("*.html")}
    assert len(pages) > 10
    for path in [*ROOT.glob("*.py"), *(ROOT / "babyllama").rglob("*.py")]:
        parts = path.relative_to(ROOT).parts
        if path.name in {"run_tests.py", "__main__.py"} or parts[1:2] == ("app",) or path.stem == "__init__":
            continue
        page = "pipeline" if len(parts) == 1 else parts[1] if len(parts) > 2 else "doors"
        for name in _public_names(path):
            assert re.search(rf"<h3>{name}<", pages[page]), f"{path}: {name}"


def test_the_notebook_has_no_stored_output() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 7
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.integration
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient, which runs notebooks, is not installed")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "\n".join(
        output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert re.search(r"perplexity \d+\.\d+ \[", said)
    assert "bits per byte" in said
    assert (tmp_path / "comparison" / "benchmark_comparison.html").is_file()
