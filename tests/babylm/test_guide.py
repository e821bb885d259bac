"""docs/babylm.md as written, in miniature: 100,000 words, milestones scaled, from text to a file that validates."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from babyllama.babylm import validator
from babyllama.babylm.data_folder import DataFolder
from babyllama.babylm.rules import load_rules
from babyllama.babylm.tree import COLLATED, Tree
from babyllama.common.command import run_command
from main import main
from tests.babylm.mini import write_data, write_rules

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "babylm.md"
MILESTONES = [f"{n}k" for n in (*range(10, 101, 10), *range(200, 1001, 100))]
RECIPE = """model: {type: Llama, name: mini, hidden_size: 16, intermediate_size: 32, n_layer: 1, n_head: 2}
data: {seq_length: 128, vocab_size: 700, prefix_space: true, cache_dir: cache}
training: {num_epochs: 10, batch_size: 64, lr: 0.01, torch_compile: false, save_words: [MILESTONES]}
""".replace("MILESTONES", ", ".join(MILESTONES))


def write_corpus(folder: Path) -> None:
    """A little less than 100,000 words of a made-up language of 300 words, and a held-out file."""
    draws = random.Random(0)
    letters = "abdeginorstu"
    words = ["".join(draws.choices(letters, k=draws.randrange(2, 7))) for _ in range(300)]
    folder.mkdir(parents=True)
    for name, sentences in (("childes.train", 12_300), ("childes.dev", 60)):
        lines = (" ".join(draws.choices(words, k=8)).capitalize() + ("\n\n" if n % 20 == 19 else "")
                 for n in range(sentences))  # fmt: skip
        (folder / name).write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.integration
def test_the_guide_leads_from_text_to_a_file_that_validates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "data" / "babylm")
    data = write_data(tmp_path / "evaluation_data", 2026)
    rules_path = write_rules(tmp_path / "rules.yaml", 2026, data, MILESTONES)
    monkeypatch.setenv("BABYLLAMA_BABYLM_RULES", str(rules_path))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "babylm-strict-small.yaml").write_text(RECIPE, encoding="utf-8")
    commands = re.findall(r"^python main\.py (.*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [command.split()[:2] for command in commands][2:] == [["babylm", w] for w in ("score", "finetune", "submit")]
    for command in commands:
        arguments = shlex.split(command)
        assert run_command(main, arguments) == 0, (command, capsys.readouterr())
    run = tmp_path / "models" / "my-babylm"
    last = json.loads((run / "chck_1M" / "milestone.json").read_text(encoding="utf-8"))
    assert 970_000 < last["words"] < 1_000_000  # 98,400 words never show a million in ten epochs
    record = json.loads((run / "training_metrics.json").read_text(encoding="utf-8"))
    assert record["ledger"]["raw_words"] == 98_400
    rules = load_rules(rules_path)
    tree = Tree(tmp_path / "results", run, rules, rules.track("strict-small"))
    assert validator.check_tree(tree, DataFolder(data, rules)) == []
    content = json.loads((tree.root / COLLATED).read_text(encoding="utf-8"))
    assert validator.check_collated("", content, rules, tree.track) == []
    assert len(content["fast_eval_results"]["blimp"]) == 19
    assert all(entry for entries in content["fast_eval_results"].values() for entry in entries)
    form = (tree.root / "submission_form.md").read_text(encoding="utf-8")
    assert "within the track's budget" in form
    assert f"chck_1M: {last['words']:,} words" in form
    assert validator.check_card(run / "README.md") == []
    assert "BabyLM 2026, strict-small" in (run / "report.html").read_text(encoding="utf-8")
