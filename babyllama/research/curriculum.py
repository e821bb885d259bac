"""Curriculum learning: easy text first, harder text as the pacing lets it in (Platanios et al. 2019, arXiv 1903.09848).

**Pacing.** At optimizer step t = 1 ... S the easiest share c(t) of the chunks is in. With c0 = `start` and T =
`full_at` x S, c(t) = 1 from T on, and before it

    linear   c0 + (1 - c0) t/T
    root     sqrt(c0^2 + (1 - c0^2) t/T)      theirs: harder chunks come in quickly at first, then ever more slowly
    step     c0 + (1 - c0) floor(k t/T)/k     k = `stages` equal jumps

**Which chunks a step shows.** An epoch has as many places as chunks. Each step draws its batch from the chunks that
are in, first those that this epoch has shown least often, by lot among equals. So no chunk comes before the pacing
lets it in, and as far as that allows, every chunk is shown equally often:

* an epoch that begins with everything in shows every chunk exactly once, in a shuffled order;
* so does a run of one epoch with `linear` or `root`: c(t) >= t/S, there is always an unseen chunk that is in;
* an epoch that cannot let everything in repeats the easy ones, evenly. Compare with a plain run by words, not epochs.

Six chunks, the easiest first, two a step; 2, 4 and 6 of them are in:

    >>> [sorted(step) for step in paced_order([10, 11, 12, 13, 14, 15], [2, 4, 6], 2, random.Random(0))]
    [[10, 11], [12, 13], [14, 15]]

Only 2, 2 and 4: the first two are shown again, then the new ones come first, having been shown least.

    >>> [sorted(step) for step in paced_order([10, 11, 12, 13, 14, 15], [2, 2, 4], 2, random.Random(0))]
    [[10, 11], [10, 11], [12, 13]]

The order is a function of seed, epoch, recipe and text, so a resume finds it again, and several processes share it
(epoch_order.py). What a chunk's difficulty is stands in difficulty.py. Chunks of equal difficulty are ordered by lot.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch.utils.data import Dataset, Subset

from babyllama.common.console import say
from babyllama.common.distributed import is_main_process
from babyllama.common.files import write_json
from babyllama.config.run_layout import CURRICULUM
from babyllama.config.schema import Config

if TYPE_CHECKING:
    from babyllama.data.epoch_order import ChunkSet
    from babyllama.data.prepared import PreparedData

CURVE_POINTS = 200


@dataclass(frozen=True)
class Pacing:
    """The competence schedule c(t): the share of chunks, easiest first, that may be drawn at step t.

    Attributes:
        total_steps: Optimizer steps of the run, S.
        schedule: linear, root or step.
        start: Share at the beginning, c0.
        full_at: Share of the run after which everything is in.
        stages: Jumps of `step`.
    """

    total_steps: int
    schedule: str = "root"
    start: float = 0.1
    full_at: float = 0.5
    stages: int = 4

    def share(self, step: int) -> float:
        """c(step), steps counted from 1.

        >>> root = Pacing(100, "root", start=0.1, full_at=0.5)
        >>> [round(root.share(step), 4) for step in (1, 25, 50, 99)]  # sqrt(0.01 + 0.99 / 50) and so on
        [0.1726, 0.7106, 1.0, 1.0]
        >>> [Pacing(8, "step", start=0.5, full_at=1, stages=2).share(step) for step in (1, 3, 4, 7, 8)]
        [0.5, 0.5, 0.75, 0.75, 1.0]
        """
        done = step / (self.full_at * self.total_steps)
        if done >= 1:
            return 1.0
        if self.schedule == "root":
            return math.sqrt(self.start**2 + (1 - self.start**2) * done)
        done = math.floor(self.stages * done) / self.stages if self.schedule == "step" else done
        return self.start + (1 - self.start) * done


def paced_order(
    ranked: Sequence[int], available: Sequence[int], batch_size: int, lot: random.Random
) -> list[list[int]]:
    """Return the chunks of each step.

    Args:
        ranked: Chunks, the easiest first.
        available: How many of them are in at each step; never falling, never below batch_size.
        batch_size: Chunks a step; the last step takes what is left of `len(ranked)` places.
        lot: Decides among equals.
    """
    shown: list[list[int]] = [[]]  # shown[k]: chunks that are in and have been shown k times
    entered, left, steps = 0, len(ranked), []
    for count in available:
        # Let in what the pacing lets in.
        shown[0].extend(ranked[entered:count])
        entered = max(entered, count)
        # Draw among those that were shown least often, by lot.
        batch: list[tuple[int, int]] = []
        fewest = 0
        for _ in range(min(batch_size, left)):
            while not shown[fewest]:
                fewest += 1
            pool = shown[fewest]
            place = int(lot.random() * len(pool))
            pool[place], pool[-1] = pool[-1], pool[place]
            batch.append((pool.pop(), fewest))
        left -= len(batch)
        shown.append([])
        for chunk, times in batch:  # only now, so that no step shows a chunk twice
            shown[times + 1].append(chunk)
        while len(shown) > 1 and not shown[-1]:
            shown.pop()
        steps.append([chunk for chunk, _ in batch])
    return steps


class Examples(Protocol):
    """Anything with `len` and `[number]`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> object: ...


