"""Log-probabilities of given tokens: several targets of one position."""

from __future__ import annotations

import pytest
import torch

from babyllama.evaluation import log_probs


def test_several_targets_of_one_row_are_read_from_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "CPU_BLOCK_ROWS", 3)
    torch.manual_seed(0)
    rows, head = torch.randn(8, 5), torch.nn.Linear(5, 11, bias=False)
    owners = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 6, 7])
    targets = torch.arange(12) % 11
    found = log_probs.shared_row_log_probs(rows, owners, targets, head)
    assert torch.allclose(found, log_probs.target_log_probs(rows[owners], targets, head), atol=1e-5)
