r"""The embedded corpus: little stories and dialogues from a grammar whose probabilities are known exactly.

A model trained on it can be compared with the truth: no model can predict held-out text better than the grammar that
wrote it, so bits per byte below the corpus's own entropy mean a mistake in the evaluation, and the distance above it
is what the model has not learned.

**A document** is a story (3 of 5) or a dialogue (2 of 5). A story is a chain of sentences: the first introduces
someone; each further one speaks of the last subject by pronoun (`he`, `she`, `it`, `they`) or brings a new subject,
so that pronouns must agree over sentence borders. After each sentence the story goes on with probability 6/7. A
dialogue is a chain of exchanges, a grown-up's question and a child's answer that agrees with it (3/4). So most
documents fit into the 128 tokens that the quick start's model sees at once.

**The sum.** -ln P(text) is the sum over all choices: kind, first subject, each sentence's derivation, and each
decision to go on. The final decision to stop is left out: evaluation predicts every token of the text and no end
token, so what it pays is the probability that a document *begins* with this text. That event is exactly the choices
counted: every sentence ends with its only `.`, `?` or `!`, so that no sentence is the beginning of another, and the
space or line feed that follows belongs to the decision to go on. The grammar is unambiguous, so there is one sum.

A worked example, the shortest kind of story:

    >>> text = "Once upon a time there was a girl named Lily."
    >>> chances = [3 / 5,        # a story
    ...            3 / 10,       # about a female
    ...            6 / 10,       # "once upon a time there was a", a noun, "named", a name
    ...            1 / 8, 1 / 30]   # girl, Lily
    >>> abs(document_nats(text) + sum(math.log(chance) for chance in chances)) < 1e-9
    True

Seeded by `random.Random.random`, whose sequence Python guarantees; no floating-point sum decides anything, so every
machine and version writes the same text.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from babyllama.data.synthetic import lexicon
from babyllama.data.synthetic.grammar import Grammar
from babyllama.data.synthetic.rules import CLASSES, NEXT_UNIT, RULES

HELD_OUT_DOCUMENTS = 500
GO_ON = {"story": (6, 7), "dialogue": (3, 4)}  # probability of another unit, as a fraction
KINDS = (("story", 3), ("dialogue", 2))
ADULTS = ("MOM", "DAD")
# Part of the data cache's key: whatever is changed in the language, the version changes with it.
_LANGUAGE = repr((RULES, CLASSES, NEXT_UNIT, GO_ON, KINDS, ADULTS, HELD_OUT_DOCUMENTS))
SYNTHETIC_VERSION = hashlib.sha256(_LANGUAGE.encode()).hexdigest()[:16]
_NAMES = {name.lower(): name for name in (*lexicon.FEMALE, *lexicon.MALE)}
_TOKEN = re.compile(r"[A-Z]+:|[^\s.,?!]+|[.,?!]|\n")
_UNIT = re.compile(r"[^.?!]*[.?!]")


@dataclass(frozen=True, slots=True)
class SyntheticDocument:
    """A document and what it costs.

    Attributes:
        text: The text.
        nats: Exact -ln of the probability that a document begins with it.
    """

    text: str
    nats: float


@cache
def grammar() -> Grammar:
    """Return the grammar of sentences and exchanges."""
    return Grammar(RULES, CLASSES)


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def write_unit(words: Sequence[str]) -> str:
    r"""Return words to text: capitals at the start of a sentence, no space before punctuation.

    >>> write_unit(["MOM:", "where", "is", "Lily", "?", "\n", "CHI:", "she", "is", "here", "."])
    'MOM: Where is Lily?\nCHI: She is here.'
    """
    text, start = "", True
    for word in words:
        if word == "\n":
            text, start = text + word, True
        elif word in ".,?!":
            text += word
        else:
            gap = "" if not text or text.endswith("\n") else " "
            text += gap + (_capital(word) if start else word)
            start = word.endswith(":")
    return text


def read_unit(text: str) -> tuple[str, ...]:
    """Return text to words, the inverse of `write_unit`."""
    words: list[str] = []
    start = True
    for token in _TOKEN.findall(text):
        lower = token[:1].lower() + token[1:]
        words.append(_NAMES.get(lower, lower) if start and not token.endswith(":") and token != "\n" else token)
        start = token == "\n" or token.endswith(":")
    return tuple(words)


def _uniform(generator: random.Random, weights: Sequence[tuple[str, int]]) -> tuple[str, float]:
    """Return a weighted choice and its -log probability."""
    total = sum(weight for _, weight in weights)
    place = int(generator.random() * total)
    for name, weight in weights:
        if place < weight:
            return name, math.log(total) - math.log(weight)
        place -= weight
    raise AssertionError("weights are positive")


def _document(generator: random.Random) -> SyntheticDocument:
    kind, nats = _uniform(generator, KINDS)
    adult = ""
    if kind == "dialogue":
        adult, cost = _uniform(generator, [(name, 1) for name in ADULTS])
        nats += cost
    state, units = f"{kind}-start", []
    more, whole = GO_ON[kind]
    while True:
        root, cost = _uniform(generator, NEXT_UNIT[state])
        words, drawn = grammar().draw(root, generator.random)
        units.append(write_unit([f"{adult}:" if word == "ADULT:" else word for word in words]))
        nats += cost + drawn
        if int(generator.random() * whole) >= more:
            break
        nats += math.log(whole) - math.log(more)
        state = _after(root)
    return SyntheticDocument((" " if kind == "story" else "\n").join(units), nats)


def _after(root: str) -> str:
    """Return the state that a sentence leaves: who a pronoun would mean (`f`, `m`, `n`, `p`), or `talk`."""
    return root.strip("<>").split("_")[-1]


def generate_documents(words: int, seed: int) -> list[SyntheticDocument]:
    """Return documents of about `words` words in all.

    Args:
        words: Whitespace-separated words wanted; whole documents until reached.
        seed: Two seeds give independent texts of the same language.
    """
    generator = random.Random(2 * seed)
    documents: list[SyntheticDocument] = []
    written = 0
    while written < words:
        documents.append(_document(generator))
        written += documents[-1].text.count(" ") + documents[-1].text.count("\n") + 1
    return documents


def held_out(seed: int) -> list[SyntheticDocument]:
    """500 documents from a stream that no training text of any seed uses."""
    generator = random.Random(2 * seed + 1)
    return [_document(generator) for _ in range(HELD_OUT_DOCUMENTS)]


def document_nats(text: str) -> float:
    """Return exact -ln of the probability that a document begins with `text`, worked out from the text alone.

    Raises:
        ValueError: The text is not in the language, or (which a test rules out) has two readings.
    """
    kind = "dialogue" if text.startswith(tuple(f"{name}:" for name in ADULTS)) else "story"
    total = sum(weight for _, weight in KINDS)
    nats = math.log(total) - math.log(dict(KINDS)[kind])
    units = _units(text, kind)
    if kind == "dialogue":
        nats += math.log(len(ADULTS))
        units = _without_speaker(units, text.split(":")[0])
    more, whole = GO_ON[kind]
    state = f"{kind}-start"
    for unit in units:
        root, cost = _read(unit, state)
        nats += cost
        state = _after(root)
    return nats + (len(units) - 1) * (math.log(whole) - math.log(more))


def _units(text: str, kind: str) -> list[str]:
    """Return the text's sentences, or its exchanges of two lines; they must make up the whole text."""
    if kind == "story":
        units = [unit.removeprefix(" ") for unit in _UNIT.findall(text)]
        whole = " ".join(units)
    else:
        lines = text.split("\n")
        units = ["\n".join(lines[i : i + 2]) for i in range(0, len(lines), 2)]
        whole = "\n".join(units)
    if whole != text or not units:
        raise ValueError(f"not a {kind} of whole sentences: {text[:60]!r}")
    return units


