"""The rules of the embedded corpus: what a sentence may be, and what may follow what.

Suffixes say whom a subject is referred to by: f she, m he, n it, p they. `<..>` are symbols and word classes, anything
else is a word. Every number is a weight among the productions of its symbol.
"""

from __future__ import annotations

from babyllama.data.synthetic import lexicon as lex

PRONOUN = {"f": "she", "m": "he", "n": "it", "p": "they"}
REFLEXIVE = {"f": "herself", "m": "himself", "n": "itself", "p": "themselves"}
GENDERS = "fmnp"

_INVENTED = lex.invented()
_VERBS = {"t": lex.TRANSITIVE, "i": lex.INTRANSITIVE}


def _even(words: object) -> dict[str, int]:
    return dict.fromkeys(words, 1)  # type: ignore[call-overload]


def _zipf(words: list[str]) -> dict[str, int]:
    return dict(zip(words, lex.zipf_weights(len(words)), strict=True))


CLASSES: dict[str, dict[str, int]] = {
    "<female>": _even(lex.FEMALE),
    "<male>": _even(lex.MALE),
    "<woman>": _even(lex.FEMALE_NOUNS),
    "<man>": _even(lex.MALE_NOUNS),
    "<women>": _even([lex.FEMALE_PLURALS.get(n, n + "s") for n in lex.FEMALE_NOUNS]),
    "<men>": _even([lex.MALE_PLURALS.get(n, n + "s") for n in lex.MALE_NOUNS]),
    "<thing>": _even(lex.NEUTER_NOUNS),
    "<things>": _even(lex.NEUTER_NOUNS.values()),
    "<wug>": _zipf(list(_INVENTED["nouns"])),
    "<wugs>": _zipf([lex.plural(n) for n in _INVENTED["nouns"]]),
    "<adj-real>": _even(lex.ADJECTIVES),
    "<adj-new>": _zipf(list(_INVENTED["adjectives"])),
    "<feel>": _even(lex.FEELINGS),
    "<place>": _even(lex.PLACES),
    "<tv-new>": _zipf(list(_INVENTED["verbs"])),
    "<tvs-new>": _zipf([v + "s" for v in _INVENTED["verbs"]]),
    "<tvd-new>": _zipf([v + "ed" for v in _INVENTED["verbs"]]),
}
for _kind, _verbs in _VERBS.items():
    CLASSES[f"<{_kind}v-real>"] = _even(_verbs)
    CLASSES[f"<{_kind}vs-real>"] = _even([third for third, _ in _verbs.values()])
    CLASSES[f"<{_kind}vd-real>"] = _even([past for _, past in _verbs.values()])

Rules = dict[str, list[tuple[int, tuple[str, ...]]]]

RULES: Rules = {
    "<adj>": [(10, ("<adj-real>",)), (1, ("<adj-new>",))],
    "<noun>": [(1, ("<thing>",)), (1, ("<wug>",))],
    "<nouns>": [(3, ("<things>",)), (4, ("<wugs>",)), (1, ("<women>",)), (1, ("<men>",))],
    "<tv>": [(12, ("<tv-real>",)), (1, ("<tv-new>",))],
    "<tvs>": [(12, ("<tvs-real>",)), (1, ("<tvs-new>",))],
    "<tvd>": [(12, ("<tvd-real>",)), (1, ("<tvd-new>",))],
    "<number>": [(3, ("two",)), (2, ("three",)), (1, ("four",)), (1, ("many",))],
    "<near>": [(2, ("near",)), (1, ("behind",)), (1, ("beside",))],
    # things that are acted on
    "<object>": [
        (4, ("the", "<noun>")),
        (3, ("a", "<noun>")),
        (2, ("a", "<adj>", "<noun>")),
        (2, ("the", "<adj>", "<nouns>")),
        (1, ("this", "<noun>")),
        (1, ("that", "<noun>")),
        (1, ("these", "<nouns>")),
        (1, ("those", "<nouns>")),
        (2, ("<number>", "<nouns>")),
        (1, ("<female>",)),
        (1, ("<male>",)),
    ],
    # subjects
    "<subject-f>": [(3, ("<female>",)), (2, ("the", "<woman>")), (1, ("the", "<adj>", "<woman>"))],
    "<subject-m>": [(3, ("<male>",)), (2, ("the", "<man>")), (1, ("the", "<adj>", "<man>"))],
    "<subject-n>": [
        (4, ("the", "<noun>")),
        (2, ("the", "<adj>", "<noun>")),
        (1, ("this", "<noun>")),
        (1, ("that", "<noun>")),
    ],
    "<subject-p>": [
        (4, ("the", "<nouns>")),
        (2, ("the", "<adj>", "<nouns>")),
        (1, ("these", "<nouns>")),
        (1, ("those", "<nouns>")),
        (2, ("<number>", "<nouns>")),
        (1, ("<female>", "and", "<male>")),
    ],
    "<aside>": [(1, ("<near>", "the", "<noun>")), (1, ("<near>", "the", "<nouns>"))],
    "<where>": [(4, ("to", "the", "<place>")), (2, ("from", "the", "<place>"))],
    "<opening>": [(6, ()), (1, ("then",)), (1, ("one", "day")), (1, ("in", "the", "morning"))],
}


