"""The rules of a year's challenge: tasks, their sizes, budgets and checkpoints, read from `rules/<year>.yaml`.

A team with a data set of its own (or a test in miniature) writes a rules file that begins with `base: 2026` and names
only what differs: tracks and tasks are merged key by key, every other value is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from babyllama.common.errors import ConfigError
from babyllama.common.units import parse_count, short_words
from babyllama.config.yaml_reader import read_yaml
from babyllama.research.milestones import PREFIX, targets_of

FOLDER = Path(__file__).resolve().parent / "rules"
KINDS = (
    *("sentence_pairs", "ewok_targets", "ewok_contexts", "entity_tracking", "comps", "global_piqa", "wug"),
    *("reading", "aoa", "glue"),
)
GLUE = ("boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc")


@dataclass(frozen=True)
class Task:
    """One task of the challenge.

    Attributes:
        name: Name on the command line.
        kind: How it is scored, one of KINDS.
        board: Column of the leaderboard; several tasks of one column are averaged.
        full: Folder of its data under `full_eval`.
        output: Folder of its predictions under `zero_shot/causal` (or `finetune`).
        collated: Key in the uploaded file.
        source: Where its data is to be had.
        fast: Folder under `fast_eval`, empty where it has no fast set.
        cells: Predictions of each UID, UIDs in lower case.
        fast_each: Predictions of each UID of the fast set, 0 where `fast_cells` tells them apart.
        fast_cells: Predictions of each UID of the fast set.
        one_each: Number of UIDs where each is an item with one prediction, else 0.
        options: Candidates of an item, 0 where that is not checked.
        drop_nothing: Whether items with "nothing" among the options are left out.
    """

    name: str
    kind: str
    board: str
    full: str
    output: str
    collated: str
    source: str
    fast: str = ""
    cells: dict[str, int] | None = None
    fast_each: int = 0
    fast_cells: dict[str, int] | None = None
    one_each: int = 0
    options: int = 0
    drop_nothing: bool = False

    def sizes(self, fast: bool) -> dict[str, int]:
        """Predictions wanted of each UID; empty where each item is a UID of its own."""
        if fast and self.fast_cells:
            return self.fast_cells
        cells = self.cells or {}
        return dict.fromkeys(cells, self.fast_each) if fast and self.fast_each else cells

    def folder(self, fast: bool) -> str:
        """Folder of the data under `fast_eval` or `full_eval`."""
        return self.fast if fast else self.full

    def predictions(self, fast: bool) -> Path:
        """Path of predictions.json under a checkpoint's folder of the submission tree."""
        if self.kind == "glue":
            return Path("finetune") / self.output / "predictions.json"
        if self.kind == "aoa":
            return Path("zero_shot/causal") / self.output / "surprisal.json"
        inside = Path() if self.kind == "reading" else Path(self.folder(fast))
        return Path("zero_shot/causal") / self.output / inside / "predictions.json"


@dataclass(frozen=True)
class Track:
    """One track: its word budget and the checkpoints that it asks for.

    Attributes:
        name: Name of the track.
        words: Words of training text allowed.
        exposure: Words that may be shown to the model, repetitions counted.
        epochs: Passes over the text allowed.
        targets: Words at which a checkpoint is asked for, ascending.
    """

    name: str
    words: int
    exposure: int
    epochs: int
    targets: tuple[int, ...]

    @property
    def checkpoints(self) -> list[str]:
        """Names of the checkpoints in the order of the schedule."""
        return [PREFIX + short_words(target) for target in self.targets]


@dataclass(frozen=True)
class Rules:
    """A year's rules.

    Attributes:
        year: 2025 or 2026; a file of one's own keeps the year of its base.
        ties: "first" or "random": which of several best candidates is chosen.
        aoa_fit: "points" (2025) or "means" (2026).
        collation: "strict" (the official script stops) or "nulls" (it writes null).
        tasks: The tasks by name.
        tracks: The tracks by name.
    """

    year: int
    ties: str
    aoa_fit: str
    collation: str
    tasks: dict[str, Task]
    tracks: dict[str, Track]

    def track(self, name: str) -> Track:
        """Return a track by its name.

        Raises:
            ConfigError: There is none of that name.
        """
        if name not in self.tracks:
            raise ConfigError(f"--track {name}: unknown; the rules of {self.year} have {', '.join(self.tracks)}")
        return self.tracks[name]


def load_rules(name: str | int | Path) -> Rules:
    """Read the rules of a year or of a YAML file.

    Args:
        name: 2025, 2026 or the path of a rules file.

    Raises:
        ConfigError: There is no such file, or a value in it cannot be used.
    """
    raw = _read(str(name))
    try:
        tasks = {key: _task(key, values) for key, values in raw["tasks"].items()}
        tracks = {key: _track(key, values) for key, values in raw["tracks"].items()}
        rules = Rules(raw["year"], raw["ties"], raw["aoa_fit"], raw["collation"], tasks, tracks)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"--rules {name}: {type(error).__name__}: {error}: see babyllama/babylm/rules") from None
    if rules.ties not in ("first", "random") or rules.aoa_fit not in ("points", "means"):
        raise ConfigError(f"--rules {name}: ties is first or random, aoa_fit points or means")
    return rules


def _read(name: str) -> dict[str, Any]:
    """Return the raw content of a rules file, its base's beneath it."""
    path = FOLDER / f"{name}.yaml" if (FOLDER / f"{name}.yaml").is_file() else Path(name).expanduser()
    if not path.is_file():
        years = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise ConfigError(f"--rules {name}: known are {years} and rules files of your own (*.yaml)")
    raw = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: not a rules file")
    if "base" not in raw:
        return raw
    merged = _read(str(raw.pop("base")))
    for section in ("tasks", "tracks"):
        for key, values in (raw.pop(section, None) or {}).items():
            if values is None:  # `rte: null` leaves a task out
                merged[section].pop(key, None)
            else:
                merged[section][key] = {**merged[section].get(key, {}), **values}
    return {**merged, **raw}


def _task(name: str, values: dict[str, Any]) -> Task:
    known = {field.name for field in fields(Task)} - {"name"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"tasks.{name}: unknown keys {', '.join(unknown)}")
    if values["kind"] not in KINDS:
        raise ValueError(f"tasks.{name}.kind: {values['kind']!r} is none of {', '.join(KINDS)}")
    return Task(name=name, **values)


def _track(name: str, values: dict[str, Any]) -> Track:
    wanted = values["milestones"]
    targets = targets_of(wanted) if isinstance(wanted, str) else [parse_count(item) for item in wanted]
    words, exposure = parse_count(values["words"]), parse_count(values["exposure"])
    return Track(name, words, exposure, int(values["epochs"]), tuple(sorted(targets)))
