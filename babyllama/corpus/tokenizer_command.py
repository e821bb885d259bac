"""`main.py tokenizer train|inspect|compare`: make one, or see what some do with text: a table, a page and a JSON."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from babyllama.common.console import say
from babyllama.common.errors import ConfigError, DataError
from babyllama.config.run_layout import TRAINING_CONFIG

if TYPE_CHECKING:
    from babyllama.config.schema import Config
    from babyllama.data.documents import Document

JSON, PAGE = "tokenizers.json", "tokenizers.html"
SENTENCES, SENTENCE_CHARACTERS = 8, 200
SCHEMA_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three actions with their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser("train", help="train a byte-level BPE and save it as a folder that AutoTokenizer reads")
    train.add_argument(
        "--train-path", required=True, metavar="PATH", help="text; what a run would hold out is left out"
    )
    train.add_argument(
        "--vocab-size", type=vocabulary_size, default=16_000, metavar="N|auto", help="tokens (default: %(default)s)"
    )
    train.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    for action, number in (("inspect", 1), ("compare", "+")):
        told = "figures of one tokenizer" if action == "inspect" else "several tokenizers side by side"
        one = actions.add_parser(action, help=told)
        where = "a tokenizer folder, a run folder, or a tokenizers file ending in .json"
        one.add_argument("tokenizers", nargs=number, metavar="TOKENIZER", help=where)
        one.add_argument("--text", nargs="+", default=[], metavar="PATH", help="text to cut: folders, files, globs")
        one.add_argument("--words", metavar="FILE", help="a word a line, its morphemes behind a tab: un happi ness")
        one.add_argument("--sentence", action="append", default=[], help="shown as each cuts it (repeatable)")
        one.add_argument("--config", metavar="FILE", help="of the model whose parameters are shared out")
        one.add_argument("--output", default="tokenizers", metavar="DIR", help="where page and JSON go")


def with_action(argv: Sequence[str]) -> list[str]:
    """Arguments with `train` in front where flags of a training come first: how older scripts call this command."""
    return ["train", *argv] if argv and argv[0] in {"--train-path", "--vocab-size", "--output"} else list(argv)


def vocabulary_size(text: str) -> int | Literal["auto"]:
    """Return a type for argparse: at least 260 tokens, or `auto`."""
    if text == "auto":
        return "auto"
    if not text.isdigit() or int(text) < 260:
        raise argparse.ArgumentTypeError(f"{text}: auto, or at least 260")
    return int(text)


def run(args: argparse.Namespace, training_documents: Callable[[str], Iterable[Document]]) -> int:
    """Do what the action says.

    Args:
        args: Parsed flags of `add_arguments`.
        training_documents: Function from a path to the cleaned documents that a training on it would see.
    """
    from babyllama.common.disk_space import check_output_folder

    folder = Path(args.output).expanduser()
    check_output_folder(folder)
    if args.action != "train":
        return inspect_tokenizers(args)
    if (folder / "tokenizer.json").exists():
        say(f"{args.output}: the tokenizer that is there will be replaced")
    return train(args, training_documents)


def train(args: argparse.Namespace, training_documents: Callable[[str], Iterable[Document]]) -> int:
    """Train on a stream of documents: the text is never in memory as a whole."""
    from babyllama.common.console import transfer
    from babyllama.data.sources import total_bytes
    from babyllama.data.tokenizer import (
        AUTO_SAMPLE,
        AUTO_SIZES,
        carried_size,
        choose_vocab_size,
        save_tokenizer,
        shortened,
        train_tokenizer,
    )
    from babyllama.data.words import count_words

    size = total_bytes(args.train_path, "train")
    count = words = 0
    sample: list[str] = []
    every = max(1, (size or 0) // AUTO_SAMPLE)  # of so many documents one is kept for `auto`

    # Count on the way: the stream is read once.
    def texts() -> Iterator[str]:
        nonlocal count, words
        for document in training_documents(args.train_path):
            if count % every == 0 and args.vocab_size == "auto":
                sample.append(document.text)
            count, words = count + 1, words + count_words(document.text)
            seen(len(document.text.encode()))
            yield document.text

    # Train; `auto` cuts the largest one back.
    with transfer("training the tokenizer", size) as seen:
        tokenizer = train_tokenizer(texts(), AUTO_SIZES[-1] if args.vocab_size == "auto" else args.vocab_size)
    if args.vocab_size == "auto":
        carried = min(len(tokenizer), carried_size(words))
        chosen, why = choose_vocab_size(shortened(tokenizer, carried), sample)
        tokenizer = shortened(tokenizer, chosen)
        say(why)
    save_tokenizer(tokenizer, Path(args.output).expanduser())
    say(f"{args.output}: {len(tokenizer):,} tokens, from {count:,} documents ({words:,} words)")
    return 0


def inspect_tokenizers(args: argparse.Namespace) -> int:
    """Count, print a table, write page and JSON."""
    from babyllama.common.files import write_json
    from babyllama.corpus.tokenizer_figures import cut_sentence, inspect
    from babyllama.data.tokenizer import load_tokenizer
    from babyllama.pages.tables import print_tables
    from babyllama.pages.tokenizer_page import tokenizer_tables, write_tokenizer_page

    # What every tokenizer is tried on.
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
    # Tell, and write.
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
    """Yield the documents of texts, as they are, one by one; of a folder with *.train and *.dev the held-out ones."""
    from babyllama.data.sources import find_files, read_documents

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
    """Return words of a list, each as its morphemes: `word`, or `word<TAB>mor phe mes`.

    Raises:
        DataError: The file cannot be read, or morphemes are not the word's; names the line.
    """
    from babyllama.data.sources import read_lines

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
    """Return the configuration that is named, else that of the run whose tokenizer it is, else None."""
    from babyllama.config.loading import load_config

    if given is not None:
        return load_config(given)
    file = path / TRAINING_CONFIG
    return load_config(file) if file.is_file() else None
