"""How fast text is prepared and chunks are loaded, and in how much memory.

    python -m tests.speed.data_speed data/babylm_like
    python -m tests.speed.data_speed --make 2000 /tmp/large/text.train      # a synthetic text of 2 GB
    python -m tests.speed.data_speed /tmp/large/text.train --rounds 1 --only-prepare

Prepares the text three times into a fresh cache (read, clean, train the tokenizer, tokenize, write), starts once more
from the cache (in a process of its own, with what that read from the disk), then draws an epoch of training batches;
prints MB/s, seconds, tokens/s, where the time goes, and the peak memory of all processes. `--only-prepare` leaves out
the epoch and the parts, which read a large text again. `--stock` also tokenizes it the usual way, `datasets.map` in two
processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.speed.make_text import write_text
from tests.speed.memory_watch import MemoryWatch


def parts(path: str) -> dict[str, float]:
    """Seconds of each part alone: cleaning, training the tokenizer, tokenizing."""
    from babyllama.config.schema import DataConfig
    from babyllama.data.tokenizer import encode_documents, train_tokenizer
    from data_utils import DataProcessor

    started = time.perf_counter()
    texts = [document.text for document in DataProcessor(DataConfig(train_path=path)).train_documents()]
    cleaned = time.perf_counter()
    tokenizer = train_tokenizer(texts, 16_000)
    trained = time.perf_counter()
    encode_documents(tokenizer, texts)
    return {"clean": cleaned - started, "train": trained - cleaned, "tokenize": time.perf_counter() - trained}


def prepare(path: str, cache: Path, num_proc: int | None = None) -> tuple[float, Any]:
    """Seconds of one whole preparation, and what came out."""
    from babyllama.config.schema import DataConfig
    from data_utils import DataProcessor

    started = time.perf_counter()
    data = DataProcessor(DataConfig(train_path=path, cache_dir=str(cache), num_proc=num_proc)).prepare()
    return time.perf_counter() - started, data


def loader_rate(data: Any) -> float:
    """Tokens/s of an epoch of batches of 32 x 128, as the training draws them."""
    import torch

    from babyllama.data.packing import PackedDataset
    from babyllama.training.trainer import collate_for_training

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


START = """
import json, sys, time
started = time.perf_counter()
from babyllama.data.packing import PackedDataset
from babyllama.config.schema import DataConfig
from data_utils import DataProcessor
imported = time.perf_counter()
def read_bytes():
    return int(next(line for line in open("/proc/self/io") if line.startswith("rchar")).split()[1])
before = read_bytes()
data = DataProcessor(DataConfig(train_path=sys.argv[1], cache_dir=sys.argv[2])).prepare()
prepared = time.perf_counter()
packed = PackedDataset(data.train, 128, pad_id=0, seed=0, shuffle=True)
packed.__getitems__(list(range(32)))
print(json.dumps({"from_cache": data.from_cache, "seconds": prepared - imported,
    "seconds_to_first_batch": time.perf_counter() - imported, "seconds_of_imports": imported - started,
    "megabytes_read": (read_bytes() - before) / 1e6, "megabytes_of_tokens": data.train.tokens.nbytes / 1e6}))
"""


def second_start(path: str, cache: Path) -> dict[str, Any]:
    """A start from the cache in a new process: seconds, and megabytes read in all (a library's code among them)."""
    made = subprocess.run(
        [sys.executable, "-c", START, path, str(cache)], capture_output=True, encoding="utf-8", check=True
    )
    return json.loads(made.stdout.splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    place = Path(args.path)
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    seconds = []
    with tempfile.TemporaryDirectory(dir=args.cache) as name, MemoryWatch() as memory:
        for number in range(args.rounds):
            spent, data = prepare(args.path, Path(name) / str(number), args.num_proc)
            seconds.append(spent)
        found = {
            "megabytes": size,
            "tokens": len(data.train.tokens),
            "prepare_seconds": statistics.median(seconds),
            "prepare_megabytes_per_second": size / statistics.median(seconds),
            "peak_resident_megabytes": memory.resident,
            "peak_proportional_megabytes": memory.proportional,
            "second_start": second_start(args.path, Path(name) / str(args.rounds - 1)),
            "notes": data.notes,
        }
        if not args.only_prepare:
            found["loader_tokens_per_second"] = loader_rate(data)
            found["seconds_of_the_parts_alone"] = parts(args.path)
        if args.stock:
            found["stock_seconds"] = stock(args.path, data.tokenizer)
    return found


def main() -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-proc", type=int)
    parser.add_argument("--cache", help="where the temporary cache goes (default: the system's temporary folder)")
    parser.add_argument("--only-prepare", action="store_true")
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--make", type=int, metavar="MB", help="write a synthetic text of MB megabytes to path")
    args = parser.parse_args()
    if args.make:
        Path(args.path).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(args.path), args.make)
        return 0
    print(json.dumps(measure(args), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
