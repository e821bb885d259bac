"""Byte premiums, scripts and the language of a text."""

from __future__ import annotations

from collections import Counter

import pytest

from babyllama.common.scripts import count_scripts, is_right_to_left, script_of
from babyllama.data.languages.byte_premiums import _LONG, premium_of, table
from babyllama.data.languages.identify import UNDETERMINED, identify, writing

# The first article of the Universal Declaration of Human Rights.
ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason "
    "and conscience.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
}


@pytest.mark.parametrize("language", ARTICLE)
def test_the_language_of_an_article(language: str) -> None:
    found, probability = identify(ARTICLE[language])
    assert found == language
    assert probability > 0.5
    premium = premium_of(language, writing(Counter(ARTICLE[language])))
    assert premium is not None
    assert 0.6 < premium.premium < 6


def test_what_is_no_language_is_undetermined() -> None:
    assert identify("")[0] == UNDETERMINED
    assert identify("12 + 7 = 19")[0] == UNDETERMINED


def test_the_table_of_premiums_is_that_of_the_paper() -> None:
    assert len(table()) == 1_155
    assert premium_of("eng_latn").premium == 1.0
    # Arnett et al. 2024 name Burmese as the largest.
    assert max(table().values(), key=lambda row: row.premium).language == "mya_mymr"
    assert round(premium_of("my").premium, 1) == 5.1
    assert {row.source for row in table().values()} == {"nllb", "flores", "bible"}


def test_every_two_letter_code_has_a_premium() -> None:
    known = {name.split("_")[0] for name in table()}
    assert sorted(code for code in _LONG.values() if code not in known) == []


def test_a_language_of_two_scripts_needs_its_script() -> None:
    assert premium_of("zh") is None
    assert premium_of("zh", "Hant").language == "zho_hant"
    assert premium_of("xx") is None


def test_scripts_are_counted_by_letters() -> None:
    assert count_scripts("Hi, мир! 12") == {"Cyrl": 3, "Latn": 2}
    assert script_of("́") is None  # an accent belongs to the letter that it stands on
    assert script_of("ꓐ") == "Zyyy"  # Lisu, which is not listed


def test_direction() -> None:
    assert is_right_to_left("שלום world") is False
    assert is_right_to_left("مرحبا بالعالم x")
    assert not is_right_to_left("12")
