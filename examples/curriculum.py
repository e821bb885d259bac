r"""A curriculum with a difficulty of one's own, and a callback that watches it.

    python train.py --config config/llama-10M.yaml --set "plugins=[examples/curriculum.py]" \
        --set curriculum.difficulty=clauses --set curriculum.schedule=root --set curriculum.full_at=0.6 \
        --model-name clauses --set data.synthetic_words=20000 --max-steps 10

The difficulty of a document is a rough count of clauses a sentence: words that join or open clauses, and commas. A
chunk of the training text has the mean over its tokens. The same class serves a loop of one's own:

    from babyllama.research.curriculum import CurriculumDataset

    curriculum = CurriculumDataset(texts, difficulty_fn=len, epochs=3)
    for epoch in range(3):
        for text in curriculum.get_batch_by_difficulty(epoch):
            ...
"""

from __future__ import annotations

import re
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common.console import say
from babyllama.data.documents import Document
from babyllama.plugins import register_callback, register_difficulty

JOINS = re.compile(r"\b(?:and|but|because|that|which|who|whom|whose|when|while|if|although|before|after|so)\b|,", re.I)
SENTENCE = re.compile(r"[.?!]+|\n")


def clauses_per_sentence(document: Document) -> float:
    """Clause openers and commas per sentence.

    Args:
        document: Has `.text` and `.domain`.
    """
    return len(JOINS.findall(document.text)) / (len(SENTENCE.findall(document.text)) or 1)


class HalfTime(TrainerCallback):
    """Says how the held-out loss stands at half of the run."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Called by the Trainer after each point of the held-out curve."""
        if state.global_step <= state.max_steps / 2:
            say(f"first half: held-out loss {metrics['valid_loss']:.3f} at step {state.global_step:,}")


register_difficulty("clauses", clauses_per_sentence)
register_callback(lambda config: HalfTime())
