"""`main.py corpus PATH`: look a corpus through before anything is trained on it; write it without duplicates."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from babyllama.common.console import say, transfer
from babyllama.common.errors import ConfigError
from babyllama.common.units import human_bytes
from babyllama.pages.tables import TableData, print_tables

JSON, PAGE = "corpus.json", "corpus.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("path", help="text: a folder, a file or a glob; of a folder with *.train its training text")
    parser.add_argument("--dev", metavar="PATH", help="held-out text to look for (default: its own *.dev)")
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="PATH", help="evaluation sets to look for: pairs, tables, text"
    )
    parser.add_argument(
        "--output", default="corpus", metavar="DIR", help="where page and JSON go (default: %(default)s)"
    )
    parser.add_argument("--near", type=float, default=0.5, help="least similarity of near copies; 1 looks for none")
    parser.add_argument("--write", metavar="DIR", help="write the text without what --remove names")
    parser.add_argument(
        "--remove",
        default="exact,near,leaks",
        metavar="A,B",
        help="of exact, near, leaks, encoding (default: %(default)s); for --write",
    )
    parser.add_argument("--num-proc", type=int, metavar="N", help="processes; default: one a core")


def run(args: argparse.Namespace) -> int:
    """Look through the text, say the main figures, write page and JSON, and the clean text where it is asked for."""
    from babyllama.common.disk_space import check_output_folder
    from babyllama.common.files import write_json
    from babyllama.common.process_pool import worker_count
    from babyllama.corpus.cleaning import REASONS, check_folder, write_clean
    from babyllama.corpus.survey import survey
    from babyllama.data.sources import total_bytes
    from babyllama.pages.corpus_page import write_corpus_page

    # Check the flags before the text is read.
    reasons = [reason.strip() for reason in args.remove.split(",") if reason.strip()]
    unknown = [reason for reason in reasons if reason not in REASONS]
    if unknown or not reasons:
        raise ConfigError(f"--remove {args.remove}: {', '.join(unknown) or 'nothing'}: of {', '.join(REASONS)}")
    if not 0.2 <= args.near <= 1:
        raise ConfigError(f"--near {args.near}: from 0.2 to 1")
    if args.path == "synthetic" or args.path.startswith("hf:"):
        raise ConfigError(
            f"corpus {args.path}: only files are looked through (main.py synthetic writes the embedded text)"
        )
    check_output_folder(Path(args.output).expanduser())
    if args.write:
        check_folder(Path(args.write).expanduser())
    # Look through the text, and clean it where that is asked for.
    with transfer("looking through the text", total_bytes(args.path, "train")) as seen:
        found = survey(
            args.path,
            args.against,
            dev=args.dev,
            near=None if args.near >= 1 else args.near,
            processes=worker_count(args.num_proc),
            seen=seen,
        )
    if args.write:
        found.report["written"] = {"folder": args.write, **write_clean(found, Path(args.write).expanduser(), reasons)}
    # Write, and tell.
    folder = Path(args.output).expanduser()
    write_json(folder / JSON, found.report)
    page = write_corpus_page(found.report, folder / PAGE)
    print_tables([domain_table(found.report)])
    for line in summary(found.report):
        say(line)
    say(f"written: {folder / JSON}, page: {page}")
    return 0


def domain_table(report: dict[str, Any]) -> TableData:
    """Return words, documents, language and script of each domain."""
    rows = [
        (name, f"{row['words']:,}", f"{row['documents']:,}", row["language"], row["script"] or "no letters")
        for name, row in report["domains"].items()
    ]
    return TableData("domains", ("domain", "words", "documents", "language", "script"), tuple(rows))


def summary(report: dict[str, Any]) -> list[str]:
    """Return the figures that matter, a line each."""
    total = report["total"]
    lines = [
        f"{total['documents']:,} documents, {total['words']:,} words, {human_bytes(total['bytes'])} "
        f"in {len(report['files'])} files"
    ]
    if total["bytes_over_premium"] is not None:
        of = f"{total['byte_premium_of']} ({total['byte_premium']:.2f})" if total["byte_premium"] else "each domain"
        lines.append(f"bytes over the premium of {of}: {human_bytes(total['bytes_over_premium'])}")
    # Copies, leaks, trouble with the encoding.
    for kind in ("exact", "near"):
        copies = report["duplicates"][kind]
        if copies is not None:
            lines.append(f"{kind} copies of earlier documents: {copies['documents']:,} ({copies['words']:,} words)")
    for name, row in report["overlap"].items():
        lines.append(
            f"{name}: {row['leaked']:,} of {row['items']:,} items stand in the text ({row['too_short']:,} too short)"
        )
    troubled = sum(row["documents"] for row in report["encoding"].values())
    lines.append(f"documents with encoding trouble: {troubled:,}")
    # What was cleaned away.
    written = report.get("written")
    if written:
        gone = {k: v["documents"] for k, v in written.items() if isinstance(v, dict) and k != "kept"}
        told = ", ".join(f"{count:,} {reason}" for reason, count in gone.items())
        lines.append(f"{written['folder']}: {written['kept']['documents']:,} documents kept; removed: {told}")
    return lines
