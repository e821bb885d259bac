"""The tree of commands: every command has its flags and a description, and a flag in front of a command is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import main
from babyllama.common.errors import ConfigError

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
