"""The words of the embedded corpus: a few hundred English ones and 10,000 invented ones with regular morphology.

No form belongs to two places: a singular is never another word's plural, a name never a noun, so that a text has one
reading. No noun or adjective begins with a vowel, so that `a` is always right. Invented words are built of syllables
("blick", "tovan"), drawn from a fixed seed, and weighted by Zipf's law (frequency ~ 1 / rank), as the open class of a
language is.
"""

from __future__ import annotations

import random
from functools import cache

LEXICON_SEED = 7
INVENTED_NOUNS, INVENTED_VERBS, INVENTED_ADJECTIVES = 9_000, 600, 400
ZIPF_SCALE = 10_000_000
ZIPF_SHIFT = 20  # without it the first ten invented words would be a third of all

FEMALE = (
    "Anna Lily Mia Sara Nora Lucy Molly Daisy Ruby Rose Jane Kate Emma Grace Clara Zoe Ivy Beth Tess Wendy Polly Nina "
    "Helen Julia Maria Peggy Greta Sally Dora Heidi"
).split()
MALE = (
    "Tom Ben Sam Max Jack Tim Leo Fred Hugo Peter Paul Mark Luke Noah Finn Oscar Ned Bob Carl Dan Eric Frank George "
    "Henry Jim Karl Nick Ralph Simon Walter"
).split()
FEMALE_NOUNS = "girl mother sister queen woman grandma lady nurse".split()
MALE_NOUNS = "boy father brother king man grandpa lord farmer".split()
# singular -> plural; irregular ones among them
NEUTER_NOUNS = {
    word: word + "s"
    for word in (
        "dog cat bird cow horse duck frog rabbit bear lion tiger pig goat hen monkey ball car train boat kite book cup "
        "hat shoe coat lamp chair table spoon cake cookie banana carrot pumpkin tree flower stone river house door "
        "window garden kitchen school road bridge farm market tower puppet robot drum bell ship wagon pillow blanket"
    ).split()
} | {
    "mouse": "mice",
    "goose": "geese",
    "sheep": "sheep",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "leaf": "leaves",
    "wolf": "wolves",
    "knife": "knives",
    "loaf": "loaves",
    "box": "boxes",
    "fox": "foxes",
    "baby": "babies",
    "puppy": "puppies",
    "pony": "ponies",
    "berry": "berries",
}
del NEUTER_NOUNS["sheep"]  # its number cannot be read off its form
FEMALE_PLURALS = {"woman": "women", "lady": "ladies"}
MALE_PLURALS = {"man": "men"}
PLACES = (
    "park zoo beach forest lake hill barn shop cave pond meadow library station castle field village harbour museum "
    "playground bakery"
).split()
ADJECTIVES = (
    "big small little red blue green yellow brown black white happy sad funny silly kind brave clever quiet noisy fast "
    "slow soft hard warm cold new round long short tall tiny huge pretty dirty clean wet dry sweet sleepy hungry lazy "
    "busy gentle proud shy strong weak bright dark golden"
).split()
FEELINGS = "glad tired scared thirsty lonely cheerful grumpy curious calm worried surprised bored".split()
# base -> (third person, past)
TRANSITIVE = {
    "see": ("sees", "saw"),
    "find": ("finds", "found"),
    "take": ("takes", "took"),
    "bring": ("brings", "brought"),
    "catch": ("catches", "caught"),
    "hold": ("holds", "held"),
    "hide": ("hides", "hid"),
    "break": ("breaks", "broke"),
    "draw": ("draws", "drew"),
    "buy": ("buys", "bought"),
    "sell": ("sells", "sold"),
    "forget": ("forgets", "forgot"),
    "choose": ("chooses", "chose"),
    "feed": ("feeds", "fed"),
    "keep": ("keeps", "kept"),
    "lose": ("loses", "lost"),
    "like": ("likes", "liked"),
    "want": ("wants", "wanted"),
    "touch": ("touches", "touched"),
    "push": ("pushes", "pushed"),
    "pull": ("pulls", "pulled"),
    "carry": ("carries", "carried"),
    "follow": ("follows", "followed"),
    "wash": ("washes", "washed"),
    "paint": ("paints", "painted"),
    "kick": ("kicks", "kicked"),
    "visit": ("visits", "visited"),
    "watch": ("watches", "watched"),
    "help": ("helps", "helped"),
    "miss": ("misses", "missed"),
}
INTRANSITIVE = {
    "run": ("runs", "ran"),
    "swim": ("swims", "swam"),
    "sing": ("sings", "sang"),
    "sleep": ("sleeps", "slept"),
    "fall": ("falls", "fell"),
    "fly": ("flies", "flew"),
    "stand": ("stands", "stood"),
    "sit": ("sits", "sat"),
    "speak": ("speaks", "spoke"),
    "wake": ("wakes", "woke"),
    "jump": ("jumps", "jumped"),
    "laugh": ("laughs", "laughed"),
    "dance": ("dances", "danced"),
    "play": ("plays", "played"),
    "shout": ("shouts", "shouted"),
    "wait": ("waits", "waited"),
    "smile": ("smiles", "smiled"),
    "rest": ("rests", "rested"),
    "climb": ("climbs", "climbed"),
    "cry": ("cries", "cried"),
}
IRREGULAR = {
    base for base, (_, past) in (TRANSITIVE | INTRANSITIVE).items() if not past.endswith("ed") or base == "feed"
}
IRREGULAR_NOUNS = {singular for singular, plural in NEUTER_NOUNS.items() if plural != singular + "s"}

