"""Every command that the guides show is one that the program takes.

The commands are read by bash itself, in an empty folder and with an empty PATH, so that variables, loops and quotes
mean what they mean in a shell; what bash would start is written down instead. Each is then given to the real parser,
and its configuration, its sweep's plan, its tasks and its files in the repository are checked as at a start.
"""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from babyllama.common.errors import ConfigError
from babyllama.config.loading import load_config
from babyllama.config.schema import SECTIONS, Config
from main import whole_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
STARTS = r"(?:python3?|babyllama|torchrun|accelerate|make|pip|pytest|nice|\.venv/bin/\w+|\$[A-Z]) |[A-Z]=\"|for \w+ in "
# What a reader puts in: <name>, BEST (of the sweep before), N (steps an epoch), FOLDER.
# [a|b|c] and a|b are one of these, [--flag] may be left out.
STAND_INS = [
    (r"\[(\w+)\|[^\]]*\]", r"\1"),
    (r"\[(--[^\]]+)\]", r"\1"),
    (r"\b(\w+)\|\w+\b", r"\1"),
    (r"<[\w -]+>", "NAME"),
    (r"\bstudent\.yaml\b", "distillation"),
    (r"\b(my_texts|quechua)\.yaml\b", "llama-10M"),  # what init writes
    (r"=BEST\b", "=0.5"),
    (r"\b(\d*)N\b", r"\g<1>548"),
    (r"(\s)\.\.\.(\s|$)", r"\1\2"),
]
OTHERS = {
    "pip",
    "make",
    "hf",
    "transformers",
    "lm_eval",
    "wandb",
    "ollama",
    "curl",
    "tail",
    "jupyter",
    "llama-cli",
    "open",
    "python3",
}
WORDS = ("train.py", "--config", "llama-10M")  # a program for a launcher that is named without one
WITHOUT_FLAGS = {"babyllama.config.reference"}
RECORD = """command_not_found_handle() { printf '%s\\0' "$@" >&3; printf '\\n\\0' >&3; }\n"""


def blocks(text: str) -> list[str]:
    """The code blocks of a page that hold shell commands: fenced ones without a language (or bash), indented ones."""
    found = re.finditer(
        r"^```(?P<language>\w*)\n(?P<fenced>.*?)^```|(?P<indented>(?:^    [^\n]*\n)+)", text + "\n", re.M | re.S
    )
    codes = [m["indented"] or m["fenced"] for m in found if m["language"] in {None, "", "bash", "console"}]
    return [code for code in codes if re.search(rf"^\s*(?:\$ )?(?:{STARTS})", code, re.M)]


def spans(text: str) -> list[str]:
    """The inline code of a page, a span that goes on in the next line as one."""
    text = re.sub(r"^```.*?^```|^    .*$", "", text, flags=re.M | re.S if "```" in text else re.M)
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def started(code: str, folder: Path) -> list[list[str]]:
    """What bash would start for a block of commands, in order."""
    code = re.sub(r"^\s*\$ (?=[a-z])", "", code.replace(".venv/bin/", ""), flags=re.M)
    for pattern, stand_in in STAND_INS:
        code = re.sub(pattern, stand_in, code)
    record = folder / "record"
    done = subprocess.run(
        [str(shutil.which("bash")), "--norc", "-c", f"exec 3>'{record}'\nPATH={folder}\n{RECORD}{code}\nwait"],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env={},
        check=False,
    )
    assert not done.stderr, done.stderr
    found = record.read_text(encoding="utf-8").split("\0\n\0")
    return [command.split("\0") for command in found if command]


class Parsed(Exception):
    """Raised where a program has read its flags and would begin to work."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.flags = args


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any], Sequence[str]], argparse.Namespace]:
    """Run a program up to the point where it has read its flags."""
    real = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: Any) -> NoReturn:
        raise Parsed(real(parser, *given))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.chdir(ROOT)

    def parsed(program: Callable[..., Any], arguments: Sequence[str]) -> argparse.Namespace:
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(Parsed) as caught:
            program()
        return caught.value.flags

    return parsed


def program_of(command: list[str]) -> tuple[Callable[..., Any], list[str], str]:
    """The function that a command starts, its arguments, and the program's name."""
    if command[1] == "-m" and command[2] not in {"pip", "pytest", "venv", "sphinx"}:
        return lambda: runpy.run_module(command[2], run_name="__main__"), command[3:], command[2]
    script = Path(command[1])
    if script.parent == Path():
        return importlib.import_module(script.stem).main, command[2:], script.stem
    return lambda: runpy.run_path(str(ROOT / script), run_name="__main__"), command[2:], str(script)


