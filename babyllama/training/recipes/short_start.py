"""Short chunks first (`data.start_length`): the first share of the steps sees each chunk cut into shorter ones.

A step's tokens, their order and its words stay what they are: a batch of 32 chunks of 128 tokens is shown as 64 chunks
of 64. So milestones, epochs and the schedule do not move, and a resume knows by its step which length is due. What is
lost is context: nothing precedes the first token of a piece, so it is not predicted.
"""

from __future__ import annotations

from torch import Tensor

from babyllama.config.schema import DataConfig
from babyllama.models.fused_loss import IGNORE


def short_steps(data: DataConfig, total_steps: int) -> int:
    """Return how many steps are trained on short chunks.

    >>> short_steps(DataConfig(seq_length=128, start_length=64), 101), short_steps(DataConfig(), 101)
    (50, 0)
    """
    return int(data.start_share * total_steps) if data.start_length is not None else 0


def cut_chunks(batch: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """Cut the chunks of a batch into shorter ones.

    Args:
        batch: input_ids and labels, each (B, T), T a multiple of `length`.
        length: Tokens of a piece.

    Returns:
        The same tokens as (B T / length, length); the first label of each piece is -100.
    """
    labels = batch["labels"].reshape(-1, length).clone()
    labels[:, 0] = IGNORE
    return {"input_ids": batch["input_ids"].reshape(-1, length), "labels": labels}
