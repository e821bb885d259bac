"""The embedded corpus: one reading a text, the sum it claims, the same text everywhere, pairs that break one rule."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import pytest

from babyllama.data import synthetic
from babyllama.data.synthetic import generator, lexicon
from babyllama.data.synthetic.pairs import PARADIGMS
from babyllama.data.synthetic.rules import CLASSES, NEXT_UNIT, RULES

GOLDEN = "3ae0b1d1daba8d30445b1400ca4c010ab0f0d5c7c2f005c34279f2c2381b5d03"


@pytest.fixture(scope="module")
def documents() -> list[synthetic.SyntheticDocument]:
    return synthetic.generate_documents(8_000, seed=0)


def test_reading_a_text_gives_the_sum_of_what_was_drawn(documents: list[synthetic.SyntheticDocument]) -> None:
    for document in documents:
        assert synthetic.document_nats(document.text) == pytest.approx(document.nats, abs=1e-9)


def test_the_same_text_on_every_machine(documents: list[synthetic.SyntheticDocument]) -> None:
    joined = "\n\n".join(document.text for document in documents)
    assert hashlib.sha256(joined.encode()).hexdigest() == GOLDEN


def test_no_form_stands_in_two_open_classes() -> None:
    singular_plural = ["<thing>", "<things>", "<wug>", "<wugs>", "<woman>", "<man>", "<women>", "<men>", "<place>"]
    verbs = [name for name in CLASSES if name.startswith(("<tv", "<iv"))]
    words = [*singular_plural, "<adj-real>", "<adj-new>", "<feel>", *verbs]
    counts = Counter(word for name in words for word in CLASSES[name])
    assert [word for word, times in counts.items() if times > 1] == []


def test_a_is_always_right_before_a_noun_or_an_adjective() -> None:
    for name in ("<thing>", "<wug>", "<woman>", "<man>", "<adj-real>", "<adj-new>"):
        assert not [word for word in CLASSES[name] if word[0] in "aeiou"]


def test_every_symbol_is_defined_and_reached() -> None:
    used = {part for found in RULES.values() for _, parts in found for part in parts if part.startswith("<")}
    roots = {root for found in NEXT_UNIT.values() for root, _ in found}
    assert used | roots == set(RULES) | set(CLASSES)


def test_probabilities_of_one_step_sum_to_one() -> None:
    for symbol in ("<object>", "<past-f>", "<exchange_talk>"):
        total = sum(weight for weight, _ in RULES[symbol])
        assert sum(weight / total for weight, _ in RULES[symbol]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Once upon a time there was a girl named Lily. He slept.",
        "Once upon a time there was a girl named Lily. She sleep.",
        "once upon a time there was a girl named Lily.",
        "Once upon a time there was a girl named Lily. ",
        "MOM: Did Tom run?",
        "MOM: Did Tom run?\nCHI: No, she did not.",
        "MOM: Did Tom run?\nCHI: No, he did not.\nDAD: Did Tom run?\nCHI: No, he did not.",
    ],
)
def test_what_is_not_in_the_language_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"reading|whole sentences|written|grown-ups"):
        synthetic.document_nats(text)


def test_a_prefix_costs_less_than_the_whole() -> None:
    first = "Once upon a time there was a girl named Lily."
    longer = synthetic.document_nats(first + " She slept.") - synthetic.document_nats(first)
    more, whole = generator.GO_ON["story"]
    assert longer > -math.log(more / whole)


def test_seeds_and_splits_are_different_streams() -> None:
    train = {d.text for d in synthetic.generate_documents(3_000, 0)}
    other = {d.text for d in synthetic.generate_documents(3_000, 1)}
    held = {d.text for d in synthetic.held_out(0)}
    assert len(train & other) < 3
    assert len([t for t in train & held if len(t) > 80]) == 0
    assert len(synthetic.held_out(0)) == generator.HELD_OUT_DOCUMENTS


def test_the_entropy_is_the_sum_over_bytes(documents: list[synthetic.SyntheticDocument]) -> None:
    expected = sum(d.nats for d in documents) / math.log(2) / sum(len(d.text.encode()) for d in documents)
    assert synthetic.entropy_per_byte(documents) == pytest.approx(expected)
    assert 0.5 < expected < 0.9


def test_good_stories_are_in_the_language_and_bad_ones_are_not() -> None:
    pairs = synthetic.minimal_pairs(seed=3, per_phenomenon=10)
    assert len(pairs) == 10 * len(PARADIGMS)
    for pair in pairs:
        assert synthetic.document_nats(pair["sentence_good"]) > 0
        with pytest.raises(ValueError, match="no reading"):
            synthetic.document_nats(pair["sentence_bad"])
        good, bad = pair["sentence_good"].split(), pair["sentence_bad"].split()
        assert len(good) == len(bad)
        assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1


def test_prompts_begin_held_out_documents() -> None:
    prompts = synthetic.sample_prompts(5, seed=0)
    starts = [document.text for document in synthetic.held_out(0)[:5]]
    assert len(prompts) == 5
    assert all(text.startswith(prompt) for text, prompt in zip(starts, prompts, strict=True))


def test_the_lexicon_is_zipfian_and_of_the_stated_size() -> None:
    invented = lexicon.invented()
    assert [len(invented[kind]) for kind in ("nouns", "verbs", "adjectives")] == [9_000, 600, 400]
    weights = lexicon.zipf_weights(9_000)
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] > 0