def check_values(name: str, arguments: Sequence[str], args: argparse.Namespace) -> None:
    """Check what a program checks before it works: the configuration, the plan of a sweep, names of tasks."""
    from babyllama import plugins
    from babyllama.config.flags import read_config
    from babyllama.evaluation.results.tasks import chosen_tasks
    from benchmark import BENCHMARKS
    from evaluate import TASKS

    plugins.load_plugins(getattr(args, "plugin", None) or [])
    if hasattr(args, "grid"):
        from babyllama.research.sweep_flags import check_page, sweep_options
        from babyllama.research.sweep_plan import plan_sweep

        args.config = args.config or "llama-10M"
        plan_sweep(sweep_options(args), lambda overrides: read_config(args, overrides))
        args.minimal_pairs = []  # the reader's own
        check_page(args, BENCHMARKS)
    elif hasattr(args, "overrides"):
        args.config = args.config or getattr(args, "student_config", None) or "llama-10M"
        read_config(args)
    if getattr(args, "tasks", None):
        chosen_tasks(args.tasks.split(","), [*TASKS, *plugins.TASKS])
    if getattr(args, "benchmarks", None):
        assert set(args.benchmarks.split(",")) <= {*BENCHMARKS, *plugins.BENCHMARKS}, arguments


def check(command: list[str], parse: Callable[..., argparse.Namespace]) -> None:
    """Check one command line.

    Raises:
        AssertionError: It starts what is not there, or what nobody knows.
    """
    if command[0] == "nice":
        command = command[3:] or ["true"]
    if command[0] in {"torchrun", "accelerate"} and not any(part.endswith((".py", "babyllama")) for part in command):
        command = [*command, *WORDS]
    if command[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        real = get_args_parser().parse_known_args(command[1:])[0]
        module = ["-m"] if real.module else []
        command = ["python", *module, real.training_script, *real.training_script_args]
    if command[:2] == ["accelerate", "launch"]:
        from accelerate.commands.launch import launch_command_parser

        real = launch_command_parser().parse_known_args(command[2:])[0]
        command = ["python", real.training_script, *real.training_script_args]
    if command[0] == "babyllama" or command[:3] == ["python", "-m", "babyllama"]:
        command = ["python", "main.py", *command[1 if command[0] == "babyllama" else 3 :]]
    if command[0] == "python" and command[1:3] not in (["-m", "pip"], ["-m", "pytest"], ["-m", "sphinx"]):
        if "--help" not in command and command[-1] not in WITHOUT_FLAGS:
            program, arguments, name = program_of(command)
            check_values(name, arguments, parse(program, arguments))
    elif command[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        assert set(command[1:]) <= set(targets), command
    elif "pip" in command[:3] and "install" in command:
        wanted = re.search(r"(?:\.|babyllama)\[([\w,]+)\]", " ".join(command))
        extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
        for extra in wanted[1].split(",") if wanted else []:
            assert re.search(rf"^{extra} = ", extras, re.M), command
    else:
        assert command[0] in OTHERS | {"pytest", "python", "true"}, command


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to read the commands")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_is_one_that_the_program_takes(
    page: Path, parse: Callable[..., argparse.Namespace], tmp_path: Path
) -> None:
    text = page.read_text(encoding="utf-8")
    inline = [span for span in spans(text) if re.match(STARTS, span + " ") and not span.endswith(("...", "-"))]
    codes = ["\n".join(blocks(text)), *(span for span in inline if not re.match(r"\$|make$|pip$|pytest$", span))]
    for command in [command for code in codes for command in started(code, tmp_path)]:
        try:
            check(command, parse)
        except (ConfigError, SystemExit) as error:
            raise AssertionError(f"{page.name}: {' '.join(command)}: {error}") from error


def test_the_pages_show_commands() -> None:
    assert sum(len(blocks(page.read_text(encoding="utf-8"))) for page in PAGES) > 25


KNOWN_KEYS = {f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_key_and_flag_in_a_sentence_exists(page: Path) -> None:
    flags = all_flags()
    for span in spans(page.read_text(encoding="utf-8")):
        settings = re.findall(r'--set "(?=[^"]+")([\w.]+)=([^"]+)"|--set ([\w.]+)=([^" ]+)', span)
        settings = [(a or c, b or d) for a, b, c, d in settings]
        for key, value in settings:
            assert key in KNOWN_KEYS or key in {*Config.model_fields, "KEY", "section.key"}, span
            if key in KNOWN_KEYS and not re.fullmatch(r"[A-Z]+", value):
                load_config("llama-10M", [f"{key}={value}"])
        if re.fullmatch(r"--[a-z][\w-]*", span):
            assert span in flags, span
        key = re.fullmatch(rf"((?:{'|'.join(SECTIONS)})\.\w+)(?:=.*)?", span)
        if key and not span.endswith((".py", ".safetensors")):
            assert key[1] in KNOWN_KEYS, span


def all_flags() -> set[str]:
    """Every flag of every command, of the tests that are commands, and of torchrun."""
    from torch.distributed.run import get_args_parser

    found = set(re.findall(r"--[a-z][-a-z]*", get_args_parser().format_help()))
    for path in [ROOT / "run_tests.py", *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").glob("*.py")]:
        found |= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', path.read_text(encoding="utf-8")))
    parsers = [whole_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            found |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return found