def _verb_phrases(gender: str) -> Rules:
    """Return what a subject of this gender and number does, in the past, in the present, under negation."""
    # Forms that agree with the subject.
    many = gender == "p"
    s, was, has = ("", "were", "have") if many else ("s", "was", "has")
    past, now = f"<past-{gender}>", f"<now-{gender}>"
    # Each right side with its weight.
    return {
        past: [
            (5, ("<tvd>", "<object>")),
            (3, ("<ivd-real>",)),
            (2, ("<ivd-real>", "in", "the", "<place>")),
            (2, ("went", "<where>")),
            (2, (was, "<feel>")),
            (2, ("wanted", "to", "<iv-real>")),
            (4, ("<tvd>", REFLEXIVE[gender])),
            (2, ("did", "not", "<tv>", "any", "<nouns>")),
            (1, ("did", "not", "<iv-real>")),
            (2, ("never", "<tvd>", "any", "<nouns>")),
            (2, ("often", "<tvd>", "some", "<nouns>")),
            (3, (was, "<feel>", "because", PRONOUN[gender], "<tvd>", "<object>")),
        ],
        now: [
            (6, (f"<iv{s}-real>",)),
            (4, (f"<tv{s}>", "<object>")),
            (2, (has, "<number>", "<nouns>")),
        ],
    }


def _sentences(gender: str) -> Rules:
    subject, past, now = f"<subject-{gender}>", f"<past-{gender}>", f"<now-{gender}>"
    rules = _verb_phrases(gender)
    full: list[tuple[int, tuple[str, ...]]] = [(7, ("<opening>", subject, past, ".")), (4, (subject, now, "."))]
    if gender in "np":
        noun = "<noun>" if gender == "n" else "<nouns>"
        full.append((3, ("the", noun, "<aside>", now, ".")))
    if gender == "n":
        full.append((2, ("no", noun, "ever", "<ivd-real>", ".")))
        full.append((1, ("no", noun, "ever", "<tvd>", "<object>", ".")))
    rules[f"<full_{gender}>"] = full
    rules[f"<pronoun_{gender}>"] = [
        (6, ("<opening>", PRONOUN[gender], past, ".")),
        (3, (PRONOUN[gender], now, ".")),
    ]
    return rules


def _introductions() -> Rules:
    start = ("once", "upon", "a", "time", "there")
    return {
        "<intro_f>": [
            (6, (*start, "was", "a", "<woman>", "named", "<female>", ".")),
            (4, (*start, "was", "a", "<adj>", "<woman>", "named", "<female>", ".")),
        ],
        "<intro_m>": [
            (6, (*start, "was", "a", "<man>", "named", "<male>", ".")),
            (4, (*start, "was", "a", "<adj>", "<man>", "named", "<male>", ".")),
        ],
        "<intro_n>": [
            (1, (*start, "was", "a", "<noun>", ".")),
            (1, (*start, "was", "a", "<adj>", "<noun>", "in", "the", "<place>", ".")),
        ],
        "<intro_p>": [
            (1, (*start, "were", "<number>", "<nouns>", ".")),
            (1, (*start, "were", "<number>", "<adj>", "<nouns>", "in", "the", "<place>", ".")),
        ],
    }


def _exchanges() -> Rules:
    """Return a question and its answer; pronoun and auxiliary of the answer agree with the question."""
    found: list[tuple[int, tuple[str, ...]]] = []
    for gender in GENDERS:
        subject, pronoun = f"<subject-{gender}>", PRONOUN[gender]
        # Answers that agree in gender and number.
        be = "are" if gender == "p" else "is"
        answer = ("\n", "CHI:")
        found += [
            (40, ("ADULT:", "did", subject, "<tv>", "<object>", "?", *answer, "yes", ",", pronoun, "did", ".")),
            (40, ("ADULT:", "did", subject, "<iv-real>", "?", *answer, "no", ",", pronoun, "did", "not", ".")),
            (60, ("ADULT:", "where", be, subject, "?", *answer, pronoun, be, "in", "the", "<place>", ".")),
        ]
        for base, (_, done) in lex.TRANSITIVE.items():  # the answer's verb is the question's
            asked = ("ADULT:", "what", "did", subject, base, "?")
            found.append((1, (*asked, *answer, pronoun, done, "<object>", ".")))
    # Talk about things and persons.
    look = ("ADULT:", "look", "at")
    found += [
        (60, (*look, "this", "<noun>", "!", "\n", "CHI:", "it", "is", "<adj>", "!")),
        (60, (*look, "these", "<nouns>", "!", "\n", "CHI:", "they", "are", "<adj>", "!")),
        (
            40,
            ("ADULT:", "do", "you", "want", "a", "<noun>", "?", "\n", "CHI:", "no", ",", "I", "want", "<object>", "."),
        ),
        (40, ("ADULT:", "who", "<tvd>", "<object>", "?", "\n", "CHI:", "<female>", "did", ".")),
        (40, ("ADULT:", "who", "<tvd>", "<object>", "?", "\n", "CHI:", "<male>", "did", ".")),
    ]
    return {"<exchange_talk>": found}


for _gender in GENDERS:
    RULES |= _sentences(_gender)
RULES |= _introductions() | _exchanges()

# State -> roots with weights. A root's last part names the state it leads to.
NEXT_UNIT: dict[str, list[tuple[str, int]]] = {
    "story-start": [("<intro_f>", 3), ("<intro_m>", 3), ("<intro_n>", 2), ("<intro_p>", 2)],
    "dialogue-start": [("<exchange_talk>", 1)],
    "talk": [("<exchange_talk>", 1)],
    **{
        gender: [(f"<pronoun_{gender}>", 5), *((f"<full_{other}>", 3 if other in "np" else 2) for other in GENDERS)]
        for gender in GENDERS
    },
}
