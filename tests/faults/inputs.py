"""Hostile input: what is refused is refused in one line with the documented code, what is accepted trains."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.faults.harness import Bench

PLAIN = "The dog saw the cat.\nThe girl met the man.\n" * 60
LONG_LINE_BYTES = 200_000_000
LONG_LINE_MEMORY = 4_000_000_000  # bytes a run on such a line may take


def _parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"words": ["a b c"] * 50}), path)


def _links(folder: Path) -> None:
    (folder / "a.train").write_text(PLAIN, encoding="utf-8")
    os.symlink(folder / "nowhere", folder / "b.train")
    os.symlink(folder, folder / "loop")


def _config(bench: Bench, text: str) -> list[str]:
    path = bench.folder / "hostile.yaml"
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


# name -> (file name, content or maker, exit code, text that the message holds)
FILES: dict[str, tuple[str, bytes | Callable[[Path], None], int, str]] = {
    "byte-order mark": ("a.train", b"\xef\xbb\xbf" + PLAIN.encode(), 0, ""),
    "CRLF": ("a.train", PLAIN.replace("\n", "\r\n").encode(), 0, ""),
    "U+0085, U+2028, U+001C": ("a.train", PLAIN.replace("dog", "d\u0085o\u2028g\x1c").encode(), 0, ""),
    "UTF-16": ("a.train", PLAIN.encode("utf-16"), 2, "a.train"),
    "latin-1": ("a.train", (PLAIN + "café\n").encode("latin-1"), 2, "line 121"),
    "NUL": ("a.train", (PLAIN + "a\0b\n").encode(), 2, "NUL"),
    "empty file": ("a.train", b"", 2, "a.train"),
    "white space only": ("a.train", b" \n\t\n" * 9, 2, "a.train"),
    "JSONL without the key": ("a.jsonl", b'{"text": "x y"}\n{"txt": "x"}\n', 2, "line 2"),
    "JSONL with a broken line": ("a.jsonl", b'{"text": "x y"}\n{"text": \n', 2, "line 2"),
    "parquet without the column": ("a.parquet", lambda folder: _parquet(folder / "a.parquet"), 2, "text"),
    "truncated gzip": ("a.train.gz", gzip.compress(PLAIN.encode())[:-30], 2, "a.train.gz"),
    "dangling link and link loop": ("links", _links, 2, "b.train"),
    "folder without text": ("a.bin", b"x", 2, "no "),
}

CONFIGS: dict[str, tuple[str, str]] = {
    "YAML tag": ("model: !!python/object/apply:os.mkdir [code_was_run]\n", "tag"),
    "YAML duplicate key": ("model: {type: Llama}\nmodel: {type: GPT2}\n", "duplicate"),
    "YAML bomb": ("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a]\nmodel: {type: *b}\n", "model.type"),
    "unknown key": ("model: {type: Llama, hiden_size: 3}\n", "did you mean model.hidden_size?"),
}


def hostile_file(name: str) -> Callable[[Bench, Path, random.Random], str]:
    """A trial: a corpus with that file."""
    file, content, code, said = FILES[name]

    def trial(bench: Bench, output: Path, source: random.Random) -> str:
        folder = output / "text"
        folder.mkdir(parents=True)
        if callable(content):
            content(folder)
        else:
            (folder / file).write_bytes(content)
        done = bench.run(output, "--train-path", str(folder), "--max-steps", "2")
        if done.code != code or said not in done.output:
            return f"exit {done.code}, not {code}: {done.output[-300:]}"
        errors = [line for line in done.output.splitlines() if line.startswith("error:")]
        if code and (len(errors) != 1 or (output / "run").exists()):
            return f"{len(errors)} error lines, run folder {(output / 'run').exists()}"
        again = bench.run(output, "--train-path", str(folder), "--max-steps", "2")
        return "" if again.code == code and said in again.output else f"second start: exit {again.code}"

    return trial


def hostile_config(name: str) -> Callable[[Bench, Path, random.Random], str]:
    """A trial: that configuration is refused with exit 2."""
    text, said = CONFIGS[name]

    def trial(bench: Bench, output: Path, source: random.Random) -> str:
        done = bench.run(output, *_config(bench, text))
        if Path("code_was_run").exists():
            return "code was run"
        return "" if done.code == 2 and said in done.output else f"exit {done.code}: {done.output[-200:]}"

    return trial


def long_line(bench: Bench, output: Path, source: random.Random) -> str:
    """200 MB without a space or a line end: prepared and trained on in bounded memory."""
    output.mkdir()
    letters = bytes(source.choices(b"abcdefghijklmnop", k=1_000_000))
    with (output / "long.train").open("wb") as handle:
        for _ in range(LONG_LINE_BYTES // len(letters)):
            handle.write(letters)
    (output / "long.dev").write_text(PLAIN, encoding="utf-8")
    done = bench.run(output, "--train-path", str(output), "--max-steps", "2")
    (output / "long.train").unlink()
    if done.code:
        return f"exit {done.code}: {done.output[-200:]}"
    print(f"  200 MB line: {done.seconds:.0f} s, {done.peak_bytes / 1e9:.2f} GB")
    return "" if done.peak_bytes < LONG_LINE_MEMORY else f"{done.peak_bytes / 1e9:.2f} GB"


def input_table() -> dict[str, Callable[[Bench, Path, random.Random], str]]:
    """Fault -> trial."""
    found = {name: hostile_file(name) for name in FILES} | {name: hostile_config(name) for name in CONFIGS}
    return found | {"200 MB line": long_line}
