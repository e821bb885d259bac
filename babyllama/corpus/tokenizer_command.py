"""`main.py tokenizer inspect|compare`: what tokenizers do with text, as a table, a page and a JSON."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.console import say
from babyllama.errors import ConfigError, DataError

if TYPE_CHECKING:
    from babyllama.documents import Document
    from babyllama.schema import Config

JSON, PAGE = "tokenizers.json", "tokenizers.html"
SENTENCES, SENTENCE_CHARACTERS = 8, 200
SCHEMA_VERSION = 1


def add_inspect_arguments(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """Add the flags of `inspect`, or of `compare` where several tokenizers are given."""
    where = "a tokenizer folder, a run folder, or a tokenizers file ending in .json"
    parser.add_argument("tokenizers", nargs="+" if several else 1, metavar="TOKENIZER", help=where)
    parser.add_argument("--text", nargs="+", default=[], metavar="PATH", help="text to cut: folders, files, globs")
    parser.add_argument("--words", metavar="FILE", help="a word a line, with its morphemes behind a tab: un happi ness")
    parser.add_argument("--sentence", action="append", default=[], help="shown as each cuts it (repeatable)")
    parser.add_argument("--config", metavar="FILE", help="of the model whose parameters are shared out")
    parser.add_argument("--output", default="tokenizers", metavar="DIR", help="where page and JSON go")


def inspect_tokenizers(args: argparse.Namespace) -> int:
    """Count, print a table, write page and JSON."""
    from babyllama.corpus.tokenizer_figures import cut_sentence, inspect
    from babyllama.jsonio import write_json
    from babyllama.pages.tokenizer_page import tokenizer_tables, write_tokenizer_page
    from babyllama.benchmark_tables import print_tables
    from babyllama.tokenization import load_tokenizer

    words = read_words(Path(args.words).expanduser()) if args.words else []
    sentences = args.sentence or first_sentences(args.text)
    found: dict[str, Any] = {}
    for name, path in _names(args.tokenizers).items():
        tokenizer = load_tokenizer(path)
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(f"tokenizer {path}: not one of the tokenizers library (no tokenizer.json)")
        figures = inspect(tokenizer, documents(args.text), words, config_of(args.config, path))
        figures["sentences"] = [
            [{"text": piece.text, "bytes": piece.bytes} for piece in cut_sentence(tokenizer, sentence)]
            for sentence in sentences
        ]
        found[name] = figures
    report = {"schema_version": SCHEMA_VERSION, "text": args.text, "sentences": sentences, "tokenizers": found}
    print_tables(tokenizer_tables(report))
    folder = Path(args.output).expanduser()
    write_json(folder / JSON, report)
    page = write_tokenizer_page(report, folder / PAGE)
    say(f"written: {folder / JSON}, page: {page}")
    return 0


def _names(given: list[str]) -> dict[str, Path]:
    """Tokenizers by name; where two have one name, by the path that was typed."""
    paths = [Path(name).expanduser() for name in given]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("tokenizer compare: a tokenizer is named twice")
    names = Counter(path.stem if path.suffix == ".json" else path.resolve().name for path in paths)
    short = {path: path.stem if path.suffix == ".json" else path.resolve().name for path in paths}
    return {short[path] if names[short[path]] == 1 else str(path): path for path in paths}


def documents(paths: list[str]) -> Iterator[Document]:
    """The documents of texts, as they are, one by one; of a folder with *.train and *.dev the held-out ones."""
    from babyllama.sources import find_files, read_documents

    for path in paths:
        for file in find_files(path, "eval", "--text"):
            yield from read_documents(file, "replace")[1]


def first_sentences(paths: list[str]) -> list[str]:
    """The first sentence of the first document of each domain (its beginning, where it has none), at most eight."""
    from babyllama.data.words import cluster_cut, sentences

    found: dict[str, str] = {}
    for document in documents(paths):
        if document.domain in found:
            continue
        beginning = document.text[: 20 * SENTENCE_CHARACTERS]
        whole = [sentence for sentence in sentences(beginning) if len(sentence) <= SENTENCE_CHARACTERS]
        text = max(whole[:5], key=len) if whole else beginning[: cluster_cut(beginning, SENTENCE_CHARACTERS)]
        found[document.domain] = text.strip()
        if len(found) == SENTENCES:
            break
    return list(found.values())


def read_words(path: Path) -> list[list[str]]:
    """Words of a list, each as its morphemes: `word`, or `word<TAB>mor phe mes`.

    Raises:
        DataError: The file cannot be read, or morphemes are not the word's; names the line.
    """
    from babyllama.sources import read_lines

    if not path.is_file():
        raise DataError(f"--words: {path}: no such file")
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        word, _, cut = line.strip().partition("\t")
        parts = cut.split() or [word]
        if "".join(parts) != word:
            raise DataError(f"{path}: line {number}: {' + '.join(parts)} is not {word}")
        if word:
            found.append(parts)
    if not found:
        raise DataError(f"--words: {path}: no word in it")
    return found


def config_of(given: str | None, path: Path) -> Config | None:
    """The configuration that is named, else that of the run whose tokenizer it is, else None."""
    from babyllama.config import load_config

    if given is not None:
        return load_config(given)
    file = path / "training_config.yaml"
    return load_config(file) if file.is_file() else None
