"""`main.py babylm check`: what of a recipe would cost points, said before a training instead of after it.

Words of the text and words shown against the track's budget, epochs, checkpoints that the run will not reach (one
missing voids the age-of-acquisition task), text that tokenizer, teachers or a starting checkpoint have seen, whether
the tokenizer puts a blank in front (the reading task asks for words without one), positions and trained length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from babyllama.babylm import ledger as ledgers
from babyllama.babylm.rules import Rules, Track
from babyllama.common.units import parse_count, short_words
from babyllama.config.schema import Config
from babyllama.data.packing import packed_datasets
from babyllama.research.milestones import NEAR_END, PREFIX, targets_of
from babyllama.training.word_ledger import word_ledger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from babyllama.data.prepared import PreparedData

FIELD_POSITIONS = 512  # what GLUE truncates to, and more than the longest zero-shot text has
ENTITY_TOKENS = 400  # the longest text of entity tracking has 217 words


@dataclass(frozen=True)
class Advice:
    """One line of the check.

    Attributes:
        text: What was found and what to do.
        costs: Whether it costs points or breaks a rule, rather than being good to know.
    """

    text: str
    costs: bool


def epochs_of(config: Config, data: PreparedData) -> float:
    """Passes over the training text that a run will make."""
    if config.training.max_steps is None:
        return float(config.training.num_epochs)
    chunks = -(-len(data.train.tokens) // config.data.seq_length)
    return config.training.max_steps * config.training.batch_size / chunks


def check(config: Config, data: PreparedData, rules: Rules, track: Track) -> list[Advice]:
    """Compare a recipe with the rules of a track.

    Args:
        config: Run configuration.
        data: Prepared text of the run.
        rules: The year's rules.
        track: The track.
    """
    epochs, words, most = epochs_of(config, data), data.train_words, 1.0
    if config.data.mix or config.data.mix_temperature:  # a mixture reads some domains oftener than others
        mixture = packed_datasets(config, data)[0]
        words, most = mixture.epoch_words, float(mixture.passes.max())
    shown = round(epochs * words)
    ledger = word_ledger(config, data, epochs, shown, epochs * most)
    found = [Advice(line, True) for line in ledgers.problems(ledger, track)]
    found += _milestones(config, shown, track)
    found += _lengths(config)
    found.append(_blank(config, data))
    if not any(advice.costs for advice in found):
        words = ledger["raw_words"] or ledger["words"]
        found.append(Advice(f"{words:,} words, {epochs:g} epochs, {shown:,} words shown: within {track.name}", False))
    return found


def _milestones(config: Config, shown: int, track: Track) -> list[Advice]:
    wanted = config.training.save_words
    schedule = f"babylm-{track.name}"
    if wanted is None:
        return [
            Advice(
                f"training.save_words is not set: no checkpoint will be saved, so there is no fast evaluation and AoA "
                f"is 0; set it to {schedule}",
                True,
            )
        ]
    # Compare the targets that are saved with the track's, and with what the run shows.
    saved = {parse_count(target) for target in targets_of(wanted)}
    lacking = [PREFIX + short_words(target) for target in track.targets if target not in saved]
    beyond = [target for target in track.targets if target in saved and target > shown]
    # What is lacking, what the final model stands for, what is never reached.
    found = []
    if lacking:
        found.append(Advice(f"training.save_words lacks {', '.join(lacking)}: AoA will be 0; use {schedule}", True))
    if beyond and shown >= (1 - NEAR_END) * beyond[0]:
        name = PREFIX + short_words(beyond.pop(0))
        found.append(Advice(f"{name} is saved from the final model, at about {shown:,} words", False))
    if beyond:
        names = ", ".join(PREFIX + short_words(target) for target in beyond)
        found.append(
            Advice(
                f"the run shows about {shown:,} words and never reaches {names}: AoA will be 0, unless the last model "
                "is repeated (babylm submit --fill-missing) or the run is made longer",
                True,
            )
        )
    return found


def _lengths(config: Config) -> list[Advice]:
    positions = config.model.max_position_embeddings or max(FIELD_POSITIONS, config.data.seq_length)
    found = []
    if positions < FIELD_POSITIONS:
        found.append(
            Advice(
                f"model.max_position_embeddings: {positions}: entity tracking and fine-tuning need {FIELD_POSITIONS}",
                True,
            )
        )
    if config.data.seq_length < ENTITY_TOKENS:
        found.append(
            Advice(
                f"data.seq_length: {config.data.seq_length}: entity tracking (up to 217 words) and fine-tuning run "
                f"beyond the trained length; {FIELD_POSITIONS} holds every task",
                False,
            )
        )
    return found


def _blank(config: Config, data: PreparedData) -> Advice:
    if puts_blank_in_front(data.tokenizer):
        return Advice(
            "the tokenizer puts a blank in front of a text: the reading task asks for the right tokens", False
        )
    return Advice(
        "the tokenizer puts no blank in front of a text: the reading task then asks for word pieces that never begin a "
        "word, and its figure says little about the model; data.prefix_space: true puts one there",
        True,
    )


def puts_blank_in_front(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a text's first word begins like a word behind a blank (`Ġdog` or `▁dog` for "dog")."""
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("dog", add_special_tokens=False)["input_ids"])
    return bool(tokens) and tokens[0][:1] in ("\u0120", "\u2581", " ")
