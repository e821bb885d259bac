"""The presets as a table: parameters, memory to train, tokens per step, all computed from the files."""

from __future__ import annotations

import sys

from babyllama.common.units import human_bytes, human_count
from babyllama.models.architectures import presets


def presets_table() -> None:
    """Print the presets."""
    from rich.console import Console
    from rich.table import Table

    table = Table("preset", "type", "parameters", "tokens per step", "epochs", "memory (estimate)")
    for p in presets():
        memory = human_bytes(p.memory_bytes)
        table.add_row(p.name, p.type, human_count(p.parameters), f"{p.tokens_per_step:,}", f"{p.epochs:g}", memory)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
