"""Cleaners touch only what their source added: sentences about credits and sounds stay, credits and sounds go."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from babyllama.data.cleaners import create_cleaner_registry

WHO = (
    *("my mother", "the old monk", "a friend of mine", "this gene", "nobody", "the same company", "two students"),
    *("a machine", "her uncle", "the ministry", "our teacher", "a poet", "the committee", "his wife", "three people"),
    *("an unknown hand", "the class", "a robot", "the navy", "us"),
)
ABOUT = (
    "It was translated by {}.",
    "The message is encoded by {}.",
    "Translation: {} reads it aloud.",
    "They were corrected by {} and sent back.",
    "The subtitles by {} were better.",
    "Correction: {} came on Tuesday.",
    "She said (music is what {} hears).",
    "He lives there (noise complaints from {} every night).",
    "The file was ripped by {} into pieces.",
    "Silence [silence is golden, says {}] fell.",
)
SENTENCES = [pattern.format(who) for pattern, who in product(ABOUT, WHO)]
STAY = Path(__file__).with_name("sentences_that_stay.txt")
_DOMAINS = re.compile(r"# ([a-z_]+(?:, [a-z_]+)*)")


def real_sentences() -> list[tuple[str, str]]:
    """Each sentence of the list with each of the domains whose cleaners might take it for something else."""
    found, domains = [], []
    for line in STAY.read_text(encoding="utf-8").splitlines():
        head = _DOMAINS.fullmatch(line)
        if head:
            domains = head[1].split(", ")
        else:
            found += [(domain, line) for domain in domains]
    return found


CREDITS = (
    "Subtitles by Explosiveskull",
    "Translated by: John Smith",
    "Translation: Maria Gonzalez",
    "Sync and corrections by n17t01",
    "- Synced and corrected by MementMori -",
    "Captions by the Amara.org community",
    "Subtitles downloaded from www.OpenSubtitles.org",
    "www.addic7ed.com",
    "Transcribed by Anna Berg",
    "Encoded by user_77",
    "Corrections: Ivan & Olga",
    "Downloaded From www.AllSubs.org",
)
SOUNDS = ("(Music)", "[Applause]", "(laughter and applause)", "[music playing]", "(inaudible)", "[unclear word]")


def test_there_are_two_hundred_sentences() -> None:
    assert len(set(SENTENCES)) == 200
    assert len({sentence for _, sentence in real_sentences()}) == 200


def test_two_hundred_real_sentences_stay_as_they_are() -> None:
    """They look like credits, sounds, codes, time stamps, titles, italics and tags; among credits they stay, too."""
    registry = create_cleaner_registry()
    assert [pair for pair in real_sentences() if registry[pair[0]](pair[1]) != pair[1]] == []
    for domain in ("qed", "open_subtitles"):
        sentences = [sentence for name, sentence in real_sentences() if name == domain]
        mixed = [line for n, sentence in enumerate(sentences) for line in (CREDITS[n % len(CREDITS)], sentence)]
        assert registry[domain]("\n".join(mixed)).split("\n") == sentences


@pytest.mark.parametrize("domain", ["qed", "open_subtitles", "bnc_spoken", "switchboard"])
def test_no_sentence_vanishes(domain: str) -> None:
    clean = create_cleaner_registry()[domain]
    assert [sentence for sentence in SENTENCES if clean(sentence) != sentence] == []


@pytest.mark.parametrize("domain", ["qed", "open_subtitles"])
@pytest.mark.parametrize("credit", CREDITS)
def test_every_credit_goes(domain: str, credit: str) -> None:
    clean = create_cleaner_registry()[domain]
    assert clean(f"Hello there.\n{credit}\nHow are you?") == "Hello there.\nHow are you?"


@pytest.mark.parametrize("domain", ["qed", "switchboard"])
@pytest.mark.parametrize("sound", SOUNDS)
def test_every_sound_goes(domain: str, sound: str) -> None:
    clean = create_cleaner_registry()[domain]
    assert clean(f"Hello {sound} there.") == "Hello there."


def test_what_parts_words_in_other_scripts_stays() -> None:
    clean = create_cleaner_registry()["default"]
    for sign in ("\u200b", "\u200c", "\u200d", "\u2060"):
        assert clean(f"ក{sign}ខ") == f"ក{sign}ខ"
