"""Write a corpus without what was asked to be removed, and a record of every document that is gone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from babyllama.common.disk_space import check_output_folder
from babyllama.common.errors import ConfigError
from babyllama.common.files import atomic_path, to_json
from babyllama.common.records import bare_name
from babyllama.corpus.survey import Survey, document_names
from babyllama.data.documents import END_OF_TEXT
from babyllama.data.sources import is_record_file, read_documents
from babyllama.data.words import count_words

REASONS = ("exact", "near", "leaks", "encoding")
REMOVED = "removed.jsonl"
SHOWN = 80


def to_remove(found: Survey, reasons: list[str]) -> dict[int, dict[str, Any]]:
    """Return number of each document to remove -> why: the reason that comes first, and which document it repeats."""
    chosen: dict[int, dict[str, Any]] = {}
    for reason, copies in (("exact", found.exact), ("near", found.near)):
        for copy in copies if reason in reasons else ():
            chosen.setdefault(copy.document, {"reason": reason, "of": copy.of, "similarity": round(copy.similarity, 4)})
    for reason, documents in (("leaks", found.leaked), ("encoding", found.troubled)):
        for document in sorted(documents) if reason in reasons else ():
            chosen.setdefault(document, {"reason": reason})
    return chosen


def check_folder(folder: Path) -> None:
    """See, before the text is read, that a folder may take the clean text.

    Args:
        folder: The folder; may not exist, or must be empty or of an earlier such call.

    Raises:
        ConfigError: It holds something else.
        DiskError: It cannot be made or written.
    """
    check_output_folder(folder, "--write")
    if any(folder.iterdir()) and not (folder / REMOVED).is_file():
        raise ConfigError(f"--write {folder}: it holds files that are not from here; choose an empty or a new folder")


def write_clean(found: Survey, folder: Path, reasons: list[str]) -> dict[str, Any]:
    """Write the documents that stay, a file for each file, and `removed.jsonl`.

    Text files have a line `<|endoftext|>` behind each document, so that they are told apart as they were; tables and
    Parquet files become JSONL.

    Args:
        found: The survey.
        folder: Where the files go; may not exist, or must be empty or of an earlier such call.
        reasons: Reasons for removing a document, of REASONS.

    Returns:
        Documents and words kept and removed, by reason.

    Raises:
        ConfigError: The folder holds something else.
    """
    check_folder(folder)
    # What goes, and why.
    chosen = to_remove(found, reasons)
    names = document_names(found)
    totals: dict[str, Any] = {
        "kept": {"documents": 0, "words": 0},
        **{r: {"documents": 0, "words": 0} for r in reasons},
    }
    # Every file again in the order of the survey, so that documents have the same numbers.
    number = 0
    with atomic_path(folder / REMOVED) as record, record.open("w", encoding="utf-8", newline="\n") as removed:
        for file, target in zip(found.files, _targets(found.files, folder), strict=True):
            with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as kept:
                for document in read_documents(file, "replace")[1]:
                    why, words = chosen.get(number), count_words(document.text)
                    counted = totals["kept" if why is None else why["reason"]]
                    counted["documents"] += 1
                    counted["words"] += words
                    if why is None:
                        kept.write(_line(document.text, target))
                    else:
                        row = {"document": names[number], **why, "words": words, "begins": document.text[:SHOWN]}
                        row |= {"of": names[why["of"]]} if "of" in why else {}
                        removed.write(to_json(row, indent=None) + "\n")
                    number += 1
    return totals


def _line(text: str, target: Path) -> str:
    """Return a document as it is written."""
    return to_json({"text": text}, indent=None) + "\n" if target.suffix == ".jsonl" else f"{text}\n{END_OF_TEXT}\n"


def _targets(files: list[Path], folder: Path) -> list[Path]:
    """Return where each file goes: its place below the folder that holds all of them; tables become .jsonl."""
    base = Path(os.path.commonpath([file.resolve().parent for file in files]))
    places = [bare_name(file.resolve().relative_to(base)) for file in files]
    return [folder / (p.with_suffix(".jsonl") if is_record_file(f) else p) for f, p in zip(files, places, strict=True)]