class DatasetDifficulty(Protocol):
    """Difficulties of all examples in one go."""

    def of_dataset(self, dataset: Examples, epoch: int) -> np.ndarray:
        """(len(dataset),) the difficulty of each example in an epoch."""


class CurriculumDataset(Dataset):  # type: ignore[type-arg]
    """A data set whose epochs go from easy to hard.

        curriculum = CurriculumDataset(examples, difficulty_fn=lambda example: len(example["input_ids"]), epochs=3)
        for epoch in range(3):
            for example in curriculum.get_batch_by_difficulty(epoch): ...

    Args:
        dataset: Anything with `len` and `[number]`; one that has `set_epoch` is told the epoch.
        difficulty_fn: `difficulty_fn(example) -> float`, or an object with `of_dataset(dataset, epoch) -> (n,)`.
        pacing: Unset: root over `epochs`, everything in after half of them.
        epochs: Length of the run where no pacing is given.
        batch_size: Examples per optimizer step.
        seed: Seed of the drawn chunks.
    """

    def __init__(
        self,
        dataset: Examples,
        difficulty_fn: Callable[[Any], float] | DatasetDifficulty,
        pacing: Pacing | None = None,
        *,
        epochs: float = 1.0,
        batch_size: int = 1,
        seed: int = 0,
    ) -> None:
        self.dataset, self.difficulty_fn = dataset, difficulty_fn
        self.batch_size, self.seed = batch_size, seed
        self.steps_per_epoch = -(-len(dataset) // batch_size)
        self.pacing = pacing or Pacing(max(1, math.ceil(epochs * self.steps_per_epoch)))
        self.epoch = 0
        self._difficulties: tuple[Any, np.ndarray] | None = None
        self._orders: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the difficulty behind for a spawned loader process: it only indexes, and not every function pickles."""
        return self.__dict__ if get_spawning_popen() is None else {**self.__dict__, "difficulty_fn": None}

    def __len__(self) -> int:
        """Examples of an epoch, repeats included: as many as the data set has."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> object:
        """Return the data set's own example."""
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> object:
        """Return a batch, in one go where the data set can."""
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(indices)
        return [self.dataset[index] for index in indices]

    def set_epoch(self, epoch: int) -> None:
        """Tell the data set, too."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def difficulties(self, epoch: int) -> np.ndarray:
        """(n,) difficulty of each example; those of packed chunks change with the cut points."""
        key = self.dataset.layout_key(epoch) if hasattr(self.dataset, "layout_key") else None
        if self._difficulties is None or self._difficulties[0] != key:
            if hasattr(self.difficulty_fn, "of_dataset"):
                found = self.difficulty_fn.of_dataset(self.dataset, epoch)
            else:
                found = np.array([float(self.difficulty_fn(self.dataset[i])) for i in range(len(self.dataset))])
            self._difficulties = key, found
        return self._difficulties[1]

    def available(self, epoch: int) -> list[int]:
        """Examples that are in at each step of an epoch: the pacing's share, at least a batch."""
        first, size = epoch * self.steps_per_epoch + 1, len(self.dataset)
        shares = [self.pacing.share(step) for step in range(first, first + self.steps_per_epoch)]
        return [min(size, max(math.ceil(share * size), self.batch_size)) for share in shares]

    def order(self, epoch: int) -> np.ndarray:
        """(n,) numbers of the examples that an epoch shows, step after step."""
        if epoch not in self._orders:
            lots = np.random.Generator(np.random.PCG64([self.seed, epoch])).random(len(self.dataset))
            ranked = np.lexsort((lots, self.difficulties(epoch))).tolist()
            steps = paced_order(ranked, self.available(epoch), self.batch_size, random.Random(f"{self.seed},{epoch}"))
            self._orders[epoch] = np.array([chunk for step in steps for chunk in step], dtype=np.int64)
        return self._orders[epoch]

    def get_batch_by_difficulty(self, epoch: int) -> Subset[Any]:
        """Return what an epoch shows, in order; sets the epoch of the data set."""
        self.set_epoch(epoch)
        return Subset(self.dataset, self.order(epoch).tolist())

    def curve(self) -> list[dict[str, float]]:
        """Return share that is in and mean difficulty of the shown examples, over the run: at most 200 points."""
        shares, means = [], []
        for epoch in range(-(-self.pacing.total_steps // self.steps_per_epoch)):
            shares += [count / len(self.dataset) for count in self.available(epoch)]
            shown = self.difficulties(epoch)[self.order(epoch)]
            for start in range(0, len(shown), self.batch_size):
                batch = shown[start : start + self.batch_size]
                means.append(float(np.mean(batch[np.isfinite(batch)])) if np.isfinite(batch).any() else math.nan)
        total = self.pacing.total_steps
        width = -(-total // CURVE_POINTS)
        return [
            {"step": end, "share": shares[end - 1], "difficulty": float(np.nanmean(means[start:end]))}
            for start in range(0, total, width)
            for end in [min(start + width, total)]
        ]


def apply_curriculum(
    config: Config, data: PreparedData, train_set: ChunkSet, total_steps: int, run_dir: Path
) -> ChunkSet:
    """Return the training set in the order that the config asks for, its pacing written to the run folder.

    Args:
        config: Without a `curriculum` section the set comes back as it is.
        data: PreparedData.
        train_set: The packed chunks.
        total_steps: Optimizer steps of the run.
        run_dir: Run folder, which gets curriculum.json.
    """
    options = config.curriculum
    if options is None:
        return train_set
    from babyllama.research.difficulty import build_difficulty

    pacing = Pacing(total_steps, options.schedule, options.start, options.full_at, options.stages)
    size, seed = config.training.batch_size, config.training.seed
    arranged = CurriculumDataset(train_set, build_difficulty(config, data), pacing, batch_size=size, seed=seed)
    curve, full = arranged.curve(), math.ceil(options.full_at * total_steps)
    say(
        f"curriculum: {options.difficulty}, {options.schedule}, from {options.start:.0%} of the chunks to all of them "
        f"at step {full:,} of {total_steps:,}"
    )
    if is_main_process():
        facts = {"difficulty": options.difficulty, "schedule": options.schedule, "start": options.start}
        write_json(run_dir / CURRICULUM, {"schema_version": 1, **facts, "full_at": options.full_at, "curve": curve})
    return arranged


def curriculum_fingerprint(config: Config) -> dict[str, Any]:
    """What of a curriculum changes the weights: every key, the run's length (it stretches the pacing), the model."""
    if config.curriculum is None:
        return {}
    found: dict[str, Any] = {f"curriculum.{key}": value for key, value in config.curriculum.model_dump().items()}
    found["length of the curriculum"] = f"{config.training.num_epochs:g} epochs, max_steps {config.training.max_steps}"
    if config.curriculum.model:
        from babyllama.evaluation.score_cache import checkpoint_content

        found["curriculum.model"] = checkpoint_content(Path(config.curriculum.model).expanduser())
    return found