def _without_speaker(units: list[str], adult: str) -> list[str]:
    if not all(unit.startswith(f"{adult}:") for unit in units):
        raise ValueError("two grown-ups speak in one dialogue")
    return ["ADULT:" + unit.removeprefix(f"{adult}:") for unit in units]


def _read(unit: str, state: str) -> tuple[str, float]:
    """Return which kind of sentence it is, and its -log probability in this state."""
    words = read_unit(unit)
    if write_unit(words) != unit:
        raise ValueError(f"not written as the grammar writes: {unit!r}")
    total = sum(weight for _, weight in NEXT_UNIT[state])
    readings = []
    for root, weight in NEXT_UNIT[state]:
        probability, count = grammar().read(root, words)
        if count:
            readings.append((root, math.log(total) - math.log(weight) - math.log(probability), count))
    if len(readings) != 1 or readings[0][2] != 1:
        raise ValueError(f"{'no' if not readings else 'more than one'} reading after {state}: {unit!r}")
    return readings[0][0], readings[0][1]


def entropy_per_byte(documents: Sequence[SyntheticDocument]) -> float:
    """Return bits per UTF-8 byte that the grammar itself pays on these documents: the floor for any model."""
    sizes = sum(len(document.text.encode()) for document in documents)
    return sum(document.nats for document in documents) / math.log(2) / sizes


def sample_prompts(count: int, seed: int) -> list[str]:
    """Beginnings of held-out documents: a first sentence each, or a question and the child's label."""
    prompts = []
    for document in held_out(seed)[:count]:
        cut = document.text.find("\nCHI:")
        prompts.append(document.text[: cut + 5] if cut > 0 else _units(document.text, "story")[0])
    return prompts


def minimal_pairs(seed: int = 0, per_phenomenon: int = 100) -> list[dict[str, str]]:
    """Return the built-in grammar test; see pairs.py."""
    from babyllama.data.synthetic.pairs import make_pairs

    return make_pairs(seed, per_phenomenon)
