"""The presets as a table: parameters, memory to train, tokens per step, all computed from the files."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from babyllama.architectures import count_parameters
from babyllama.common.units import human_bytes, human_count
from babyllama.config.loading import load_config
from babyllama.config.run_layout import preset_paths

BYTES_PER_PARAMETER = 16  # float32 weights, gradients and two moments
BYTES_PER_ACTIVATION = 34  # per token, layer and width in bf16: about 17 values kept for the backward pass


@dataclass(frozen=True)
class Preset:
    """One preset's figures; memory is an estimate of weights, optimizer state and activations."""

    name: str
    type: str
    parameters: int
    tokens_per_step: int
    epochs: float
    memory_bytes: int


def presets() -> list[Preset]:
    """All presets, smallest first."""
    found = []
    for name, path in preset_paths().items():
        config = load_config(path)
        parameters = count_parameters(config, config.data.vocab_size)
        tokens = config.training.batch_size * config.data.seq_length
        micro = tokens // config.training.gradient_accumulation_steps
        activations = micro * config.model.n_layer * config.model.hidden_size * BYTES_PER_ACTIVATION
        memory = parameters * BYTES_PER_PARAMETER + activations
        found.append(Preset(name, config.model.type, parameters, tokens, config.training.num_epochs, memory))
    return sorted(found, key=lambda preset: preset.parameters)


def presets_table() -> None:
    """Print the presets."""
    from rich.console import Console
    from rich.table import Table

    table = Table("preset", "type", "parameters", "tokens per step", "epochs", "memory (estimate)")
    for p in presets():
        memory = human_bytes(p.memory_bytes)
        table.add_row(p.name, p.type, human_count(p.parameters), f"{p.tokens_per_step:,}", f"{p.epochs:g}", memory)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
