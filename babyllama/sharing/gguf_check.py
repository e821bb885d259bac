"""Compare a GGUF file with the model it was made from: the same ids for a text, the same log-probabilities.

Two readers can do it: llama.cpp (package xllamacpp), which is what the file is for, and transformers' own `gguf_file`,
which is there wherever the file could be written. Texts are a list of odd ones (spaces, digits, apostrophes, scripts,
control characters, special tokens spelled out) and texts that the model writes itself from a seed: they are in its
language, and no corpus is needed.

What is compared on the model's own texts: all V log-probabilities after prefixes of them, and the mean Kullback-Leibler
divergence of the file's distribution from the model's, which is what a quantization costs in nats a token on such text.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.sharing import llama_cpp

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ODD_TEXTS = (
    "",
    " ",
    "  two  spaces,\ttab\n\nlines\r\n \n trailing ",
    "It's we'll THEY'RE I'd 'tis can't rock'n'roll",
    "1 12 123 1,234.56 3rd ½ ²³ ٣٤ ১২ 一二",
    "naïve café ﬁne Ångström cafe\u0301 \u0915\u094d\u0937 ไทย 日本語 العربية 😀👩‍👩‍👧 🇳🇱",
    "<s></s><pad> <unk> <|endoftext|>",
    "a\u00a0b\u2003c\u200bd\u2028e\u0085f\ufefff\u0000g\u001fh",
    "e-mail@x.org https://x.org/?a=b&c=%20 {}[]()<>|\\/~^`\"' ... --- !!! $€£ __init__",
)
OWN_TEXTS, PREFIXES = 8, 24
# Largest mean divergence (nats a token) that is rounding and not a broken file: about ten times what was measured on
# trained models of 10M parameters (docs/sharing.md).
TOLERANCE = {"f32": 1e-4, "f16": 1e-3, "q8_0": 0.01, "q5_0": 0.1, "q4_0": 0.3}


class Reader(Protocol):
    """Something that reads a GGUF file."""

    name: str

    def encode(self, text: str) -> list[int]:
        """Return ids of a text, with the token in front that the file asks for."""

    def log_probs(self, prefix: list[int]) -> np.ndarray:
        """(V,) log-probabilities after a prefix."""


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        reader: Name of the library that read the file.
        texts: Number of texts whose ids were compared.
        different: Texts that got other ids.
        prefixes: Number of prefixes after which all log-probabilities were compared.
        largest: Largest difference of a log-probability (natural) over the whole vocabulary.
        divergence: Mean KL(model || file) over those prefixes, in nats.
    """

    reader: str
    texts: int
    different: list[str]
    prefixes: int
    largest: float
    divergence: float

    def line(self) -> str:
        """Return the comparison in one line."""
        same = self.texts - len(self.different)
        return (
            f"checked with {self.reader}: ids of {same} of {self.texts} texts equal; log-probabilities after "
            f"{self.prefixes} prefixes within {self.largest:.1e}, mean divergence {self.divergence:.1e} nats a token"
        )


class TransformersReader:
    """A GGUF file in transformers.

    Args:
        path: The file.
        model: The model it was made from: transformers 5.24 does not read a GPT-2's positions and widths out of a GGUF
            file, so both are taken from there; what is compared is weights and tokenizer.

    Raises:
        ConfigError: It cannot be read; the message names the way out.
    """

    name = "transformers"

    def __init__(self, path: Path, model: PreTrainedModel) -> None:
        import torch
        from transformers import AutoTokenizer

        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        try:
            with redirect_stderr(io.StringIO()):  # a progress bar that has no switch
                kind, config = type(model), copy.deepcopy(model.config)
                self._model = kind.from_pretrained(**where, config=config, dtype=torch.float32).eval()
                self._tokenizer = AutoTokenizer.from_pretrained(**where)
        except Exception as error:  # a dozen kinds
            first = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"transformers cannot read the file back to check it ({first}): pip install xllamacpp, whose llama.cpp "
                "can, or add --no-check"
            ) from error

    def encode(self, text: str) -> list[int]:
        """Return ids of a text; special tokens in the text are text."""
        return encode_plainly(self._tokenizer, text)

    def log_probs(self, prefix: list[int]) -> np.ndarray:
        """(V,) natural log-probabilities after a prefix."""
        return model_log_probs(self._model, [prefix])[0][-1]


