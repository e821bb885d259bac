"""Words and sentences in eight languages, and equality with `str.split` and `wc -w` where a script writes spaces."""

from __future__ import annotations

import random
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import regex

from babyllama.data import words as units
from babyllama.data.words import cluster_cut, clusters, count_words, pieces, sentences, word_spans, word_starts, words

# language: (text, number of words, sentences)
LANGUAGES = {
    "English": ("The dog ran. Where did it go?", 7, ["The dog ran.", "Where did it go?"]),
    "German": ("Er lief über die Straße. Warum?", 6, ["Er lief über die Straße.", "Warum?"]),
    "Turkish": ("Çocuk eve gitti. Şimdi ağlıyor mu?", 6, ["Çocuk eve gitti.", "Şimdi ağlıyor mu?"]),
    "Russian": ("Собака бежит домой. Почему?", 4, ["Собака бежит домой.", "Почему?"]),
    "Hindi": ("लड़का घर गया। क्या वह रोया?", 6, ["लड़का घर गया।", "क्या वह रोया?"]),
    "Arabic": ("ذهب الولد إلى البيت. لماذا؟", 5, ["ذهب الولد إلى البيت.", "لماذا؟"]),
    "Chinese": ("小狗跑了。它去哪儿了？", 9, ["小狗跑了。", "它去哪儿了？"]),
    "Thai": ("เด็กไปโรงเรียน แม่อยู่บ้าน", 19, ["เด็กไปโรงเรียน", "แม่อยู่บ้าน"]),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_and_sentences_of_a_language(language: str) -> None:
    text, number, expected = LANGUAGES[language]
    assert sentences(text) == expected
    assert count_words(text) == number == len(words(text)) == len(word_starts(text))
    if language not in {"Chinese", "Thai"}:
        assert words(text) == text.split()


def test_a_cluster_is_a_consonant_with_its_marks() -> None:
    assert words("เด็กดี") == ["เ", "ด็", "ก", "ดี"]
    assert clusters("नमस्ते")[0] == "न"


def test_every_character_is_in_exactly_one_word() -> None:
    generator = random.Random(0)
    letters = "ab .,!?\n\t\u00a0「」（“”’äß你好。，กำ็เनि्मا؟7-\u200b"
    for _ in range(2_000):
        text = "".join(generator.choices(letters, k=generator.randrange(1, 30)))
        spans = word_spans(text)
        assert len(spans) == len(word_starts(text)) == count_words(text)
        if spans:
            assert spans[0][0] == 0
            assert spans[-1][1] == len(text)
            assert all(left[1] == right[0] for left, right in pairwise(spans))
            assert all(text[start:end].strip() for start, end in spans)


def test_the_fast_look_finds_every_letter_of_a_script_without_spaces() -> None:
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    letters = regex.findall(rf"[{units.UNSPACED}]", every)
    assert len(letters) > 100_000
    assert [letter for letter in letters if not units._MAYBE_UNSPACED.match(letter)] == []


def test_an_english_text_with_a_chinese_word_is_counted_like_wc() -> None:
    text = "He said 你好 (hello) to the people of 北京 and went home."
    assert count_words(text) == len(text.split())
    assert sentences(text) == [text]


def test_pieces_joined_are_the_text_and_none_begins_with_a_mark() -> None:
    text = "เมื่อวานนี้ฉันไปที่ตลาด" * 50 + "e\u0301" * 40
    cut = list(pieces(text, 37))
    assert "".join(cut) == text
    assert all(len(piece) <= 37 for piece in cut)
    assert not [piece for piece in cut if regex.match(r"\p{M}", piece)]


def test_an_endless_cluster_is_cut_all_the_same() -> None:
    text = "e" + "\u0301" * 1_000
    assert "".join(pieces(text, 100)) == text
    assert cluster_cut(text, 500) == 500


@pytest.mark.integration
def test_english_sentences_and_words_are_what_they_were(test_data: Path) -> None:
    old = re.compile(r"(?<![^\s])[^.!?\n]+[.!?](?=\s|$)")
    for path in sorted(test_data.glob("corpora/*/*.dev")):
        text = path.read_bytes().decode()
        assert sentences(text) == [found.strip() for found in old.findall(text)], path
        counted = subprocess.run(["wc", "-w", str(path)], env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True)
        if not re.search("[\u0085\u001c-\u001f]", text):  # white space for Python, not for wc
            assert count_words(text) == int(counted.stdout.split()[0]), path
