"""Scores on the device against the CPU's: perplexity, every choice of minimal pairs, greedy text.

Once in a fresh process, and once in one that has just trained in low precision: what a training sets (TF32, autocast)
must not reach the scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.gpu.rows import Report, Spec
from tests.gpu.runs import configuration, trainer_of

RELATIVE = 1e-6
NARROW = 1e-4  # nats; a choice may differ only where the CPU's own scores are nearer than rounding


def scores(spec: Spec) -> Report:
    """All three, `options.after_training` after a training in the same process."""
    model_dir, texts, pairs = material(spec)
    wanted = measure(model_dir, "cpu", texts, pairs)
    if spec.options.get("after_training"):
        trainer_of(configuration(spec, name="before", max_steps=5)).train()
    found = measure(model_dir, spec.device, texts, pairs)
    report = Report({"documents": len(texts), "pairs": len(pairs)})
    report.limit("relative difference of the loss", abs(found["loss"] / wanted["loss"] - 1), RELATIVE)
    differ = [
        number
        for number, (a, b) in enumerate(zip(found["margins"], wanted["margins"], strict=True))
        if (a > 0) != (b > 0) and abs(b) > NARROW
    ]
    exact = sum((a > 0) == (b > 0) for a, b in zip(found["margins"], wanted["margins"], strict=True))
    report.figures |= {"equal choices": exact, "largest difference of a margin": largest(found, wanted)}
    report.expect(not differ, f"other choices at pairs {differ[:5]}")
    report.expect(found["text"] == wanted["text"], f"greedy text {found['text']!r}, the CPU's {wanted['text']!r}")
    return report


def largest(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Largest difference between two runs' margins (nats)."""
    return max(abs(a - b) for a, b in zip(found["margins"], wanted["margins"], strict=True))


def material(spec: Spec) -> tuple[Path, list[Any], list[Any]]:
    """A checkpoint, documents, pairs: real ones where --data has them, else of the embedded corpus."""
    from babyllama.data.synthetic import generate_documents, minimal_pairs
    from babyllama.evaluation.minimal_pairs import load_pairs, pairs_from_records
    from data_utils import raw_documents

    checkpoint = spec.data / "checkpoints" / "stories260K-hf" if spec.data is not None else None
    if checkpoint is not None and checkpoint.is_dir():
        documents = raw_documents([str(spec.data / "corpora" / "tinystories" / "tinystories.dev")])
        pairs = load_pairs(spec.data / "evals" / "blimp")
        count = (20, 134) if spec.quick else (200, 3_000)
        return checkpoint, documents[: count[0]], pairs[:: len(pairs) // count[1]][: count[1]]
    trainer = trainer_of(configuration(spec, name="scored", max_steps=20, device="cpu"))
    trainer.train()
    folder = spec.scratch / "scored"
    trainer.model.save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
    texts = "\n\n".join(document.text for document in generate_documents(words=3_000, seed=99))
    path = spec.scratch / "held.txt"
    path.write_text(texts, encoding="utf-8")
    return folder, raw_documents([str(path)]), pairs_from_records(minimal_pairs(0))[: 100 if spec.quick else 3_000]


def measure(folder: Path, device: str, documents: list[Any], pairs: list[Any]) -> dict[str, Any]:
    """Loss, margins of the pairs, and 40 greedy tokens, by the functions that evaluate.py calls."""
    from babyllama.evaluation.generation import generate
    from babyllama.evaluation.pair_scoring import score_pairs
    from babyllama.evaluation.perplexity import bos_id, encode_text, score_documents
    from evaluate import ModelEvaluator

    evaluator = ModelEvaluator(folder, device)
    model, tokenizer = evaluator.model, evaluator.tokenizer
    scored = score_documents(model, tokenizer, documents, window=evaluator.window)
    first = bos_id(tokenizer)
    goods = encode_text(tokenizer, [pair.good for pair in pairs])
    bads = encode_text(tokenizer, [pair.bad for pair in pairs])
    margins = [good - bad for good, bad in score_pairs(model, list(zip(goods, bads, strict=True)), first)]
    greedy = {"window": evaluator.window, "max_new_tokens": 40, "temperature": 0.0}
    [sample] = generate(model, tokenizer, ["The"], **greedy)
    return {"loss": scored.nll.sum() / scored.tokens.sum(), "margins": margins, "text": sample.completion}