def encode_plainly(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return ids of a text with what the tokenizer puts in front; special tokens spelled in the text are text."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        return backend.encode(text).ids
    finally:
        backend.encode_special_tokens = before


def model_log_probs(model: PreTrainedModel, rows: Sequence[list[int]]) -> list[np.ndarray]:
    """For each row of T ids the (T, V) natural log-probabilities of the next token, float64, row by row unpadded."""
    import torch

    found = []
    with torch.inference_mode():
        for row in rows:
            logits = model(input_ids=torch.tensor([row], device=model.device)).logits[0]  # (T, V)
            found.append(torch.log_softmax(logits.double(), dim=-1).cpu().numpy())
    return found


def own_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int, count: int = OWN_TEXTS
) -> list[list[int]]:
    """Sample texts from the model with a fixed seed, as ids that begin with the first context token; an end is no end.

    Args:
        model: A causal language model.
        tokenizer: Tokenizer of the model.
        window: Positions it was trained at; each text has as many.
        count: Texts.
    """
    import torch

    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((count, 1), first)
    with torch.inference_mode():
        for _ in range(window - 1):
            logits = model(input_ids=ids.to(model.device)).logits[:, -1].float().cpu()  # (count, V)
            ids = torch.cat([ids, torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)], dim=1)
    return ids.tolist()


def compare(
    reader: Reader, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int, texts: Sequence[str] = ()
) -> Comparison:
    """Compare what a reader makes of a file with the model and tokenizer it was written from.

    Args:
        reader: The opened file.
        model: The model in float32, in evaluation mode.
        tokenizer: Tokenizer of the model.
        window: Positions the model was trained at.
        texts: Further texts whose ids are compared.
    """
    # 1. ids: odd texts, the user's, and what the model writes
    rows = own_texts(model, tokenizer, window)
    spelled = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    wanted = [*ODD_TEXTS, *texts, *spelled]
    different = [text for text in wanted if reader.encode(text) != encode_plainly(tokenizer, text)]
    # 2. log-probabilities: prefixes of many lengths, evenly spread over the texts
    before = model_log_probs(model, rows)
    places = np.unique(np.linspace(0, len(rows) * (window - 1) - 1, PREFIXES).astype(int))
    largest, divergences = 0.0, []
    for place in places:
        row, last = place // (window - 1), int(place % (window - 1))
        ours, theirs = before[row][last], reader.log_probs(rows[row][: last + 1])  # (V,) each
        largest = max(largest, float(np.abs(ours - theirs).max()))
        divergences.append(float((np.exp(ours) * (ours - theirs)).sum()))
    return Comparison(reader.name, len(wanted), different, len(places), largest, float(np.mean(divergences)))


def open_reader(path: Path, model: PreTrainedModel) -> Reader:
    """Open a file with llama.cpp where it is installed, else with transformers."""
    if llama_cpp.is_installed():
        return llama_cpp.LlamaCpp(path, model.config.vocab_size, model.config.max_position_embeddings)
    return TransformersReader(path, model)


def require_equal(found: Comparison, quantization: str) -> None:
    """Refuse a file that does not give what the model gives.

    Args:
        found: Result of `compare`.
        quantization: How the weights were stored.

    Raises:
        CheckpointError: Other ids, or another loss than rounding explains.
    """
    if found.different:
        raise CheckpointError(
            f"the file was not kept: {found.reader} cuts {len(found.different)} of {found.texts} texts into other "
            f"tokens, the first is {found.different[0]!r}"
        )
    if not found.divergence <= TOLERANCE[quantization]:  # NaN is refused too
        raise CheckpointError(
            f"the file was not kept: read by {found.reader} it differs from the model by {found.divergence:.1e} nats a "
            f"token, more than {quantization} explains ({TOLERANCE[quantization]:g})"
        )
