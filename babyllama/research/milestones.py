"""Models saved on the way, at numbers of words seen: the folders `chck_1M`, `chck_2M` ... that BabyLM 2025 asks for.

A milestone of W words falls on the first optimizer step after which at least W words were seen. Words are those of the
chunks that the steps show, in the order they show them, repeated epochs and a curriculum's repeats included; a word
counts with its first token (word_counts.py). All that is a function of the text and the recipe, so the steps are known
before the training begins and a step costs nothing more.

A folder has the model, its tokenizer, the run's configuration and `milestone.json`. It is written under another name,
flushed and renamed: it is whole or absent. A resume passes the milestones behind its checkpoint again and replaces
them. They are written before the checkpoint of the same step, so none behind a checkpoint is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from babyllama.common import disk_space
from babyllama.common.console import say
from babyllama.common.distributed import is_main_process
from babyllama.common.errors import ConfigError
from babyllama.common.files import Building, read_json, write_json
from babyllama.common.units import parse_count, short_words
from babyllama.config.loading import save_config
from babyllama.config.run_layout import MILESTONE, PRESETS, TRAINING_CONFIG
from babyllama.config.schema import Config
from babyllama.config.yaml_reader import read_yaml
from babyllama.data.epoch_order import epoch_order
from babyllama.models.fsdp import is_sharded, whole_weights
from babyllama.models.older_readers import write_old_names
from babyllama.models.shared_layers import saved_parameters
from babyllama.research.word_counts import counter_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from babyllama.data.epoch_order import ChunkSet
    from babyllama.data.prepared import PreparedData
    from babyllama.training.trainer import BabyTrainer

PREFIX = "chck_"
SCHEDULES = PRESETS / "milestones"
NEAR_END = 0.03  # share of a milestone's words by which a run may end below it and still save it


@dataclass(frozen=True)
class Milestone:
    """A model to save.

    Attributes:
        name: Name of the milestone's folder.
        target: Words wanted.
        step: Optimizer steps done.
        words: Words seen by then: the target, or up to a step's words more; for a milestone that the run ends just
            below of, the words of the whole run.
        domains: The same words by domain; None where they were not told apart.
    """

    name: str
    target: int
    step: int
    words: int
    domains: dict[str, int] | None = None


def targets_of(wanted: list[int] | str) -> list[int]:
    """Word counts of `training.save_words`.

    Raises:
        ConfigError: There is no schedule of that name.
    """
    if not isinstance(wanted, str):
        return list(wanted)
    path = SCHEDULES / f"{wanted}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SCHEDULES.glob("*.yaml")))
        raise ConfigError(
            f"training.save_words: {wanted!r}: no such schedule in config/milestones (there: {known}); a list such as "
            "[1M, 2M] also does"
        )
    return sorted(parse_count(item) for item in read_yaml(path.read_text(encoding="utf-8"), str(path))["words"])


def schedule_milestones(targets: list[int], words_per_step: np.ndarray) -> list[Milestone]:
    """Place milestones on the steps of a run; one that the run ends less than 3% below falls on its last step.

    A corpus of 9.98M words never shows 100M in ten epochs, and a BabyLM submission without `chck_100M` gets no points
    for the age of acquisition. The true count stands in milestone.json.

    Args:
        targets: Word counts, ascending.
        words_per_step: (S,) words that each step shows.

    >>> found = schedule_milestones([100, 150, 175, 500], np.array([60, 40, 70]))
    >>> [(m.name, m.step, m.words) for m in found]
    [('chck_100', 2, 100), ('chck_150', 3, 170), ('chck_175', 3, 170)]
    >>> schedule_milestones([190], np.array([60, 40, 70]))
    []
    """
    seen = np.cumsum(words_per_step)
    found = []
    for target in targets:
        step = int(np.searchsorted(seen, target)) + 1
        if step > len(seen):
            if len(seen) and seen[-1] >= (1 - NEAR_END) * target:  # only the first one beyond the end
                found.append(Milestone(PREFIX + short_words(target), target, len(seen), int(seen[-1])))
            break
        found.append(Milestone(PREFIX + short_words(target), target, step, int(seen[step - 1])))
    return found


def words_per_step(
    train_set: ChunkSet, of_epoch: Callable[[int], np.ndarray], size: int, steps: int, seed: int
) -> np.ndarray:
    """(steps,) or (steps, domains) int64: words that each optimizer step shows, by the order that the training takes.

    Args:
        train_set: The training set as the Trainer gets it.
        of_epoch: Words of each chunk of an epoch: `of_chunks` or `by_domain` of a counter (word_counts.py).
        size: Chunks of a step, over all devices.
        steps: Optimizer steps of the whole run.
        seed: `training.seed`.
    """
    per_epoch = len(train_set) // size
    epochs = []
    for epoch in range(-(-steps // per_epoch)):
        words = of_epoch(epoch)[epoch_order(train_set, seed, epoch)]
        epochs.append(words.reshape(per_epoch, size, *words.shape[1:]).sum(axis=1))
    return np.concatenate(epochs)[:steps]


def with_domains(milestones: list[Milestone], by_step: np.ndarray, names: Sequence[str]) -> list[Milestone]:
    """Tell each milestone's words apart by domain; they add up to its words.

    Args:
        milestones: Result of `schedule_milestones`.
        by_step: (steps, domains) words of each step.
        names: Names of the domains.
    """
    seen = np.cumsum(by_step, axis=0)
    return [replace(m, domains=dict(zip(names, seen[m.step - 1].tolist(), strict=True))) for m in milestones]


class MilestoneSaver(TrainerCallback):
    """Saves the model at its milestones.

    Args:
        trainer: Whose model is saved.
        milestones: Result of `schedule_milestones`.
        tokenizer: Saved with it.
        config: Saved with it.
        run_dir: Where the folders go.
    """

    def __init__(
        self,
        trainer: BabyTrainer,
        milestones: list[Milestone],
        tokenizer: PreTrainedTokenizerBase,
        config: Config,
        run_dir: Path,
    ) -> None:
        self.trainer, self.tokenizer, self.config, self.run_dir = trainer, tokenizer, config, run_dir
        self.by_step: dict[int, list[Milestone]] = {}
        for milestone in milestones:
            self.by_step.setdefault(milestone.step, []).append(milestone)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Say which milestones a resume came too late for (save_words was set after them)."""
        passed = [m for step, found in self.by_step.items() if step <= state.global_step for m in found]
        missing = [m.name for m in passed if not (self.run_dir / m.name / MILESTONE).is_file()]
        if missing:
            say(f"milestones passed before save_words was set, not saved: {', '.join(missing)}")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the milestones of this step."""
        due = self.by_step.get(state.global_step, ())
        if due:
            self.trainer.check_finite()
        weights = whole_weights(self.trainer.model) if due and is_sharded(self.trainer.model) else None
        for milestone in due:
            if is_main_process():
                self._write(milestone, weights)
            self.trainer.clock.disturb()
            say(f"step {state.global_step:,}: {milestone.words:,} words seen, saved {milestone.name}")

    def _write(self, milestone: Milestone, weights: dict[str, Tensor] | None) -> None:
        with Building(self.run_dir / milestone.name) as folder:  # one of the steps that a kill undid is replaced
            # The default keeps the model's wrapper: without it, what is trained on would no longer be autocast.
            model = self.trainer.accelerator.unwrap_model(self.trainer.model)
            model.save_pretrained(folder, state_dict=weights)  # None: the model's own
            self.tokenizer.save_pretrained(folder)
            write_old_names(folder)
            save_config(self.config, folder / TRAINING_CONFIG)
            write_json(folder / MILESTONE, {"schema_version": 1, **asdict(milestone)})


def add_milestones(trainer: BabyTrainer, config: Config, data: PreparedData, run_dir: Path, total_steps: int) -> None:
    """Plan the milestones of `training.save_words` and let the trainer save them; says where they fall.

    Args:
        trainer: Result of `train.build_trainer`.
        config: Run configuration.
        data: PreparedData.
        run_dir: Where the folders go.
        total_steps: Optimizer steps of the whole run.

    Raises:
        ConfigError: There is no schedule of that name.
        DiskError: They do not fit on the disk.
    """
    if config.training.save_words is None:
        return
    targets = targets_of(config.training.save_words)
    train_set = trainer.train_dataset
    # Words of each step, in the order that the training will take.
    counter = counter_of(train_set, data.train, data.tokenizer)
    options = {"size": config.training.batch_size, "steps": total_steps, "seed": config.training.seed}
    by_domain = words_per_step(train_set, counter.by_domain, **options)
    words = by_domain.sum(axis=1)
    milestones = with_domains(schedule_milestones(targets, words), by_domain, data.train.domains)
    # Say where they fall, and which lie behind the run's end.
    for milestone in milestones:
        short = milestone.target - milestone.words
        below = f", {short:,} below its name: the run ends there" if short > 0 else ""
        say(f"milestone {milestone.name}: after step {milestone.step:,} ({milestone.words:,} words{below})")
    if len(milestones) < len(targets):
        beyond = ", ".join(PREFIX + short_words(target) for target in targets[len(milestones) :])
        say(f"milestones beyond this run's {int(words.sum()):,} words: {beyond}")
        say(
            "BabyLM's age-of-acquisition task gives no points where one is missing: see main.py babylm submit "
            "--fill-missing"
        )
    # Room for all of them.
    weights = saved_parameters(trainer.model) * 4
    disk_space.check_space(run_dir, len(milestones) * weights, "milestones")
    trainer.add_callback(MilestoneSaver(trainer, milestones, data.tokenizer, config, run_dir))


def saved_milestones(run_dir: Path) -> list[tuple[Path, Milestone]]:
    """Return the milestone folders of a run, in the order of words."""
    found = []
    for path in run_dir.glob(f"{PREFIX}*/{MILESTONE}"):
        facts = read_json(path)
        known = {name: facts[name] for name in ("name", "target", "step", "words")}
        found.append((path.parent, Milestone(**known, domains=facts.get("domains"))))
    return sorted(found, key=lambda pair: pair[1].target)
