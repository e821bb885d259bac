"""Minimal pairs in the language of the embedded corpus: the built-in grammar test.

Each paradigm takes one rule of the grammar and breaks it in one word, in a story of two sentences. The good story is
in the language (a test reads it), the bad one is not, so a model that has learned the rule finds it less likely. Only
for models trained on the embedded corpus: others have never met its words. English is tested by BLiMP.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from babyllama.data.synthetic import lexicon as lex
from babyllama.data.synthetic.rules import PRONOUN, REFLEXIVE

T = TypeVar("T")
Pick = Callable[[Iterable[T]], T]


def _pick(generator: random.Random) -> Pick:
    def pick(words: Iterable[T]) -> T:
        items = list(words)
        return items[int(generator.random() * len(items))]

    return pick


FREQUENT = 200  # invented words that every training text has seen often enough to know their form


def _noun(pick: Pick) -> tuple[str, str]:
    """Singular and plural of a thing, English or one of the frequent invented words."""
    if pick((True, False)):
        singular = pick(lex.NEUTER_NOUNS)
        return singular, lex.NEUTER_NOUNS[singular]
    wug = pick(lex.invented()["nouns"][:FREQUENT])
    return wug, lex.plural(wug)


def _subject(pick: Pick, gender: str) -> str:
    if gender == "f":
        return pick((pick(lex.FEMALE), "the " + pick(lex.FEMALE_NOUNS)))
    if gender == "m":
        return pick((pick(lex.MALE), "the " + pick(lex.MALE_NOUNS)))
    return "the " + _noun(pick)["np".index(gender)]


def agreement(pick: Pick) -> tuple[str, str]:
    """Return the dog runs / the dog run"""
    return _agreeing(pick, lambda many: f"the {_noun(pick)[many]}")


def agreement_attractor(pick: Pick) -> tuple[str, str]:
    """Return the dog near the cats runs / the dog near the cats run"""
    between = ("near", "behind", "beside")
    return _agreeing(pick, lambda many: f"the {_noun(pick)[many]} {pick(between)} the {_noun(pick)[not many]}")


def _agreeing(pick: Pick, subject_of: Callable[[bool], str]) -> tuple[str, str]:
    """Return a subject of one number with the verb that agrees, and with the one that does not."""
    many = pick((False, True))
    base = pick(lex.INTRANSITIVE)
    forms = (base, lex.INTRANSITIVE[base][0])
    subject = subject_of(many)
    return f"{subject} {forms[not many]}.", f"{subject} {forms[many]}."


def determiner_noun(pick: Pick) -> tuple[str, str]:
    """Lily saw these dogs / Lily saw these dog"""
    many = pick((False, True))
    noun = _noun(pick)
    start = f"{pick(lex.FEMALE)} {_past(pick)} {pick(('these', 'those') if many else ('this', 'that'))}"
    return f"{start} {noun[many]}.", f"{start} {noun[not many]}."


def number_noun(pick: Pick) -> tuple[str, str]:
    """Tom had a wug -> two wugs / two wug"""
    noun = _noun(pick)
    start = f"{pick(lex.MALE)} {_past(pick)} {pick(('two', 'three', 'four', 'many'))}"
    return f"{start} {noun[1]}.", f"{start} {noun[0]}."


def anaphor_gender(pick: Pick) -> tuple[str, str]:
    """Lily washed herself / Lily washed himself"""
    gender, other = pick((("f", "m"), ("m", "f")))
    start = f"{_subject(pick, gender)} {_past(pick)}"
    return f"{start} {REFLEXIVE[gender]}.", f"{start} {REFLEXIVE[other]}."


def anaphor_number(pick: Pick) -> tuple[str, str]:
    """Return the dogs washed themselves / the dogs washed itself"""
    gender, other = pick((("n", "p"), ("p", "n")))
    start = f"{_subject(pick, gender)} {_past(pick)}"
    return f"{start} {REFLEXIVE[gender]}.", f"{start} {REFLEXIVE[other]}."


def pronoun_reference(pick: Pick) -> tuple[str, str]:
    """Lily was glad because she found a cup / because he found a cup"""
    gender, other = pick((("f", "m"), ("m", "f")))
    start = f"{_subject(pick, gender)} was {pick(lex.FEELINGS)} because"
    end = f"{_past(pick)} the {_noun(pick)[0]}."
    return f"{start} {PRONOUN[gender]} {end}", f"{start} {PRONOUN[other]} {end}"


def npi_any(pick: Pick) -> tuple[str, str]:
    """Tom never found any cups / Tom often found any cups"""
    subject, end = _subject(pick, pick("fm")), f"{_past(pick)} any {_noun(pick)[1]}."
    return f"{subject} never {end}", f"{subject} often {end}"


def npi_ever(pick: Pick) -> tuple[str, str]:
    """No dog ever ran / the dog ever ran"""
    base = pick(lex.INTRANSITIVE)
    end = f"{_noun(pick)[0]} ever {lex.INTRANSITIVE[base][1]}."
    return f"no {end}", f"the {end}"


def irregular_past(pick: Pick) -> tuple[str, str]:
    """Return the girl saw the dog / the girl seed the dog"""
    base = pick(sorted(set(lex.TRANSITIVE) & lex.IRREGULAR))
    subject, end = _subject(pick, pick("fm")), f"the {_noun(pick)[0]}."
    wrong = base + ("d" if base.endswith("e") else "ed")
    return f"{subject} {lex.TRANSITIVE[base][1]} {end}", f"{subject} {wrong} {end}"


def irregular_plural(pick: Pick) -> tuple[str, str]:
    """Return two mice / two mouses"""
    noun = pick(sorted(lex.IRREGULAR_NOUNS))
    start = f"{pick(lex.MALE)} {_past(pick)} {pick(('two', 'three', 'four'))}"
    return f"{start} {lex.NEUTER_NOUNS[noun]}.", f"{start} {noun}s."


def base_after_did(pick: Pick) -> tuple[str, str]:
    """Return the girl did not see any dogs / did not saw any dogs"""
    base = pick(lex.TRANSITIVE)
    subject, end = _subject(pick, pick("fm")), f"any {_noun(pick)[1]}."
    return f"{subject} did not {base} {end}", f"{subject} did not {lex.TRANSITIVE[base][1]} {end}"


def _past(pick: Pick) -> str:
    return lex.TRANSITIVE[pick(lex.TRANSITIVE)][1]


PARADIGMS: dict[str, tuple[Callable[[Pick], tuple[str, str]], str, str]] = {
    "subject_verb_agreement": (agreement, "morphology", "subject_verb_agreement"),
    "subject_verb_agreement_attractor": (agreement_attractor, "morphology", "subject_verb_agreement"),
    "determiner_noun_agreement": (determiner_noun, "morphology", "determiner_noun_agreement"),
    "number_noun_agreement": (number_noun, "morphology", "determiner_noun_agreement"),
    "anaphor_gender_agreement": (anaphor_gender, "morphology", "anaphor_agreement"),
    "anaphor_number_agreement": (anaphor_number, "morphology", "anaphor_agreement"),
    "pronoun_reference": (pronoun_reference, "semantics", "binding"),
    "npi_any": (npi_any, "semantics", "npi_licensing"),
    "npi_ever": (npi_ever, "semantics", "npi_licensing"),
    "irregular_past": (irregular_past, "morphology", "irregular_forms"),
    "irregular_plural": (irregular_plural, "morphology", "irregular_forms"),
    "base_after_did": (base_after_did, "syntax", "verb_form"),
}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _opening(pick: Pick) -> str:
    """Return a story's first sentence, the same for both: the corpus has no document that begins with any other."""
    noun, name = pick(((pick(lex.FEMALE_NOUNS), pick(lex.FEMALE)), (pick(lex.MALE_NOUNS), pick(lex.MALE))))
    return f"Once upon a time there was a {noun} named {name}."


def make_pairs(seed: int, per_phenomenon: int) -> list[dict[str, str]]:
    """Distinct pairs for every paradigm.

    Args:
        seed: Seed of the choice of words.
        per_phenomenon: Pairs of each paradigm.

    Returns:
        Dicts with field, linguistics_term, UID, pairID, sentence_good, sentence_bad, as BLiMP has them.
    """
    pairs = []
    for number, (uid, (make, field, term)) in enumerate(PARADIGMS.items()):
        pick = _pick(random.Random(1_000 * seed + number))
        seen: dict[str, str] = {}
        while len(seen) < per_phenomenon:
            opening = _opening(pick)
            good, bad = make(pick)
            seen.setdefault(f"{opening} {_sentence(good)}", f"{opening} {_sentence(bad)}")
        for pair_id, (good, bad) in enumerate(seen.items()):
            facts = {"field": field, "linguistics_term": term, "UID": uid, "pairID": str(pair_id)}
            pairs.append({**facts, "sentence_good": good, "sentence_bad": bad})
    return pairs
