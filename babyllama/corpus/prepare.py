"""Clean a folder of text into `<domain>.train` and `<domain>.dev`: every file of the source is in a file or in a line.

Files of one domain (wiki.part1.txt, wiki.part2.txt) go one after another into one file. What another program or a user
wrote is never replaced: `.prepared.json` lists what this command wrote, by content, and only that is written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from babyllama.common.errors import ConfigError
from babyllama.common.files import atomic_path, read_json, sha256_of, write_json
from babyllama.data.cleaners import domain_of
from babyllama.data.documents import Document
from babyllama.data.sources import find_files, left_out
from babyllama.data.words import count_words

RECORD = ".prepared.json"


def prepare_folder(
    path: str,
    output: Path,
    split: str,
    domains: set[str] | None,
    read: Callable[[Path, bool], Iterable[Document]],
) -> Iterator[str]:
    """Clean each text file of a path into `output/<domain>.<split>`, documents parted by `<|endoftext|>` lines.

    Args:
        path: A folder, file or glob of text.
        output: The folder to write.
        split: `train` or `dev`.
        domains: Clean only these; the others are copied as read. None: all.
        read: Documents of a file; the second argument says whether to clean them.

    Yields:
        A line per file written, with its sources where they are several, and a line about what is left out.

    Raises:
        ConfigError: A file that this command did not write would be replaced; nothing is written then.
    """
    flag = "--babylm-10m" if split == "train" else "--babylm-dev"
    sources: dict[str, list[Path]] = {}
    for file in find_files(path, "train" if split == "train" else "eval", flag):
        sources.setdefault(domain_of(file), []).append(file)
    written = _written(output)
    targets = {domain: output / f"{domain}.{split}" for domain in sources}
    _refuse_others(targets.values(), written, {file.resolve() for files in sources.values() for file in files})
    for domain, files in sources.items():
        wanted = domains is None or domain in domains
        target, count, words = targets[domain], 0, 0
        with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
            for document in (document for file in files for document in read(file, wanted)):
                handle.write(document.text + "\n<|endoftext|>\n")
                count, words = count + 1, words + count_words(document.text)
        written[target.name] = _digest(target)
        write_json(output / RECORD, written)
        of = f" of {len(files)} files ({', '.join(file.name for file in files)})" if len(files) > 1 else ""
        yield f"{target}: {count:,} documents, {words:,} words{of}{'' if wanted else ' (not cleaned)'}"
    if split == "train":
        yield from left_out(path, own_eval=False)


def _written(output: Path) -> dict[str, str]:
    """Name -> SHA-256 of what this command wrote into a folder."""
    try:
        return dict(read_json(output / RECORD))
    except (OSError, ValueError, TypeError):
        return {}


def _refuse_others(targets: Iterable[Path], written: dict[str, str], sources: set[Path]) -> None:
    for target in targets:
        if target.resolve() in sources:
            raise ConfigError(f"--output: {target}: is itself the text to clean: choose another folder")
        if target.exists() and written.get(target.name) != _digest(target):
            raise ConfigError(
                f"--output: {target}: there already, and not as this command wrote it: "
                "choose another folder or move it away"
            )


def _digest(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""
