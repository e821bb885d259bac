"""Cleaners touch only what their source added: sentences about credits and sounds stay, credits and sounds go."""

from __future__ import annotations

from itertools import product

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
