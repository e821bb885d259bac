"""Words in = words trained on + words held out + words reported as left out, for random folders of odd files."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from babyllama.config.schema import DataConfig
from babyllama.data.formats.folders import LEFT_NAMES, sort_folder
from babyllama.data.sources import left_out
from data_utils import DataProcessor

ENDINGS = ("txt", "train", "dev", "valid", "test", "md", "raw", "jsonl", "txt.gz", "pdf", "csv", "text")
STEMS = ("a", "wiki", "childes", "README", "test", "valid", "кор", "x.part1", "x.part2", "notes", "dev", "switchboard")
FOLDERS = ("", "sub/", ".hidden/", "sub/.cache/deep/", "deep/er/", "run/", "env/")
PARTERS = ("\n", "\n\n", "\n\n\n", "\n<|endoftext|>\n", "\n<|endoftext|> \n", "\r\n", "\n= = = Title = = =\n")


def make_folder(folder: Path, generator: random.Random) -> dict[Path, int]:
    """Write odd files whose every word is one of a kind (w123x), and count them by file."""
    words: dict[Path, int] = {}
    counter = 0
    for _ in range(generator.randint(2, 12)):
        name = f"{generator.choice(FOLDERS)}{generator.choice(STEMS)}.{generator.choice(ENDINGS)}"
        path = folder / name
        if path in words:
            continue
        parts = []
        for _ in range(generator.randint(1, 40)):
            size = generator.randint(1, 30)
            parts.append(" ".join(f"w{number}x" for number in range(counter, counter + size)))
            counter += size
        text = generator.choice(PARTERS).join(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl"):
            path.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts), encoding="utf-8")
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        elif name.endswith(".csv"):
            path.write_text("text\n" + "".join(f'"{part}"\n' for part in parts), encoding="utf-8")
        else:
            path.write_bytes((b"\xef\xbb\xbf" if generator.random() < 0.2 else b"") + text.encode())
        words[path] = sum(len(part.split()) for part in parts)
    if (folder / "run").is_dir():
        (folder / "run" / "run_fingerprint.json").write_text("{}", encoding="utf-8")
    if (folder / "env").is_dir():
        (folder / "env" / "pyvenv.cfg").write_text("", encoding="utf-8")
    return words


def left_files(folder: Path) -> set[Path]:
    """The files and folders that are left out, each of which the lines count."""
    found = sort_folder(folder)
    by_reason = [*found.left.values(), *([found.test] if found.test else [])]
    lines = left_out(str(folder), own_eval=True)
    assert len(lines) == len(by_reason)
    for paths in by_reason:
        more = f" and {len(paths) - LEFT_NAMES:,} more (" if len(paths) > LEFT_NAMES else " ("
        first = ", ".join(str(path.relative_to(folder)) for path in paths[:LEFT_NAMES])
        assert any(f": {first}{more}" in line for line in lines)
    return {path for paths in by_reason for path in paths}


@pytest.mark.parametrize("seed", range(40))
def test_every_word_is_trained_on_or_held_out_or_told(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    words = make_folder(tmp_path / "corpus", generator)
    (tmp_path / "corpus" / "always.txt").write_text(
        "\n\n".join(f"one{n} two{n} three{n}" for n in range(900)), encoding="utf-8"
    )
    words[tmp_path / "corpus" / "always.txt"] = 2700
    if any(path.suffix == ".train" and "hidden" not in str(path) for path in words):
        (tmp_path / "corpus" / "always.txt").rename(tmp_path / "corpus" / "always.train")
        words[tmp_path / "corpus" / "always.train"] = words.pop(tmp_path / "corpus" / "always.txt")
    processor = DataProcessor(
        DataConfig(
            train_path=str(tmp_path / "corpus"),
            holdout=generator.choice([0.05, 0.3, 0.4]),
            test=generator.choice([0.0, 0.0, 0.1]),
        )
    )
    trained, held = list(processor.train_documents()), processor.held_out_documents()
    if processor.data.test:  # set aside: never trained on, never held out
        held += processor.held_out_documents(test=True)
    left = left_files(tmp_path / "corpus")

    def is_word(word: str) -> bool:
        return word not in {"=", "Title"}

    used = [word for document in (*trained, *held) for word in document.text.split() if is_word(word)]
    assert len(used) == len(set(used)), "a word is used twice"
    told = {path: left & {path, *path.parents} for path in words}
    assert len(used) + sum(count for path, count in words.items() if told[path]) == sum(words.values())
    assert not {w for d in trained for w in d.text.split() if is_word(w)} & {
        w for d in held for w in d.text.split() if is_word(w)
    }
