"""Completion in a real bash and a real zsh: the tab key is pressed in a terminal of its own."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from babyllama.config.completion import completion_script, configuration_keys
from babyllama.config.run_layout import preset_paths
from main import COMMANDS, whole_parser

pty = pytest.importorskip("pty", reason="Windows has no terminals of this kind")


def _script(shell: str, folder: Path) -> Path:
    path = folder / f"complete.{shell}"
    path.write_text(completion_script(whole_parser(), shell), encoding="utf-8")
    return path


def _bash(folder: Path, *words: str) -> list[str]:
    """What bash's completion function offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in ("babyllama", *words))
    code = (
        f"source {_script('bash', folder)}; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; "
        '_babyllama_without_space babyllama; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    return sorted(line for line in done.stdout.splitlines() if line)


def _typed(shell: list[str], start: str, keys: str, folder: Path, wait_for: str) -> str:
    """What a terminal shows after keys were typed into a shell."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="dumb", PS1="> ", HOME=str(folder), INPUTRC="/dev/null", COLUMNS="200")
        os.execvp(shell[0], shell)
    shown = ""

    def read_until(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 30
        while text not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                shown += os.read(terminal, 65536).decode(errors="replace")

    try:
        os.write(terminal, f"{start}\necho rea''dy\n".encode())
        read_until("ready")
        shown = ""
        os.write(terminal, keys.encode())
        read_until(wait_for)
        return shown
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")


def test_every_key_of_the_schema_is_offered() -> None:
    keys = configuration_keys()
    assert {"training.lr", "data.train_path", "model.n_kv_head", "logging.output_dir", "plugins"} <= set(keys)
    for shell in ("bash", "zsh"):
        script = completion_script(whole_parser(), shell)
        assert all(f"{key}=" in script for key in keys)
        assert all(name in script for name in preset_paths())


@needs_bash
def test_bash_offers_commands_flags_keys_presets_and_choices(tmp_path: Path) -> None:
    assert _bash(tmp_path, "") == sorted(COMMANDS)
    assert _bash(tmp_path, "pub") == ["publish"]
    assert _bash(tmp_path, "export", "x", "--quant") == ["--quantize"]
    assert _bash(tmp_path, "export", "x", "--quantize", "q") == ["q4_0", "q5_0", "q8_0"]
    assert _bash(tmp_path, "train", "--set", "training.lr") == ["training.lr=", "training.lr_scheduler="]
    assert set(_bash(tmp_path, "--config", "llama-1")) == {n for n in preset_paths() if n.startswith("llama-1")}
    assert set(_bash(tmp_path, "tokenizer", "")) == {"train", "inspect", "compare"}
    (tmp_path / "my_texts").mkdir()
    (tmp_path / "mine.yaml").write_text("", encoding="utf-8")
    assert "my_texts" in _bash(tmp_path, "--train-path", "my")
    assert "mine.yaml" in _bash(tmp_path, "--config", "mi")


@needs_bash
def test_the_tab_key_in_bash(tmp_path: Path) -> None:
    start = f"source {_script('bash', tmp_path)}"
    bash = ["bash", "--norc", "--noprofile", "-i"]
    assert "babyllama publish " in _typed(bash, start, "babyllama publ\t", tmp_path, "publish ")
    shown = _typed(bash, start, "babyllama --set training.warm\t", tmp_path, "warmup_steps=")
    assert shown.endswith("training.warmup_steps="), "the value follows without a space"


@needs_zsh
def test_the_tab_key_in_zsh(tmp_path: Path) -> None:
    shutil.copy(_script("zsh", tmp_path), tmp_path / "_babyllama")
    start = f"fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -d {tmp_path}/dump"
    zsh = ["zsh", "-f", "-i"]
    assert "publish" in _typed(zsh, start, "babyllama publ\t", tmp_path, "publish")
    assert "training.warmup_steps=" in _typed(
        zsh, start, "babyllama train --set training.warm\t", tmp_path, "warmup_steps="
    )
    assert "--quantize" in _typed(zsh, start, "babyllama export x --quant\t", tmp_path, "--quantize")
    assert "q8_0" in _typed(zsh, start, "babyllama export x --quantize q8\t", tmp_path, "q8_0")
