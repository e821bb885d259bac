"""How fast text is prepared and chunks are loaded.

    python -m tests.speed.data_speed data/babylm_like

Prepares the text three times into a fresh cache (read, clean, train the tokenizer, tokenize, write), once more from
the cache, then draws an epoch of training batches; prints MB/s, seconds and tokens/s, and where the time goes.
`--stock` also tokenizes it the usual way, `datasets.map` in two processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def parts(path: str) -> dict[str, float]:
    """Seconds of each part alone: cleaning, training the tokenizer, tokenizing."""
    from babyllama.schema import DataConfig
    from babyllama.tokenization import encode_documents, train_tokenizer
    from data_utils import DataProcessor

    started = time.perf_counter()
    texts = [document.text for document in DataProcessor(DataConfig(train_path=path)).train_documents()]
    cleaned = time.perf_counter()
    tokenizer = train_tokenizer(texts, 16_000)
    trained = time.perf_counter()
    encode_documents(tokenizer, texts)
    return {"clean": cleaned - started, "train": trained - cleaned, "tokenize": time.perf_counter() - trained}


def prepare(path: str, cache: Path) -> tuple[float, Any]:
    """Seconds of one whole preparation, and what came out."""
    from babyllama.schema import DataConfig
    from data_utils import DataProcessor

    started = time.perf_counter()
    data = DataProcessor(DataConfig(train_path=path, cache_dir=str(cache))).prepare()
    return time.perf_counter() - started, data


def loader_rate(data: Any) -> float:
    """Tokens/s of an epoch of batches of 32 x 128, as the training draws them."""
    import torch

    from babyllama.packing import PackedDataset
    from babyllama.trainer import collate_for_training

    packed = PackedDataset(data.train, 128, pad_id=0, seed=0, shuffle=True, random_offset=True, multiple_of=32)
    loader = torch.utils.data.DataLoader(packed, batch_size=32, shuffle=True, collate_fn=collate_for_training)
    started, tokens = time.perf_counter(), 0
    for batch in loader:
        tokens += batch["input_ids"].numel()
    return tokens / (time.perf_counter() - started)


def stock(path: str, tokenizer: Any) -> float:
    """Seconds of the usual way: load_dataset("text"), map(tokenize), map(group), two processes."""
    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        files = [str(p) for p in sorted(Path(path).glob("*.train"))]
        rows = load_dataset("text", data_files=files, cache_dir=cache, split="train")
        rows = rows.map(
            lambda batch: {"input_ids": tokenizer(batch["text"])["input_ids"]},
            batched=True,
            num_proc=2,
            remove_columns=["text"],
        )

        def group(batch: dict[str, Any]) -> dict[str, Any]:
            joined = [token for row in batch["input_ids"] for token in row]
            return {"input_ids": [joined[i : i + 128] for i in range(0, len(joined) - 127, 128)]}

        rows.map(group, batched=True, num_proc=2)
        return time.perf_counter() - started


def main() -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stock", action="store_true")
    args = parser.parse_args()
    size = sum(file.stat().st_size for file in Path(args.path).rglob("*") if file.is_file()) / 1e6
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(args.rounds):
            spent, data = prepare(args.path, Path(name) / str(number))
            seconds.append(spent)
        again, data = prepare(args.path, Path(name) / str(args.rounds - 1))
        found = {
            "megabytes": size,
            "prepare_seconds": statistics.median(seconds),
            "prepare_megabytes_per_second": size / statistics.median(seconds),
            "second_start_seconds": again,
            "loader_tokens_per_second": loader_rate(data),
            "seconds_of_the_parts_alone": parts(args.path),
        }
        if args.stock:
            found["stock_seconds"] = stock(args.path, data.tokenizer)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
