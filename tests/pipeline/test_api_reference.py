"""The examples of API_REFERENCE.md run as they stand there, one after the other in one folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from babyllama import plugins
from tests.runs import config_for, corpus

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = ("ModelEvaluator", "BenchmarkSuite", "DataProcessor", "train", "create_model", "build_trainer")


def examples() -> dict[str, str]:
    """The heading of each section -> its Python example."""
    page = (ROOT / "API_REFERENCE.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## ([^\n]+)\n+```python\n(.*?)```", page, re.M | re.S))


def test_every_entry_point_has_an_example_and_a_way_on() -> None:
    text = "\n".join(examples().values())
    for name in (
        *ENTRY_POINTS,
        *re.findall(r"^def (register_(?:cleaner|task))\(", Path(plugins.__file__).read_text(encoding="utf-8"), re.M),
    ):
        assert re.search(rf"import .*\b{name}\b", text), f"{name}: no example imports it"
        assert re.search(rf"\b{name}\(", text), f"{name}: no example calls it"
    page = (ROOT / "API_REFERENCE.md").read_text(encoding="utf-8")
    for heading in examples():
        section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
        assert re.search(r"All of it:\s+\[[\w/]+\.py\]\(", section), heading


@pytest.mark.integration
def test_the_examples_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "TASKS", {})
    monkeypatch.setattr(plugins, "CLEANERS", {})
    dev = corpus(tmp_path / "my_texts", sentences=400) / "small.dev"
    (tmp_path / "held_out.txt").write_text(dev.read_text(encoding="utf-8") * 5, encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text(
        '{"sentence_good": "The dog ran.", "sentence_bad": "Dog the ran."}\n', encoding="utf-8"
    )
    config = config_for(Path("my_texts"), Path("models"), max_steps=2, save_steps=2, eval_steps=2)
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)), encoding="utf-8"
    )
    said = {}
    for heading, code in examples().items():
        exec(compile(code, f"API_REFERENCE.md: {heading}", "exec"), {"__name__": "example"})
        said[heading.split(":")[0]] = capsys.readouterr().out
    assert len(re.findall(r"llama-seed\d \d\.\d{3} bits per byte", said["train"])) == 2
    assert "pairs" in said["ModelEvaluator"]
    assert (tmp_path / "comparison" / "benchmark_comparison.html").is_file()
    assert "32 tokens" in said["DataProcessor"]
    assert re.search(r"^2 steps,.*bits_per_byte", said["create_model and build_trainer"], re.M)
    assert "{'count': 2}" in said["Plugins"]
