"""The commands as a user types them: the pipeline, the sub-commands, the errors."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import main
import run_tests
from babyllama import plugins
from babyllama.common.command import run_command
from babyllama.common.files import read_json
from tests.runs import corpus

ROOT = Path(__file__).resolve().parents[2]
TINY = """
model: {type: Llama, name: tiny, hidden_size: 32, n_layer: 2, n_head: 2}
data: {vocab_size: 500, seq_length: 32}
training: {batch_size: 8, max_steps: 6, device: cpu, torch_compile: false, bf16: false}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY, encoding="utf-8")
    return file


@pytest.mark.integration
def test_the_pipeline_on_text_of_ones_own(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = corpus(tmp_path / "words")
    argv = ["--config", str(config), "--train-path", str(text), "--output-dir", str(tmp_path / "models")]
    assert run_command(main.main, argv) == 0
    run = tmp_path / "models" / "tiny"
    told = capsys.readouterr().out
    assert "bits per byte" in told
    assert f"open {run / 'report.html'}" in told
    results, metrics = read_json(run / "evaluation_results.json"), read_json(run / "training_metrics.json")
    assert results["perplexity"] == pytest.approx(metrics["eval_perplexity"], rel=1e-6)
    assert "<svg" in (run / "report.html").read_text(encoding="utf-8")
    assert run_command(main.main, argv) == 0
    assert "this run is finished" in capsys.readouterr().out
    assert run_command(main.main, ["generate", str(run), "--prompt", "The dog", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("The dog")


@pytest.mark.integration
def test_the_embedded_corpus_is_scored_against_its_floor_and_its_pairs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(config), "--output-dir", str(tmp_path / "m"), "--set", "data.synthetic_words=3000"]
    assert run_command(main.main, argv) == 0
    told = capsys.readouterr().out
    assert "exact entropy of these documents" in told
    assert "minimal pairs (embedded corpus)" in told
    metrics = read_json(tmp_path / "m" / "tiny" / "training_metrics.json")
    assert metrics["eval_bits_per_byte"] > metrics["source_bits_per_byte"] > 0.5


@pytest.mark.integration
def test_an_architecture_of_ones_own_trains_and_is_scored(config: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from babyllama.models.architectures import build_model\nfrom babyllama.plugins import register_architecture\n"
        "def create_custom_model(config, tokenizer):\n"
        "    own = config.model_copy(deep=True)\n    own.model.type = 'GPT2'\n"
        "    return build_model(own, tokenizer)\n"
        "register_architecture('Mine', create_custom_model)\n",
        encoding="utf-8",
    )
    argv = ["--config", str(config), "--set", f"plugins=[{plugin}]", "--set", "model.type=Mine", "--max-steps", "2"]
    argv += ["--train-path", str(corpus(tmp_path / "w", 300)), "--output-dir", str(tmp_path / "m")]
    assert run_command(main.main, ["train", *argv]) == 0
    assert read_json(tmp_path / "m" / "tiny" / "config.json")["model_type"] == "gpt2"
    plugins.ARCHITECTURES.pop("Mine")


@pytest.mark.integration
def test_prepare_cleans_a_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "qed.train").write_text("[Music] Hello &amp; so\n", encoding="utf-8")
    (raw / "childes.train").write_text("xxx hi .\n", encoding="utf-8")
    (raw / "qed.dev").write_text("Bye [Applause]\n", encoding="utf-8")
    argv = ["prepare", "--babylm-10m", str(raw), "--babylm-dev", str(raw), "--output", str(tmp_path / "out")]
    assert run_command(main.main, [*argv, "--clean-domains", "qed"]) == 0
    assert (tmp_path / "out/qed.train").read_text(encoding="utf-8") == "Hello & so\n<|endoftext|>\n"
    assert (tmp_path / "out/childes.train").read_text(encoding="utf-8") == "xxx hi .\n<|endoftext|>\n"
    assert (tmp_path / "out/qed.dev").read_text(encoding="utf-8") == "Bye\n<|endoftext|>\n"
    assert "(not cleaned)" in capsys.readouterr().out


@pytest.mark.integration
def test_synthetic_and_tokenizer_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s"
    assert run_command(main.main, ["synthetic", "--words", "2000", "--output", str(out)]) == 0
    assert len((out / "pairs/synthetic.jsonl").read_text(encoding="utf-8").splitlines()) == 1200
    argv = ["tokenizer", "--train-path", str(out), "--vocab-size", "600", "--output", str(tmp_path / "tok")]
    assert run_command(main.main, argv) == 0
    assert (tmp_path / "tok/tokenizer.json").is_file()
    assert "bits per byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--config", "nowhere.yaml"], 2, "nowhere.yaml: no such file"),
        (["--set", "training.lrr=1"], 2, "did you mean training.lr?"),
        (["--train-path", "/nowhere/at/all"], 2, "data.train_path: /nowhere/at/all: no such file or folder"),
        (["--device", "tpu"], 2, "training.device: 'tpu' is not a device"),
        (["--set", "plugins=[nowhere.py]"], 2, "no such file"),
        (["--lr", "-1"], 2, "error: --lr: -1.0: input should be greater than 0"),
        (["--train-path", ""], 2, "error: --train-path: empty; give a value, or leave the flag out"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    argv: list[str], code: int, message: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--config" in argv else ["--config", str(config)]
    small = ["--set", "data.synthetic_words=1000"]
    assert run_command(main.main, [*given, *argv, *small, "--output-dir", str(tmp_path / "models")]) == code
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not [p for p in (tmp_path / "models").rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sweeep"], "error: sweeep: no such command; did you mean sweep? (a configuration is given by --config)"),
        (["config/x.yaml"], "error: config/x.yaml: no such command; known: "),
    ],
)
def test_an_unknown_command_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main.main, argv) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["synthetic", "--words", "0"], "argument --words: 0: at least 1000"),
        (
            ["tokenizer", "--train-path", "x", "--output", "y", "--vocab-size", "9"],
            "--vocab-size: 9: auto, or at least 260",
        ),
        (["generate", "x", "--temperature", "-1"], "argument --temperature: -1: at least 0"),
        (["generate", "x", "--num-samples", "no"], "argument --num-samples: invalid int value: 'no'"),
    ],
)
def test_numbers_out_of_range_are_refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_an_error_of_ours_is_one_line_and_debug_shows_more(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(argv: object) -> int:
        raise RuntimeError("first line\nsecond line")

    assert run_command(broken, []) == 1
    assert capsys.readouterr().err == "internal error: RuntimeError: first line (--debug shows the traceback)\n"
    assert run_command(broken, ["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_answers_at_once() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        told = subprocess.run(
            [sys.executable, "main.py", "--help"],
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        times.append(time.perf_counter() - started)
    assert "commands:" in told.stdout
    assert min(times) < 2.0, times  # 0.2 s on an idle machine; other work may run beside the tests
    code = "import sys, main; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    heavy = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert heavy.strip() == "[]"


def test_version_presets_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["--version"])
    assert ended.value.code == 0
    assert main.main(["schema"]) == 0
    assert main.main(["presets"]) == 0
    assert "llama-10M" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expression"),
    [
        ([], "not slow and not gpu"),
        (["--fast"], "not integration and not slow and not gpu"),
        (["--integration"], "integration and not slow and not gpu"),
    ],
)
def test_the_test_runner_selects(flags: list[str], expression: str) -> None:
    import argparse

    chosen = {"fast": False, "integration": False, "all": False, "coverage": True, "no_lint": False, "workers": 3}
    chosen |= {flag.strip("-"): True for flag in flags}
    commands = run_tests.commands(argparse.Namespace(**chosen))
    assert [c[2] for c in commands] == ["ruff", "black", "pytest"]
    assert expression in commands[-1]
    assert "--cov-report=html" in commands[-1]
    assert commands[-1][commands[-1].index("-n") + 1] == "3"
    assert "-n" not in run_tests.commands(argparse.Namespace(**chosen | {"workers": 1}))[-1]


@pytest.mark.integration
def test_distill_from_the_command_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher, then its student by `distill`; a missing teacher is one line."""
    monkeypatch.chdir(tmp_path)
    text = ["--train-path", str(corpus(tmp_path / "text", 300)), "--output-dir", str(tmp_path / "models")]
    assert run_command(main.main, ["train", "--config", str(config), *text, "--model-name", "teacher"]) == 0
    student = ["distill", "--student-config", str(config), *text, "--model-name", "student"]
    capsys.readouterr()
    assert run_command(main.main, [*student, "--teachers", "models/teacher"]) == 0
    assert "teachers: models/teacher" in capsys.readouterr().out
    assert "Student and teachers" in (tmp_path / "models/student/report.html").read_text(encoding="utf-8")
    nobody = [*student[:-1], "other", "--teachers", "models/nobody"]
    assert run_command(main.main, nobody) == 2
    told = capsys.readouterr().err
    assert "distillation.teachers: models/nobody: no such checkpoint folder" in told
    assert not (tmp_path / "models/nobody").exists()
    assert told.count("\n") == 1
