"""Texts that a model writes in the middle of its training, without a trace in the training.

Nothing random is drawn from the training's generators, no gradient and no compiled graph is touched, and the copies of
the weights that the lean decoding step makes are gone before the next step: they take the room of the gradients. So the
weights of a run are the same bits with and without samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from babyllama.data.tokenizer import decode_behind, encode_documents
from babyllama.data.words import beginning
from babyllama.models.decoding.decoder import Decoder, LeanDecoder, TransformersDecoder
from babyllama.models.decoding.lean_model import take_apart
from babyllama.models.decoding.loop import decode
from babyllama.models.decoding.sampling import Sampling
from babyllama.models.gpu import full_float32

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from babyllama.data.documents import Document

PROMPTS, NEW_TOKENS, SEED = 3, 40, 0
STEP_SECONDS, BYTES_PER_SECOND = 2e-3, 5e9  # of a first guess: a step's launches, and the weights read once


def choose_prompts(documents: Sequence[Document]) -> list[str]:
    """Return the beginnings of three held-out documents, evenly spaced, or an empty prompt where there are none."""
    places = [(2 * number + 1) * len(documents) // (2 * PROMPTS) for number in range(PROMPTS)] if documents else []
    found = [beginning(documents[place].text) for place in dict.fromkeys(places)]
    return list(dict.fromkeys(prompt for prompt in found if prompt)) or [""]


class SampleWriter:
    """Writes on from the same prompts with the same seed at each call, so that what changes is the model."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document], window: int) -> None:
        """Choose the prompts.

        Args:
            tokenizer: Tokenizer of the model.
            documents: Held-out documents, whose beginnings are the prompts.
            window: Tokens that the model is trained at.
        """
        self.tokenizer, self.window = tokenizer, window
        self.prompts = choose_prompts(documents)
        known = tokenizer.bos_token_id
        first = tokenizer.eos_token_id if known is None else known
        self._rows = [[first or 0, *ids][: window // 2] for ids in encode_documents(tokenizer, self.prompts)]

    def expected_seconds(self, model: PreTrainedModel) -> float:
        """Return a first guess of what `write` takes, before one was timed."""
        size = sum(parameter.numel() for parameter in model.parameters())
        return NEW_TOKENS * (STEP_SECONDS + 4 * size / BYTES_PER_SECOND)

    @full_float32()
    def write(self, model: PreTrainedModel) -> list[dict[str, str]]:
        """Continue each prompt.

        Args:
            model: The model that is trained, without the wrappers of several processes.

        Returns:
            `prompt` and `completion` of each.
        """
        with _as_if_not_there(model):
            parts = take_apart(model, self.window)  # of the classes that it is made for
            decoder = LeanDecoder(parts, self.window) if parts else TransformersDecoder(model, self.window)
            # Rows of unequal length need a mask, which attention that was chosen for training may not look at.
            batches = [self._rows] if parts else [[row] for row in self._rows]
            written = [tokens for rows in batches for tokens in self._continue(decoder, rows)]
        pairs = zip(self.prompts, written, strict=True)
        return [{"prompt": prompt, "completion": decode_behind(self.tokenizer, tokens)} for prompt, tokens in pairs]

    def _continue(self, decoder: Decoder, rows: list[list[int]]) -> list[list[int]]:
        written: list[list[int]] = [[] for _ in rows]
        generator = torch.Generator().manual_seed(SEED)
        for chosen in decode(decoder, rows, Sampling(), NEW_TOKENS, generator, self.tokenizer.eos_token_id):
            for tokens, token in zip(written, chosen, strict=True):
                tokens += [] if token is None else [token]
        return written


@contextmanager
def _as_if_not_there(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, nothing compiled, and torch's random state as it was."""
    was_training, state = model.training, torch.get_rng_state()
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.train(was_training)
        torch.set_rng_state(state)
