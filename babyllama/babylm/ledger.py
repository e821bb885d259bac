"""The word ledger against the rules: is the budget kept, by the text, by the words shown, by tokenizer and teachers?

A teacher is safe in every reading of the rules where its own training text is a subset of the run's (compared file by
file by their hashes); any other counts, or may not be used at all, which only the challenge's call can say.
"""

from __future__ import annotations

from typing import Any

from babyllama.babylm.rules import Track
from babyllama.pages.tables import largest_amounts
from babyllama.training.word_ledger import OWN_TEXT


def problems(ledger: dict[str, Any], track: Track) -> list[str]:
    """Return lines for everything in a ledger that goes beyond a track's budget or cannot be told.

    Args:
        ledger: Result of `babyllama.training.word_ledger`.
        track: The track.
    """
    found = []
    # Counts against the track's bounds.
    words = ledger["raw_words"] or ledger["words"]
    if words > track.words:
        found.append(f"training text: {words:,} words, {track.name} allows {track.words:,} (data.max_words cuts it)")
    passes = ledger.get("most_passes") or ledger["epochs"]
    if passes > track.epochs + 1e-9:
        which = "" if passes == ledger["epochs"] else " over one domain of the mixture"
        found.append(f"epochs: {passes:g}{which}, {track.name} allows {track.epochs} passes over the text")
    if ledger["words_seen"] > track.exposure:
        found.append(f"words shown: {ledger['words_seen']:,}, {track.name} allows {track.exposure:,}")
    # Words that came in by another door: the tokenizer, the weights at the start, the teachers.
    tokenizer = ledger["tokenizer"]
    if tokenizer["text"] != OWN_TEXT and not is_subset(tokenizer, ledger):
        found.append(
            f"tokenizer: {tokenizer['text']}: its training text is not known to be part of the run's: it counts"
        )
    if ledger["init_from"] and not is_subset(ledger["init_from"], ledger):
        found.append(f"init_from: {ledger['init_from']['path']}: its training text is not part of the run's: it counts")
    found += [
        f"teacher {teacher['path']}: its training text is not known to be part of the run's: its words count, or it "
        "may not be used"
        for teacher in ledger["teachers"]
        if not is_subset(teacher, ledger)
    ]
    return found


def is_subset(other: dict[str, Any], ledger: dict[str, Any]) -> bool:
    """Return whether another model's recorded training text is part of the ledger's, its own teachers' included."""
    if not other.get("known"):
        return False
    if other.get("source"):  # embedded corpus or hub
        same = other["source"] == ledger["source"]
    else:
        own = {entry["sha256"] for entry in ledger["files"]}
        same = bool(other["files"]) and {entry["sha256"] for entry in other["files"]} <= own
    return same and all(is_subset(teacher, ledger) for teacher in other.get("teachers") or [])


def rows(ledger: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the ledger as (what, how much) for table, form and card."""
    domains = largest_amounts(ledger["domains"])
    found = [(f"domain {name}", f"{words:,} words trained on") for name, words in domains.items()]
    found.append(("training text", f"{ledger['words']:,} words after cleaning, without the held-out part"))
    if ledger.get("bytes_over_premium"):
        found.append(("content", f"{ledger['bytes']:,} bytes, {ledger['bytes_over_premium']:,} over the byte premium"))
    if ledger["raw_words"] is not None:
        found.append(("training files, raw", f"{ledger['raw_words']:,} words"))
    found.append(("shown", f"{ledger['words_seen']:,} words in {ledger['epochs']:g} epochs"))
    found.append(("tokenizer", f"trained on {ledger['tokenizer']['text']}"))
    for teacher in ledger["teachers"]:
        words = f"{teacher['words']:,} words" if teacher.get("known") else "words not recorded"
        part = ", all of them in this run's text" if is_subset(teacher, ledger) else ""
        found.append((f"teacher {teacher['path']}", words + part))
    if ledger["init_from"]:
        found.append(("started from", ledger["init_from"]["path"]))
    return found