_ONSETS = (
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sh sk sl sm sn sp st str t th tr tw v w z"
).split()
_VOWELS = "a e i o u ai ea ee oa oo ou".split()
_CODAS = "b ck d ff g l ll m mp n nd ng nk nt p pt r rb rd rk rl rm rn rt t".split()


def plural(noun: str) -> str:
    """Return the regular plural of an invented noun."""
    return noun + "s"


def _shape(generator: random.Random) -> str:
    """Return one to three syllables; closed at the end, so that -s and -ed can be told from the stem."""
    pick = lambda items: items[int(generator.random() * len(items))]  # noqa: E731 - reads best inline
    syllables = 1 + (generator.random() < 0.75) + (generator.random() < 0.3)
    return "".join(pick(_ONSETS) + pick(_VOWELS) for _ in range(syllables)) + pick(_CODAS)


def _english_forms() -> set[str]:
    forms = {*FEMALE_NOUNS, *MALE_NOUNS, *NEUTER_NOUNS, *NEUTER_NOUNS.values(), *PLACES, *ADJECTIVES, *FEELINGS}
    forms |= {n + "s" for n in (*FEMALE_NOUNS, *MALE_NOUNS)} | {"women", "ladies", "men"}
    forms |= {name.lower() for name in (*FEMALE, *MALE)}
    for base, (third, past) in (TRANSITIVE | INTRANSITIVE).items():
        forms |= {base, third, past, base + "ed", base + "d"}
    function_words = (
        "a the this that these those one two three some any no every each and but or so then he she it they him her "
        "them himself herself itself themselves his their is are was were has have had do does did not never often "
        "always ever who what where with near behind under on in to from day there named once upon time you yes can "
        "will look at went walked morning very mom chi dad"
    )
    return forms | set(function_words.split())


@cache
def invented() -> dict[str, tuple[str, ...]]:
    """`nouns`, `verbs` and `adjectives`, most frequent first; all forms distinct from each other and from English."""
    generator = random.Random(LEXICON_SEED)
    taken = _english_forms()
    found: dict[str, tuple[str, ...]] = {}
    sizes = {"nouns": INVENTED_NOUNS, "verbs": INVENTED_VERBS, "adjectives": INVENTED_ADJECTIVES}
    for kind, size in sizes.items():
        words: list[str] = []
        while len(words) < size:
            word = _shape(generator)
            forms = {word, word + "s", word + "ed"}
            if forms & taken or len(word) > 11:
                continue
            taken |= forms
            words.append(word)
        found[kind] = tuple(words)
    return found


def zipf_weights(count: int) -> list[int]:
    """Integer weights of ranks 1, 2, ...: 1 / (rank + 20), Mandelbrot's shift of Zipf's law."""
    return [ZIPF_SCALE // (rank + 1 + ZIPF_SHIFT) for rank in range(count)]
