"""What a GGUF file is worth, read by llama.cpp: `python -m tests.speed.gguf_scores RUN --text FILE`.

Three figures: lines of a text that get the same ids (10,000 lines and the odd texts of the built-in check), the
largest difference of a log-probability over the whole vocabulary after 200 prefixes of held-out documents (float32
weights), and bits per byte of 200 held-out documents for each type of weights, token by token as llama.cpp computes
them, in the windows of the run's own score. Needs gguf and xllamacpp. docs/sharing.md has what came out.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from babyllama.evaluation.perplexity import bos_id, encode_text, rolling_windows
from babyllama.sharing import gguf_check
from babyllama.sharing.gguf_model import QUANTIZATIONS, write_gguf
from babyllama.sharing.gguf_tokenizer import read_bpe
from babyllama.sharing.llama_cpp import LlamaCpp
from evaluate import ModelEvaluator

IGNORE = -100


def bits_per_byte(reader: LlamaCpp, windows: list[tuple[list[int], list[int]]], num_bytes: int) -> float:
    """Bits per byte of documents cut into windows, each token's log-probability asked alone."""
    nats = 0.0
    for ids, targets in windows:
        for place, target in enumerate(targets):
            if target != IGNORE:
                nats -= reader.log_prob(ids[: place + 1], target)
    return nats / math.log(2) / num_bytes


def largest_difference(reader: LlamaCpp, model: Any, windows: list[tuple[list[int], list[int]]], count: int) -> float:
    """Largest difference of a log-probability over the whole vocabulary after `count` prefixes of any length."""
    draw = np.random.default_rng(0)
    largest = 0.0
    for number in range(count):
        ids = windows[number * len(windows) // count][0]
        prefix = ids[: int(draw.integers(1, len(ids) + 1))]
        (ours,) = gguf_check.model_log_probs(model, [prefix])
        largest = max(largest, float(np.abs(ours[-1] - reader.log_probs(prefix)).max()))
    return largest


def same_lines(reader: LlamaCpp, tokenizer: Any, lines: list[str]) -> int:
    """Number of lines that get the same ids."""
    return sum(reader.encode(line) == gguf_check.encode_plainly(tokenizer, line) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--text", nargs="+", default=[], help="files whose lines are tokenized")
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--characters", type=int, help="score the beginning of each document only: a token takes 4 ms")
    parser.add_argument("--prefixes", type=int, default=200)
    parser.add_argument("--types", default=",".join(sorted(QUANTIZATIONS, reverse=True)))
    args = parser.parse_args()
    evaluator = ModelEvaluator(args.run, device="cpu")
    model, tokenizer = evaluator.model, evaluator.tokenizer
    every = max(1, len(evaluator.documents) // args.documents)
    documents = evaluator.documents[::every][: args.documents]
    if args.characters:
        documents = [replace(document, text=document.text[: args.characters]) for document in documents]
    figures = evaluator.calculate_perplexity(documents)
    encoded = encode_text(tokenizer, [document.text for document in documents])
    windows = [w for ids in encoded for w in rolling_windows(ids, bos_id(tokenizer), evaluator.window)]
    print(
        f"{len(documents)} documents, {figures['total_tokens']:,} tokens, transformers: {figures['bits_per_byte']:.5f}"
    )
    for kind in dict.fromkeys(args.types.split(",")):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            written = write_gguf(model, read_bpe(tokenizer), Path(folder) / "x.gguf", kind)
            reader = LlamaCpp(written.path, model.config.vocab_size, model.config.max_position_embeddings)
            if kind == "f32":
                texts = [line for path in args.text for line in Path(path).read_text(encoding="utf-8").split("\n")]
                lines = texts[:: max(1, len(texts) // args.lines)][: args.lines] + list(gguf_check.ODD_TEXTS)
                print(f"ids: {same_lines(reader, tokenizer, lines):,} of {len(lines):,} lines the same")
                print(f"log-probabilities: {largest_difference(reader, model, windows, args.prefixes):.2e} at most")
            value = bits_per_byte(reader, windows, figures["total_bytes"])
        change = 100 * (value / figures["bits_per_byte"] - 1)
        seconds = time.monotonic() - started
        print(
            f"{kind:>5}: {written.bytes / 1e6:6.1f} MB, {value:.5f} bits/byte ({change:+.3f}%), {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
