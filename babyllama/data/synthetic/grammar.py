"""A probabilistic context-free grammar with integer weights: drawing from it, and reading a sentence back.

A symbol expands to one of its productions with probability weight / sum of weights; a production is a sequence of
symbols and words. A symbol may instead be a *word class*: a list of words with weights. Drawing adds up the exact
-log probabilities of its choices. Reading works on the finished sentence alone, without knowing what was drawn: it
finds every derivation and adds their probabilities, so that it also proves that there is only one.

    >>> grammar = Grammar({"S": [(3, ("the", "N", "ran")), (1, ("N", "slept"))]}, {"N": {"dog": 1, "cat": 1}})
    >>> words, nats = grammar.draw("S", iter([0.9, 0.6]).__next__)
    >>> words, round(math.exp(-nats), 4)                # 1/4 for the frame, 1/2 for the noun
    (['cat', 'slept'], 0.125)
    >>> probability, derivations = grammar.read("S", ("the", "dog", "ran"))
    >>> round(probability, 4), derivations              # 3/4 * 1/2, one derivation
    (0.375, 1)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

Production = tuple[str, ...]


class Grammar:
    """Rules and word classes.

    Args:
        rules: Symbol -> productions with integer weights. No symbol may begin with itself (no left recursion).
        classes: Word class -> word -> integer weight.
    """

    def __init__(
        self, rules: Mapping[str, Sequence[tuple[int, Production]]], classes: Mapping[str, Mapping[str, int]]
    ) -> None:
        self.rules = {symbol: [production for _, production in found] for symbol, found in rules.items()}
        self.classes = {symbol: dict(words) for symbol, words in classes.items()}
        weights = {symbol: [weight for weight, _ in found] for symbol, found in rules.items()}
        self._tables = {symbol: self._table(found) for symbol, found in weights.items()}
        self._words = {symbol: list(words) for symbol, words in self.classes.items()}
        self._tables |= {symbol: self._table(list(words.values())) for symbol, words in self.classes.items()}

    @staticmethod
    def _table(weights: Sequence[int]) -> tuple[list[int], int, list[float]]:
        """Cumulative weights, their sum, and -log probability of each choice."""
        total = sum(weights)
        return list(accumulate(weights)), total, [math.log(total) - math.log(weight) for weight in weights]

    def choose(self, symbol: str, uniform: Callable[[], float]) -> tuple[int, float]:
        """Index of a choice and its -log probability; `uniform` gives numbers in [0, 1)."""
        cumulative, total, nats = self._tables[symbol]
        index = bisect_right(cumulative, int(uniform() * total))
        return index, nats[index]

    def draw(self, symbol: str, uniform: Callable[[], float]) -> tuple[list[str], float]:
        """Return words and -log probability (nats) of one expansion of `symbol`."""
        words: list[str] = []
        nats = 0.0
        stack = [symbol]
        while stack:
            top = stack.pop()
            if top in self._words:
                index, cost = self.choose(top, uniform)
                words.append(self._words[top][index])
            elif top in self.rules:
                index, cost = self.choose(top, uniform)
                stack.extend(reversed(self.rules[top][index]))
            else:
                words.append(top)
                continue
            nats += cost
        return words, nats

    def read(self, symbol: str, words: Sequence[str]) -> tuple[float, int]:
        """Probability that `symbol` expands to exactly `words`, and the number of derivations that do."""
        found = self._spans(symbol, 0, tuple(words), {})
        return found.get(len(words), (0.0, 0))

    def _spans(
        self, symbol: str, start: int, words: tuple[str, ...], memo: dict[tuple[str, int], dict[int, tuple[float, int]]]
    ) -> dict[int, tuple[float, int]]:
        """End position -> (probability, derivations) of `symbol` from `start` on."""
        key = (symbol, start)
        if key in memo:
            return memo[key]
        found: dict[int, tuple[float, int]] = {}
        if symbol in self.classes:
            weight = self.classes[symbol].get(words[start]) if start < len(words) else None
            if weight is not None:
                found[start + 1] = (weight / self._tables[symbol][1], 1)
        elif symbol in self.rules:
            for index, production in enumerate(self.rules[symbol]):
                chance = math.exp(-self._tables[symbol][2][index])
                for end, (probability, count) in self._sequence(production, start, words, memo).items():
                    before, number = found.get(end, (0.0, 0))
                    found[end] = (before + chance * probability, number + count)
        elif start < len(words) and words[start] == symbol:
            found[start + 1] = (1.0, 1)
        memo[key] = found
        return found

    def _sequence(
        self,
        production: Production,
        start: int,
        words: tuple[str, ...],
        memo: dict[tuple[str, int], dict[int, tuple[float, int]]],
    ) -> dict[int, tuple[float, int]]:
        ends = {start: (1.0, 1)}
        for part in production:
            reached: dict[int, tuple[float, int]] = {}
            for place, (probability, count) in ends.items():
                for end, (chance, number) in self._spans(part, place, words, memo).items():
                    before, sofar = reached.get(end, (0.0, 0))
                    reached[end] = (before + probability * chance, sofar + count * number)
            ends = reached
        return ends
