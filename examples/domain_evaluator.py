"""An evaluator with a measure of one's own: how often does the model name a word of the domain after a prompt?

    python examples/domain_evaluator.py models/Llama-10M

A subclass has everything the evaluator has: `self.model`, `self.tokenizer`, `self.generate`, `self.documents`. The
result is saved and shown in the report under its own heading.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluate import ModelEvaluator

PROMPTS: dict[str, Sequence[str]] = {
    "The dog ran to the": ("house", "river", "tree", "door", "garden", "street", "park"),
    "She gave the baby a": ("kiss", "ball", "toy", "cup", "doll", "name", "hug"),
    "In the morning he ate an": ("egg", "apple", "orange"),
}


class DomainEvaluator(ModelEvaluator):
    """ModelEvaluator with a measure of domain knowledge."""

    def evaluate_domain_knowledge(self, domain_prompts: Mapping[str, Sequence[str]], tries: int = 10) -> dict[str, Any]:
        """Share of continuations whose first word is one of the expected.

        Args:
            domain_prompts: Prompt -> words that fit.
            tries: Continuations of each prompt.

        Returns:
            Share by prompt, and `mean` over prompts.
        """
        shares = {}
        for prompt, expected in domain_prompts.items():
            texts = self.generate([prompt] * tries, max_new_tokens=6)
            first = [(text.split() or [""])[0].strip(".,!?").lower() for text in texts]
            shares[prompt] = sum(word in expected for word in first) / tries
        return {"prompts": shares, "mean": sum(shares.values()) / len(shares)}


def main() -> int:
    """Score a checkpoint and save the result beside it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--output", help="folder for results and report; default: the checkpoint's")
    args = parser.parse_args()
    evaluator = DomainEvaluator(args.checkpoint)
    results = evaluator.run(["generation"])
    results["domain_knowledge"] = evaluator.evaluate_domain_knowledge(PROMPTS)
    print(f"domain knowledge: {results['domain_knowledge']['mean']:.0%}")
    print(f"written: {evaluator.save(results, args.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
