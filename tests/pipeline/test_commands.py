"""The tree of commands: every command has its flags and a description, and a flag in front of a command is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import main
from babyllama.common.errors import BabyLlamaError, ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help_and_a_description(name: str) -> None:
    _, parsers = main.build_parser()
    text = parsers[name].format_help()
    assert text.startswith(f"usage: main.py {name}")
    assert parsers[name].description
    assert callable(main.COMMANDS[name].attribute("run"))


def test_the_help_lists_every_command_and_loads_none_of_them() -> None:
    code = (
        "import sys, main\n"
        "try:\n    main.main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'scipy'} & set(sys.modules)\n"
        "assert 'babyllama.corpus.command' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"    {name} " in done.stdout or f"    {name}\n" in done.stdout for name in main.COMMANDS)


def test_no_commands_flags_load_what_only_its_work_needs() -> None:
    """`completion` fills every parser, and a shell asks for it when it starts."""
    code = (
        "import sys, main\nmain.whole_parser()\n"
        "assert not {'torch', 'transformers', 'datasets', 'scipy', 'pandas'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr


def test_flags_in_front_of_a_command_are_not_lost_in_silence() -> None:
    with pytest.raises(ConfigError, match="train: a command comes first"):
        main.main(["--lr", "1e-3", "train"])


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "llama-10M", "--train-path", "a.txt", "--train-path", "b.txt"],
        ["train", "--config", "llama-10M", "--lr", "1e-3", "--lr", "1e-4"],
        ["prepare", "--babylm-10m", "a", "--babylm-10m", "b"],
        ["export", "RUN", "--gguf", "--output", "a.gguf", "--output", "b.gguf"],
    ],
)
def test_a_flag_given_twice_never_drops_its_first_value(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main(argv)
    said = capsys.readouterr().err
    assert "given twice, and the last would win" in said
    assert ("Several texts" in said) == (argv[-2] in {"--train-path", "--babylm-10m"})  # not of a rate


def test_a_path_at_home_without_a_home_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container's random user has no HOME and no entry: `internal error: RuntimeError`, exit 1."""
    from babyllama.common.command import run_command

    def expand(_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", expand)
    assert run_command(main.main, ["--config", "llama-10M", "--train-path", "~/texts"]) == 2
    assert "error: a path begins with ~, and HOME is not set" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"]])
def test_a_pattern_that_the_shell_expanded_names_the_form_that_works(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        path.write_text("text", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main.main([*command, "--config", "llama-10M", "--train-path", *map(str, paths)])
    assert "a pattern in quotes, 'texts/*.txt'" in capsys.readouterr().err


def test_values_that_add_up_are_all_taken() -> None:
    parser, _ = main.build_parser()
    args = parser.parse_args(["evaluate", "RUN", "--eval-data", "a", "--eval-data", "b", "c"])
    assert args.eval_data == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("surprisal", ["RUN", "stimuli.csv", "--output"]),
        ("benchmark", ["RUN", "--output"]),
        ("corpus", ["texts", "--output"]),
        ("tokenizer", ["train", "--train-path", "texts", "--output"]),
        ("tokenizer", ["inspect", "RUN", "--text", "texts", "--output"]),
    ],
)
def test_an_output_that_cannot_be_is_told_before_anything_is_loaded(
    command: str, flag: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RUN does not exist: what is told first is what is looked at first."""
    (tmp_path / "stimuli.csv").write_text("text\nThe dog ran.\n", encoding="utf-8")
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    flag = [str(tmp_path / part) if part == "stimuli.csv" else part for part in flag]
    for target in ("note.txt/below/x.csv", "stimuli.csv"):
        with pytest.raises(BabyLlamaError, match=r"--output"):
            main.main([command, *flag, str(tmp_path / target)])
    assert (tmp_path / "stimuli.csv").read_text(encoding="utf-8").startswith("text\nThe dog")
