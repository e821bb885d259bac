"""The plan of a sweep: which recipes, with which seeds, under which names. Nothing is trained or written here.

    python main.py sweep --config X --grid training.lr=1e-3,3e-3 --grid model.n_layer=4,6 --seeds 3
    python main.py sweep --config X --random 20 --range training.lr=1e-4..1e-2:log --range model.n_layer=2..6:int

A *recipe* is the base configuration with one value for each swept key; a *run* is a recipe with a seed. The runs of a
recipe differ in name only by `-seed<N>`, which is how benchmark.py knows them as one recipe. Seeds go round outermost:
an interrupted sweep has seed 1 of everything before seed 2 of anything.

Random search draws every key on its own (Bergstra and Bengio 2012: with few keys that matter, it finds better values
than a grid of as many runs). Draws come from Python's `random()`, the same on every machine and version, one a key in
the keys' alphabetical order, so that `--random 30` begins with the draws of `--random 20`.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from babyllama.common.errors import ConfigError
from babyllama.config.fingerprint import BOOKKEEPING
from babyllama.config.run_layout import run_name
from babyllama.config.schema import SECTIONS, Config
from babyllama.config.yaml_reader import read_yaml
from babyllama.research.sweep_names import recipe_name, value_text

DIGITS = 3  # significant digits of a drawn number: enough for any recipe, and it can be typed again
TOLD = 20  # problems told; the rest is counted
TRIES = 100  # draws for each recipe wanted, before a small space counts as exhausted
_RANGE = re.compile(r"^(?P<low>[^:]+?)\.\.(?P<high>[^:]+)(?P<kinds>(?::\w+)*)$")
OWN_KEYS = {
    "training.seed": "the sweep sets it: --seeds N trains each recipe with the seeds 1 to N",
    "model.name": "the sweep names its runs; --model-name NAME is what they begin with",
    "logging.output_dir": "a sweep has one folder: --output-dir DIR",
}
# Paths whose content a run hashes (fingerprint.BOOKKEEPING): a plan has only their names to tell texts apart.
PATHS = {"train_path", "eval_path", "tokenizer_path"}


@dataclass(frozen=True)
class Axis:
    """The values that one key may take: a list, or a range to draw from.

    Attributes:
        key: `section.key`.
        values: Values of `--grid`; empty for a range.
        low: Lower end of `--range`.
        high: Upper end, included.
        log: Drawn evenly in the logarithm.
        whole: Whole numbers only.
    """

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def flag(self) -> str:
        """The flag that it came from."""
        return "--grid" if self.values else "--range"

    def draw(self, u: float) -> Any:  # noqa: ANN401 - a value of YAML
        """Return the value at `u`, evenly distributed in [0, 1).

        >>> Axis("training.lr", low=1e-4, high=1e-2, log=True).draw(0.5)
        0.001
        >>> [Axis("model.n_layer", low=2, high=6, whole=True).draw(u) for u in (0.0, 0.5, 0.99)]
        [2, 4, 6]
        """
        if self.values:
            return self.values[int(u * len(self.values))]
        low, high = self.low, self.high + (1 if self.whole else 0)
        value = low * math.exp(u * math.log(high / low)) if self.log else low + u * (high - low)
        if self.whole:
            return min(int(self.high), math.floor(value))
        return min(self.high, max(self.low, float(f"{value:.{DIGITS}g}")))


@dataclass(frozen=True)
class Trial:
    """Values of the swept keys and the name they make."""

    name: str
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A recipe with a seed: one run folder."""

    name: str
    recipe: str
    overrides: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class SweepOptions:
    """What the command line asks for.

    Attributes:
        grids: `section.key=VALUE,VALUE`.
        ranges: `section.key=LOW..HIGH[:log][:int]`.
        draws: Recipes to draw; None: every combination of the grids.
        draw_seed: Seed of the draws.
        seeds: Seeds of each recipe.
        taken: Keys that other flags set, and the flag that did.
    """

    grids: Sequence[str] = ()
    ranges: Sequence[str] = ()
    draws: int | None = None
    draw_seed: int = 0
    seeds: int = 1
    taken: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep.

    Attributes:
        name: Name of the sweep's folder.
        base: What all runs share, flat: `section.key` -> value.
        keys: The swept keys in the order they were given.
        recipes: All of them.
        seeds: Seeds of each recipe, 1 to this.
        notes: Lines for the user.
    """

    name: str
    base: dict[str, Any]
    keys: tuple[str, ...]
    recipes: tuple[Trial, ...]
    seeds: int
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Run]:
        """Every run in the order of training."""
        return [
            Run(f"{recipe.name}-seed{seed}", recipe.name, recipe.overrides, seed)
            for seed in range(1, self.seeds + 1)
            for recipe in self.recipes
        ]


def plan_sweep(options: SweepOptions, build: Callable[[Mapping[str, Any]], Config]) -> SweepPlan:
    """Check everything and lay out the runs.

    Args:
        options: Options from the command line.
        build: The checked configuration of the base with some keys overridden; raises ConfigError.

    Raises:
        ConfigError: With every problem found, in the flags and in the recipes' configurations, one line each.
    """
    axes, problems = parse_axes(options)
    recipes = _draw(axes, options) if options.draws else _combine(axes)
    problems += _check_recipes(recipes, axes, build)
    if problems:
        problems = list(dict.fromkeys(problems))
        more = [f"and {len(problems) - TOLD} more problems"] if len(problems) > TOLD else []
        raise ConfigError(problems[:TOLD] + more)
    base = _base(recipes, build)
    keys = tuple(axis.key for axis in axes)
    name = run_name(base)
    named = tuple(Trial(recipe_name(name, overrides, keys), overrides) for overrides in recipes)
    notes = []
    if options.draws and len(named) < options.draws:
        notes.append(f"--random {options.draws}: there are only {len(named)} different recipes")
    return SweepPlan(f"{name}-sweep", base_facts(base, keys), keys, named, options.seeds, tuple(notes))


# The flags


def parse_axes(options: SweepOptions) -> tuple[list[Axis], list[str]]:
    """Return the axes that could be read, and what is wrong with the flags."""
    axes: list[Axis] = []
    problems = _wrong_together(options)
    for flag, items, parse in (("--grid", options.grids, _grid), ("--range", options.ranges, _range)):
        for item in items:
            try:
                axes.append(parse(item))
            except ConfigError as error:
                problems += [f"{flag} {item}: {problem}" for problem in error.problems]
    keys = [axis.key for axis in axes]
    for axis in axes:
        if keys.count(axis.key) > 1:
            problems.append(f"{axis.key}: given {keys.count(axis.key)} times: put all its values into one flag")
        if axis.key in OWN_KEYS:
            problems.append(f"{axis.flag} {axis.key}: {OWN_KEYS[axis.key]}")
        elif axis.key in options.taken:
            problems.append(f"{axis.flag} {axis.key}: {options.taken[axis.key]} sets it too: leave one of them out")
    if "training.seed" in options.taken:
        problems.append(f"{options.taken['training.seed']}: {OWN_KEYS['training.seed']}")
    return [axis for axis in axes if axis.key not in OWN_KEYS], problems


def _wrong_together(options: SweepOptions) -> list[str]:
    problems = []
    if options.seeds < 1:
        problems.append(f"--seeds {options.seeds}: at least 1")
    if options.draws is not None and options.draws < 1:
        problems.append(f"--random {options.draws}: at least 1")
    if options.ranges and options.draws is None:
        problems.append("--range: say how many recipes to draw: --random N")
    if options.draws and not (options.ranges or options.grids):
        problems.append("--random: from what? --range training.lr=1e-4..1e-2:log")
    if not (options.grids or options.ranges or options.draws is not None or options.seeds > 1):
        problems.append("nothing to sweep: --grid training.lr=1e-3,3e-3, or --random N with --range, or --seeds N")
    return problems


def _key_and_text(item: str, example: str) -> tuple[str, str]:
    key, sign, text = item.partition("=")
    if not sign or "." not in key:
        raise ConfigError(f"write {example}")
    return key.strip(), text.strip()


def _grid(item: str) -> Axis:
    key, text = _key_and_text(item, "--grid section.key=VALUE,VALUE")
    values = read_yaml(f"[{text}]", "values")
    if not values or not isinstance(values, list):
        raise ConfigError("no values: --grid section.key=VALUE,VALUE")
    twice = [value_text(v) for i, v in enumerate(values) if v in values[:i]]
    if twice:
        raise ConfigError(f"{twice[0]} twice")
    return Axis(key, tuple(values))


def _range(item: str) -> Axis:
    example = "--range section.key=LOW..HIGH, with :log and :int behind it"
    key, text = _key_and_text(item, example)
    match = _RANGE.match(text)
    ends = [read_yaml(match[end], end) for end in ("low", "high")] if match else []
    if match is None or any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise ConfigError(f"write {example}")
    kinds = {kind for kind in match["kinds"].split(":") if kind}
    low, high = ends
    if kinds - {"log", "int"}:
        raise ConfigError(f"{', '.join(sorted(kinds - {'log', 'int'}))}: unknown; known: log, int")
    if not low < high:
        raise ConfigError(f"{value_text(low)} is not below {value_text(high)}")
    if "log" in kinds and low <= 0:
        raise ConfigError("a logarithmic range begins above 0")
    whole = "int" in kinds or _whole_numbers_only(key)
    if whole and not (float(low).is_integer() and float(high).is_integer()):
        raise ConfigError("its ends must be whole numbers")
    return Axis(key, (), low, high, "log" in kinds, whole)


def _whole_numbers_only(key: str) -> bool:
    """Return whether the schema takes whole numbers and no others."""
    section, _, name = key.partition(".")
    found = SECTIONS[section].model_fields.get(name) if section in SECTIONS else None

    def kinds(annotation: object) -> set[Any]:
        inner = get_args(annotation)
        return set().union(*map(kinds, inner)) if inner else {annotation}

    return found is not None and int in kinds(found.annotation) and float not in kinds(found.annotation)


# Recipes


def _combine(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    lists = [axis.values for axis in axes if axis.values]
    keys = [axis.key for axis in axes if axis.values]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*lists)]


def _draw(axes: Sequence[Axis], options: SweepOptions) -> list[dict[str, Any]]:
    """Different recipes; a longer list begins with the shorter one of the same seed."""
    generator = random.Random(options.draw_seed)
    wanted = max(options.draws or 0, 1)
    found: dict[str, dict[str, Any]] = {}
    for _ in range(TRIES * wanted):
        drawn = {axis.key: axis.draw(generator.random()) for axis in sorted(axes, key=lambda axis: axis.key)}
        found.setdefault(repr(drawn), {axis.key: drawn[axis.key] for axis in axes})
        if len(found) == wanted:
            break
    return list(found.values())


def _check_recipes(
    recipes: Sequence[Mapping[str, Any]], axes: Sequence[Axis], build: Callable[[Mapping[str, Any]], Config]
) -> list[str]:
    flags = {axis.key: axis.flag for axis in axes}
    problems = []
    for overrides in recipes:
        try:
            build(overrides)
        except ConfigError as error:
            for problem in error.problems:
                key = problem.removeprefix("--set ").split(":")[0]
                problems.append(problem.replace("--set ", f"{flags[key]} ", 1) if key in flags else problem)
    return problems


def _base(recipes: Sequence[Mapping[str, Any]], build: Callable[[Mapping[str, Any]], Config]) -> Config:
    """The base alone; where it is no whole configuration without a swept key (model.type), with the first recipe."""
    try:
        return build({})
    except ConfigError:
        return build(recipes[0])


def base_facts(base: Config, keys: Sequence[str]) -> dict[str, Any]:
    """Return what all runs share and what makes them comparable: what changes weights or text, swept keys left out."""
    plain = base.model_dump(mode="json", exclude={"logging"})
    flat = {
        f"{section}.{key}": value
        for section, values in plain.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if key not in BOOKKEEPING.get(section, set()) - PATHS
    }
    left_out = {*keys, "training.seed", "model.name"}
    return {key: value for key, value in flat.items() if key not in left_out} | {"plugins": plain["plugins"]}


# Names


# The same folder again


def check_extension(folder: str, old: Mapping[str, Any], plan: SweepPlan) -> int:
    """See that what a folder holds is a part of the plan.

    Args:
        folder: Folder of the sweep, for the message.
        old: sweep.json.
        plan: The new plan.

    Returns:
        How many runs are new.

    Raises:
        ConfigError: It holds another sweep; says in what it differs.
    """
    different = _differences(old, plan)
    if different:
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        raise ConfigError(
            f"{folder}: holds another sweep ({'; '.join(different[:3])}{more}). "
            "Choose another --model-name, or replace it with --overwrite."
        )
    return len(plan.runs) - len(old["runs"])


def _differences(old: Mapping[str, Any], plan: SweepPlan) -> list[str]:
    base = old["base"]
    found = [
        f"{key}: {value_text(base.get(key))} -> {value_text(plan.base.get(key))}"
        for key in {**base, **plan.base}
        if base.get(key) != plan.base.get(key) and key not in {*old["keys"], *plan.keys}
    ]
    if set(old["keys"]) != set(plan.keys):
        found.append(f"swept keys: {', '.join(old['keys']) or 'none'} -> {', '.join(plan.keys) or 'none'}")
    if found:
        return found
    planned = {run.name for run in plan.runs}
    return [f"{run['name']} is not in this plan" for run in old["runs"] if run["name"] not in planned]
