"""One family of errors, each with the exit code that the command line returns.

A message is one line that says what is wrong, where, and what to do next. The command line prints it without a
traceback (`--debug` shows one). Codes: 0 done, 1 failed in part or our fault, 2 configuration or data, 3 damaged
checkpoint, 4 numeric (NaN), 5 disk, 128 + signal number after a signal (130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1).
"""

from __future__ import annotations


class BabyLlamaError(Exception):
    """Base of all errors that are the user's to mend; `exit_code` is what the process returns."""

    exit_code = 1


class ConfigError(BabyLlamaError):
    """A configuration that cannot be used. Carries every problem found, one line each."""

    exit_code = 2

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PluginError(ConfigError):
    """A plugin's code raised; the message names its file and line, what it was called for and its error."""


class DataError(BabyLlamaError):
    """Text, pairs or prompts that cannot be read; the message names file, line or byte."""

    exit_code = 2


class CheckpointError(BabyLlamaError):
    """A checkpoint that is damaged, incomplete or not a causal language model."""

    exit_code = 3


class NumericError(BabyLlamaError):
    """The loss or the weights are not finite."""

    exit_code = 4


class DiskError(BabyLlamaError):
    """The disk is full, or a folder cannot be written."""

    exit_code = 5


class Interrupted(BabyLlamaError):
    """A signal ended the training after its checkpoint was written."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
