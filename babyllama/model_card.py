"""README.md of a run: a model card made from the facts that the run recorded."""

from __future__ import annotations

from pathlib import Path


def write_model_card(run_dir: Path) -> Path:
    """Placeholder until the card is written."""
    return run_dir / "README.md"
