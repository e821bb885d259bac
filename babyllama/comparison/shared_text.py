"""Which held-out text do several runs share?

Perplexities compare only on the same text. Each run records the fingerprint of its held-out documents (their domains
and texts, after cleaning); runs agree where the fingerprints do. The text itself is then read by the first run that
still finds it, and checked against the fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from babyllama.common.errors import BabyLlamaError
from babyllama.data.documents import Document, documents_fingerprint


def shared_documents(runs: Sequence[Any]) -> tuple[list[Document] | None, str]:
    """Return the documents on which all runs were held out.

    Args:
        runs: Each with `name`, `held_out_fingerprint` and `evaluator.documents`.

    Returns:
        The documents and "", or None and the reason why there are none.
    """
    prints: dict[str, list[Any]] = {}
    for run in runs:
        try:
            prints.setdefault(run.held_out_fingerprint, []).append(run)
        except BabyLlamaError as error:
            return None, f"{run.name} has no held-out set that can be read ({error})"
    if len(prints) > 1:
        parts = "; ".join(", ".join(run.name for run in same) for same in prints.values())
        return None, f"the runs were held out on different text ({parts})"
    why = "no run"
    for run in runs:
        try:
            documents = run.evaluator.documents
        except BabyLlamaError as error:
            why = f"the held-out text of {run.name} cannot be read ({error})"
            continue
        if documents_fingerprint(documents) == run.held_out_fingerprint:
            return documents, ""
        why = "the held-out text has changed since the training"
    return None, why
