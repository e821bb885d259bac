"""A trained model that writes: loaded once, then a prompt and settings in, pieces of text out as they come."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from babyllama.common.errors import ConfigError
from babyllama.models.decoding.sampling import Sampling
from babyllama.play.text_stream import TextStream

MOST_TOKENS = 20_000
MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class WritingSettings:
    """How a text is written.

    Attributes:
        sampling: How a token is chosen.
        max_new_tokens: Number of tokens to write at most.
        stop: Texts that end the writing; they are not part of it.
        seed: Seed of the choice: same seed, same text.
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 100
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 1 <= self.max_new_tokens <= MOST_TOKENS:
            raise ConfigError(f"max-new-tokens {self.max_new_tokens}: from 1 to {MOST_TOKENS:,}")
        if not 0 <= self.seed <= MOST_SEED:
            raise ConfigError(f"seed {self.seed}: 0 or more, below 2^63")


def _is_number(value: object, whole: bool) -> bool:
    """Return whether a value is a number that can be used; JSON's Infinity and integers beyond a float are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, int):
        return abs(value) < 2**1000
    return math.isfinite(value) and (not whole or value.is_integer())


def settings_from(values: Mapping[str, Any]) -> WritingSettings:
    """Make settings of plain values, as a page sends them or flags give them.

    Args:
        values: Names of `Sampling` and `WritingSettings` -> numbers, `stop` a list of texts; others are not looked at.

    Raises:
        ConfigError: A value is of another type or out of its range.
    """
    defaults = {f.name: f.default for f in fields(Sampling)} | {"max_new_tokens": 100, "seed": 0}
    numbers: dict[str, Any] = {}
    for name, default in defaults.items():
        value = values.get(name, default)
        whole = isinstance(default, int)
        if not _is_number(value, whole):
            shown = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "of so many digits"
            raise ConfigError(f"{name.replace('_', '-')} {shown}: a {'whole ' if whole else ''}number is needed")
        numbers[name] = int(value) if whole else float(value)
    stop = values.get("stop", ())
    if not isinstance(stop, (list, tuple)) or not all(isinstance(text, str) for text in stop):
        raise ConfigError("stop: a list of texts is needed")
    length, seed = numbers.pop("max_new_tokens"), numbers.pop("seed")
    return WritingSettings(Sampling(**numbers), length, tuple(text for text in stop if text), seed)


@dataclass(frozen=True)
class Piece:
    """A piece of text as it becomes certain.

    Attributes:
        text: New characters, possibly none.
        tokens: Number of tokens written so far.
        ended: Why the text ends here ("end of text", "stop text" or "length"); empty while it goes on.
    """

    text: str
    tokens: int
    ended: str = ""


class Writer:
    """A checkpoint that is ready to write."""

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        """Load a checkpoint.

        Args:
            folder: Local model folder, of a run of ours or not.
            device: Where it computes: auto, cpu, cuda, cuda:N or mps.

        Raises:
            CheckpointError: The folder cannot be loaded.
        """
        from babyllama.common.glibc_memory import keep_freed_memory
        from babyllama.evaluation.options import DEFAULT_WINDOW
        from babyllama.models.decoding.decoder import make_decoder
        from babyllama.models.loading import load_model, load_tokenizer_of, trained_length
        from babyllama.models.runtime import resolve_device

        self.folder = Path(folder).expanduser().resolve()
        self.device = resolve_device(device)
        if self.device == "cpu":
            keep_freed_memory()
        self.model = load_model(self.folder, self.device)
        self.tokenizer = load_tokenizer_of(self.folder)
        positions = getattr(self.model.config, "max_position_embeddings", None)
        self.window = trained_length(self.folder) or positions or DEFAULT_WINDOW
        self.decoder = make_decoder(self.model, self.window)
        self.tokenizer_lock = threading.Lock()  # the tokenizers library refuses a change of settings beside another use

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def write(self, prompt: str, settings: WritingSettings) -> Iterator[Piece]:
        """Continue a prompt.

        Args:
            prompt: Text to continue; BOS is put in front.
            settings: How it is written.

        Yields:
            A piece for each token, and one with what was held back and the reason of the end. Their texts, joined, are
            what `generation.generate` writes with the same settings.
        """
        import torch

        from babyllama.evaluation.generation import encode_prompts
        from babyllama.models.decoding.loop import decode

        with self.tokenizer_lock:
            stream, ended = TextStream(self.tokenizer, settings.stop), "length"
            rows = encode_prompts(self.tokenizer, [prompt])
        # Tokens as they are drawn, by a generator of this text's own.
        generator = torch.Generator().manual_seed(settings.seed)
        steps = decode(
            self.decoder.fresh(),  # with its own cache: several texts may be written at once
            rows,
            settings.sampling,
            settings.max_new_tokens,
            generator,
            self.tokenizer.eos_token_id,
        )
        # Each token's text, until an end or a stop text.
        for (token,) in steps:
            if token is None:
                ended = "end of text"
                break
            with self.tokenizer_lock:
                text = stream.push(token)
            yield Piece(text, len(stream.tokens))
            if stream.stopped:
                ended = "stop text"
                break
        with self.tokenizer_lock:
            rest = stream.finish()
        yield Piece(rest, len(stream.tokens), "stop text" if stream.stopped else ended)

    def write_several(self, prompt: str, settings: WritingSettings, count: int) -> list[str]:
        """Write several continuations of one prompt together; each ends at the first of the texts that end it."""
        from babyllama.evaluation.generation import generate

        samples = generate(
            self.model,
            self.tokenizer,
            [prompt] * count,
            window=self.window,
            max_new_tokens=settings.max_new_tokens,
            sampling=settings.sampling,
            seed=settings.seed,
        )
        texts = [sample.completion for sample in samples]
        return [text[: min([text.find(s) for s in settings.stop if s in text], default=len(text))] for text in texts]

    def slower_because(self) -> str | None:
        """Return a line that says why this model writes at the speed of Transformers, None where it does not."""
        from babyllama.models.decoding.decoder import slower_because

        return slower_because(self.decoder)

    def warm_up(self) -> float:
        """Write one token, so that the first text does not wait for what is set up once; return its seconds."""
        started = time.perf_counter()
        for _ in self.write("", WritingSettings(max_new_tokens=1)):
            pass
        return time.perf_counter() - started
