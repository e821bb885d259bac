r"""Every n-th document of each domain of a corpus: a smaller text of the same make-up, to screen recipes on.

    python examples/quarter_of_text.py data/babylm_like data/quarter --every 4

A quarter of a text read ten times overfits as a whole text does that is read by a model four times as large, so
regularisers are chosen on it in a quarter of the time. The documents stand apart by `<|endoftext|>` lines, uncleaned,
so that a training cleans them as it would have cleaned the whole text. Held-out files are copied whole.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from babyllama.common.console import say
from babyllama.config.schema import DataConfig
from babyllama.data.documents import END_OF_TEXT
from data_utils import DataProcessor


def write_share(source: Path, target: Path, every: int) -> None:
    """Write documents 0, n, 2n, ... of each domain's training file, and copies of the held-out files.

    Args:
        source: Folder of `*.train` and `*.dev` files.
        target: Folder to write; made where it is not there.
        every: The n.
    """
    target.mkdir(parents=True, exist_ok=True)
    by_domain: dict[str, list[str]] = {}
    for document in DataProcessor(DataConfig(clean=False)).load_text_files(str(source)):
        by_domain.setdefault(document.domain, []).append(document.text)
    for domain, texts in by_domain.items():
        kept = texts[::every]
        content = "".join(f"{text}\n{END_OF_TEXT}\n" for text in kept)
        (target / f"{domain}.train").write_text(content, encoding="utf-8", newline="\n")
        say(f"{domain}: {len(kept):,} of {len(texts):,} documents, {len(content.split()) - len(kept):,} words")
    for path in source.glob("*.dev"):
        shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write every n-th document of each domain.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--every", type=int, default=4)
    given = parser.parse_args()
    write_share(given.source, given.target, given.every)
