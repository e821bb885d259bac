"""Completion of commands, flags and configuration keys in bash and zsh, made from the parsers by shtab.

    eval "$(babyllama completion bash)"                          in ~/.bashrc
    babyllama completion zsh > "${fpath[1]}/_babyllama"          for zsh

The script is static: pressing the tab key starts no Python. `--set` offers every key of the schema with its `=`,
`--config` the presets and YAML files, a flag with choices its choices, and what takes a path completes paths.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from babyllama.config.run_layout import preset_paths
from babyllama.config.schema import SECTIONS

PROGRAM = "babyllama"
FOLDERS = {"DIR", "RUN"}
FILES = {"FILE", "PATH", "TOKENIZER", "TEXT"}
KEYS_FUNCTION, CONFIGS_FUNCTION = "_babyllama_keys", "_babyllama_config_file"


def configuration_keys() -> list[str]:
    """Every key that `--set` takes, as `section.key`, in the order of the schema."""
    return [f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.model_fields] + ["plugins"]


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell.

    Args:
        parser: The program's parser with all its sub-commands.
        shell: bash or zsh.
    """
    import shtab

    parser.prog = PROGRAM
    for action in _actions(parser):
        kind = action.metavar if isinstance(action.metavar, str) else None
        if "--set" in action.option_strings:
            action.complete = {"bash": KEYS_FUNCTION, "zsh": KEYS_FUNCTION}
        elif "--config" in action.option_strings:
            action.complete = {"bash": CONFIGS_FUNCTION, "zsh": CONFIGS_FUNCTION}
        elif kind in FOLDERS:
            action.complete = shtab.DIRECTORY
        elif kind in FILES or action.dest in {"data.train_path", "data.eval_path", "checkpoints"}:
            action.complete = shtab.FILE
    script = shtab.complete(parser, shell, preamble={shell: _PREAMBLES[shell]()})
    return script + (_WITHOUT_SPACE if shell == "bash" else "")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its sub-commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)
        else:
            yield action


def _bash_preamble() -> str:
    keys = " ".join(f"{key}=" for key in configuration_keys())
    return (
        f'{KEYS_FUNCTION}() {{\n  compgen -W "{keys}" -- "$1"\n}}\n'
        f'{CONFIGS_FUNCTION}() {{\n  compgen -W "{" ".join(preset_paths())}" -- "$1"\n'
        '  compgen -f -X "!*.yaml" -- "$1"\n  compgen -d -- "$1"\n}\n'
    )


def _zsh_preamble() -> str:
    keys = " ".join(f"{key}=" for key in configuration_keys())
    return (
        f"{KEYS_FUNCTION}() {{\n  compadd -S '' -- {keys}\n}}\n"
        f"{CONFIGS_FUNCTION}() {{\n  compadd -- {' '.join(preset_paths())}\n  _files -g '*.yaml'\n}}\n"
    )


_PREAMBLES = {"bash": _bash_preamble, "zsh": _zsh_preamble}

# A key ends in "=": the value follows without a space. compopt works in the completion function itself only.
_WITHOUT_SPACE = f"""
_{PROGRAM}_without_space() {{
  _shtab_{PROGRAM} "$@"
  if [[ ${{#COMPREPLY[@]}} -gt 0 && ${{COMPREPLY[0]}} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}}
complete -o bashdefault -F _{PROGRAM}_without_space {PROGRAM}
"""
