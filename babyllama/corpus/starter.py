"""Choose a first configuration for a text, and say why: how large a model, how many passes, what is held out.

The choices are rules of thumb over two figures, the words of the text and whether this machine has a GPU. They are
written into the file as comments, so that they can be disagreed with:

* **Size.** On a processor llama-10M: a step of 32 x 128 tokens takes 0.3 to 1.2 s there, and a larger model takes
  hours for the same text. On a GPU the presets that the field trains on so much text: llama-16M below 5 million words,
  llama-58M (the size of arXiv 2308.02019's student) below 50, llama-97M-strict above.
* **Passes.** Enough for about 300 steps, at least 1 and at most 10, which is what the BabyLM challenge allows. (Of 500
  steps on 215,000 words of TinyStories, 7.7 passes with llama-10M, the held-out loss was lowest at step 325, after the
  fifth, and rose from there.) A small text is learned by heart after some passes: `keep: best` is set where there is
  more than one.
* **Vocabulary.** `auto`: doubled as long as that makes this text 5% shorter (data/tokenizer.py); the run says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from babyllama.config.loading import load_config
from babyllama.config.run_layout import preset_paths

SMALL_BATCH = 32  # sequences of a step where a text is too small for 300 steps of the preset's
WANTED_STEPS, MOST_EPOCHS = 300, 10
BYTES_A_TOKEN = 3.7  # byte-level BPE of 16,000 tokens on English (babylm_like: 3.66)
CPU_WORDS = 20_000_000  # beyond it an epoch takes a processor a day
QUICK_START = "  quick_start"  # of the embedded corpus only: nothing to read past in a file for another text


@dataclass(frozen=True)
class TextFacts:
    """What is known of a text before anything is chosen.

    Attributes:
        path: Folder, file or glob as the user typed it.
        files: Number of files that training reads.
        bytes: UTF-8 bytes of the text.
        words: Words of the text (data/words.py).
        documents: Documents that the rules of the domains make of them.
        held_out: Files that the text itself holds out (`*.dev`); 0 where a share of the documents will be.
    """

    path: str
    files: int
    bytes: int
    words: int
    documents: int
    held_out: int


@dataclass(frozen=True)
class Choice:
    """A key, its value and the reason."""

    key: str
    value: str | int
    reason: str


@dataclass(frozen=True)
class Starter:
    """A preset and what is changed in it.

    Attributes:
        preset: Name of the preset.
        why: Reason for the preset.
        choices: Keys that differ from it, or that a reader will want to see.
    """

    preset: str
    why: str
    choices: tuple[Choice, ...]


def choose(facts: TextFacts, *, gpu: bool, seq_length: int = 128) -> Starter:
    """Choose a preset, passes and a vocabulary.

    Args:
        facts: The text.
        gpu: Whether a GPU will train.
        seq_length: Tokens of a sequence in the preset.
    """
    # How many passes give the wanted steps.
    preset, why = _preset(facts.words, gpu)
    tokens = facts.bytes / BYTES_A_TOKEN
    own = load_config(preset_paths()[preset], flags={"data.train_path": facts.path}).training.batch_size
    batch = own if MOST_EPOCHS * tokens >= WANTED_STEPS * own * seq_length else min(own, SMALL_BATCH)
    steps = max(1, round(tokens / (batch * seq_length)))
    epochs = min(MOST_EPOCHS, max(1, round(WANTED_STEPS / steps)))
    held_out = (
        f"{facts.held_out} *.dev files of the folder are held out"
        if facts.held_out
        else "no *.dev file there: one document in twenty is held out and never trained on"
    )
    # Each choice with its reason, which becomes a comment of the file.
    choices = [
        Choice("data.train_path", facts.path, f"{facts.words:,} words, {facts.documents:,} documents; {held_out}"),
        Choice("data.vocab_size", "auto", "as many tokens as make this text shorter; the run says how many and why"),
        Choice(
            "training.num_epochs",
            epochs,
            f"a pass is about {steps:,} steps; wanted are {WANTED_STEPS} and at most {MOST_EPOCHS} passes",
        ),
    ]
    if batch != own:
        reason = f"steps of {batch * seq_length:,} tokens: the text is too small for {WANTED_STEPS} larger ones"
        choices.append(Choice("training.batch_size", batch, reason))
    if epochs > 1:
        choices.append(Choice("training.keep", "best", "a small text is learned by heart after some passes"))
    return Starter(preset, why, tuple(choices))


def _preset(words: int, gpu: bool) -> tuple[str, str]:
    if not gpu:
        beyond = " (more text than a processor reads in a day: think of a GPU)" if words > CPU_WORDS else ""
        return "llama-10M", f"no GPU here: larger models take hours on a processor{beyond}"
    if words < 5_000_000:
        return "llama-16M", "a GPU and less than 5 million words: a larger model would learn them by heart"
    if words < 50_000_000:
        return "llama-58M", "a GPU and 5 to 50 million words"
    return "llama-97M-strict", "a GPU and more than 50 million words"


def commented_yaml(starter: Starter, preset_text: str, facts: TextFacts, version: str) -> str:
    """A preset's YAML with the choices in it, each with its reason as a comment.

    Args:
        starter: What was chosen.
        preset_text: The preset's file.
        facts: The text, for the head.
        version: BabyLlama's version.
    """
    lines = [line for line in preset_text.splitlines() if not line.startswith(("#", QUICK_START))]
    for choice in starter.choices:
        section, key = choice.key.split(".")
        lines = _with_key(lines, section, key, choice)
    lines = _with_key(lines, "model", "name", Choice("model.name", _name(facts.path), "the run's folder under models/"))
    head = [
        f"# Made by `babyllama init {facts.path}` (BabyLlama {version}).",
        "# Every key can be changed; `babyllama schema` prints them all with their meaning.",
        f"# From the preset {starter.preset}: {starter.why}.",
        "",
    ]
    return "\n".join([*head, *lines]).rstrip("\n") + "\n"


def _name(path: str) -> str:
    from babyllama.config.run_layout import corpus_stem

    return corpus_stem(path)


def _with_key(lines: list[str], section: str, key: str, choice: Choice) -> list[str]:
    """Lines with a key set: in its place where the section has it, else first in the section."""
    written = [f"  # {choice.reason}", f"  {key}: {_scalar(choice.value)}"]
    place = next((i for i, line in enumerate(lines) if line == f"{section}:"), None)
    if place is None:
        return [*lines, "", f"{section}:", *written]
    end = next((i for i in range(place + 1, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))
    at = next((i for i in range(place + 1, end) if lines[i].startswith(f"  {key}:")), None)
    if at is None:
        return [*lines[: place + 1], *written, *lines[place + 1 :]]
    return [*lines[:at], *written, *lines[at + 1 :]]


def _scalar(value: str | int) -> str:
    """A YAML scalar: quoted where a path has characters that YAML reads."""
    from babyllama.config.yaml_reader import write_yaml

    return write_yaml(value, width=10_000).removesuffix("\n...\n").rstrip("\n")


def has_gpu() -> bool:
    """Whether this machine has a GPU that a training would take."""
    import torch

    return torch.cuda.is_available()


def read_facts(path: str) -> TextFacts:
    """Count a text's files, words and documents.

    Args:
        path: A folder, a file or a glob.

    Raises:
        DataError: It cannot be read.
    """
    from babyllama.data import sources
    from babyllama.data.words import count_words

    documents = words = size = 0
    files = sources.find_files(path, "train")
    for file in files:
        for document in sources.read_documents(file)[1]:
            documents, words = documents + 1, words + count_words(document.text)
            size += len(document.text.encode())
    place = Path(path).expanduser()
    held_out = len(sources.find_files(path, "eval")) if place.is_dir() and sources.has_dev_files(path) else 0
    return TextFacts(path, len(files), size, words, documents, held_out)
