"""An evaluation task and a benchmark as a plugin: the share of words of a text that end like another word of it.

    python evaluate.py models/Llama-10M --plugin examples/evaluation_task.py --tasks perplexity,rhyme
    python benchmark.py models/* --plugin examples/evaluation_task.py --benchmarks rhyme

A plugin is an ordinary Python file that calls `register_...` when it is imported; it is run only because it is named on
the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from babyllama.plugins import register_benchmark, register_task

if TYPE_CHECKING:
    from evaluate import ModelEvaluator


def rhyme(evaluator: ModelEvaluator, options: dict[str, Any]) -> dict[str, Any]:
    """Share of generated words that share their last three letters with a different word of the same text.

    Args:
        evaluator: The ModelEvaluator.
        options: Unused here; what `evaluator.run(options=...)` was given.

    Returns:
        `rhyming_words`, a share, and `num_words`.
    """
    rhyming = total = 0
    for text in evaluator.generate(["Once upon a time"] * 4, max_new_tokens=40):
        words = [word.strip(".,!?").lower() for word in text.split()]
        for word in words:
            rhyming += any(other != word and other[-3:] == word[-3:] for other in words if len(word) > 3)
        total += len(words)
    return {"rhyming_words": rhyming / total if total else None, "num_words": total}


register_task("rhyme", rhyme)
register_benchmark("rhyme", lambda run: rhyme(run.evaluator, {}))
