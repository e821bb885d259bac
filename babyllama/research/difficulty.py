"""How difficult a chunk of the training text is: what a curriculum orders by.

A training sees chunks, not documents: a chunk is `seq_length` tokens of the joined documents, and its cut points move
with each epoch (packing.py). So difficulty is defined for *tokens* and a chunk has the mean over its text tokens
(`<s>`, `</s>` and padding are left out); then it is defined for every cut, is computed by NumPy from the stored
tokens, and one definition holds for a chunk inside a book and for a chunk of four little stories.

    length    of the sentence that the token stands in, in tokens (up to a sentence terminator of any script, a line
              feed or the document's end); Platanios et al. 2019 (arXiv 1903.09848), d_length
    rarity    -log of the token's relative frequency in the training text; their d_rarity, but the mean, not the sum:
              all chunks are equally long
    domain    the place of the token's file in `curriculum.domains`, from 0
    loss      nats per token that another model (`curriculum.model`) pays for the token's document
    a plugin  `function(document) -> float`, the same for all tokens of the document
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import regex

from babyllama import plugins
from babyllama.common.console import progress, say
from babyllama.common.errors import ConfigError
from babyllama.config.schema import CURRICULUM_DIFFICULTIES, Config
from babyllama.data.documents import Document
from babyllama.data.packing import PackedDataset
from babyllama.data.token_store import BLOCK_TOKENS, TokenSplit
from babyllama.data.words import TERMINATORS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from babyllama.data.prepared import PreparedData

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(places on disk (N,), documents (N,)) -> difficulty of each token (N,)."""
_SENTENCE_END = regex.compile(rf"[{TERMINATORS}…][ \"'”’)\]»」』]*$")


class ChunkDifficulty:
    """Mean difficulty of the text tokens of each chunk of a PackedDataset.

    Args:
        split: The tokens.
        special: (V,) bool, tokens that are no text.
        values: Difficulty of tokens.
    """

    def __init__(self, split: TokenSplit, special: np.ndarray, values: Values) -> None:
        self.split, self.special, self.values = split, special, values

    def of_dataset(self, dataset: PackedDataset, epoch: int) -> np.ndarray:
        """(chunks,) float64: the chunks of an epoch; infinite for a chunk of nothing but padding."""
        length, offset, layout = dataset.seq_length, dataset.offset_of(epoch), dataset.layout(epoch)
        sums, counts = np.zeros(len(dataset)), np.zeros(len(dataset))
        step = max(BLOCK_TOKENS // length, 1) * length
        for start in range(0, layout.total, step):
            stream = (np.arange(start, min(start + step, layout.total)) + offset) % layout.total
            places, documents, _ = layout.places(stream)
            text = ~self.special[self.split.tokens[places]]
            chunks = np.arange(start, start + len(stream)) // length
            values = np.where(text, self.values(places, documents), 0.0)
            sums += np.bincount(chunks, values, len(dataset))
            counts += np.bincount(chunks, text, len(dataset))
        return np.divide(sums, counts, out=np.full(len(dataset), np.inf), where=counts > 0)


def build_difficulty(config: Config, data: PreparedData) -> ChunkDifficulty:
    """Return the difficulty that `curriculum.difficulty` names.

    Args:
        config: Run configuration with a `curriculum` section.
        data: PreparedData.

    Raises:
        ConfigError: It is not known, lacks what it needs, or the plugin's function fails; one line says what.
    """
    assert config.curriculum is not None
    name = config.curriculum.difficulty
    builders: dict[str, Callable[[Config, Any], Values]] = {
        "length": lambda _, prepared: sentence_length(prepared.train, prepared.tokenizer),
        "rarity": lambda _, prepared: rarity(prepared.train),
        "domain": lambda given, prepared: domain_place(prepared.train, given.curriculum.domains),
        "loss": model_loss,
    }
    if name in plugins.DIFFICULTIES:
        builders[name] = lambda _, prepared: plugin_values(name, prepared.train, prepared.tokenizer)
    if name not in builders:
        known = ", ".join([*CURRICULUM_DIFFICULTIES, *plugins.DIFFICULTIES])
        raise ConfigError(f"curriculum.difficulty: {name!r} is not known: {known}, or one that a plugin registers")
    return ChunkDifficulty(data.train, special_tokens(data.tokenizer), builders[name](config, data))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """(V,) bool: `<s>`, `</s>`, `<pad>` and their like."""
    special = np.zeros(len(tokenizer), dtype=bool)
    special[[number for number in tokenizer.all_special_ids if number < len(special)]] = True
    return special


def rarity(split: TokenSplit) -> Values:
    """-log of each token's relative frequency, in nats."""
    counts = np.bincount(split.tokens)
    with np.errstate(divide="ignore"):
        nats = -np.log(counts / max(len(split.tokens), 1))
    return lambda places, _: nats[split.tokens[places]]


def sentence_length(split: TokenSplit, tokenizer: PreTrainedTokenizerBase) -> Values:
    """Return tokens of the sentence that each token stands in."""
    texts = [tokenizer.decode([number], skip_special_tokens=False) for number in range(len(tokenizer))]
    ends = np.array([_SENTENCE_END.search(text) is not None or "\n" in text for text in texts])
    last = ends[split.tokens]
    last[split.starts[1:] - 1] = True
    borders = np.flatnonzero(last)
    lengths = np.diff(borders, prepend=-1)
    return lambda places, _: lengths[np.searchsorted(borders, places)].astype(np.float64)


def domain_place(split: TokenSplit, order: list[str]) -> Values:
    """Place of each token's domain in an order.

    Raises:
        ConfigError: A domain of the text is not in the order, or the other way round.
    """
    missing = [name for name in split.domains if name not in order]
    unknown = [name for name in order if name not in split.domains]
    if missing or unknown:
        problems = [f"{', '.join(missing)} not listed"] * bool(missing) + [f"no text of {', '.join(unknown)}"] * bool(
            unknown
        )
        raise ConfigError(f"curriculum.domains: {'; '.join(problems)}: list every domain once, the easiest first")
    place = np.array([order.index(name) for name in split.domains], dtype=np.float64)
    return lambda _, documents: place[split.domain_ids[documents]]


def model_loss(config: Config, data: PreparedData) -> Values:
    """Nats per token that `curriculum.model` pays for each document; kept in the score cache."""
    from babyllama.evaluation.perplexity import score_documents
    from babyllama.evaluation.score_cache import ScoreCache, checkpoint_content
    from babyllama.models.loading import load_model, load_tokenizer_of
    from babyllama.models.runtime import resolve_device

    assert config.curriculum is not None
    folder = Path(config.curriculum.model or "").expanduser()
    if not config.curriculum.model or not folder.is_dir():
        raise ConfigError(f"curriculum.model: {config.curriculum.model}: no such checkpoint folder")
    # Scored once for this text and this model.
    cache, content = ScoreCache(), checkpoint_content(folder)
    options = {"data": data.fingerprint, "window": config.data.seq_length}
    found = cache.get(content, "curriculum loss", options)
    if found is None:
        model = load_model(folder, resolve_device(config.training.device))
        say(f"curriculum: scoring {len(data.train.words):,} documents with {config.curriculum.model}")
        window = min(config.data.seq_length, getattr(model.config, "max_position_embeddings", None) or 10**9)
        documents = list(stored_documents(data.train, data.tokenizer))
        scores = score_documents(model, load_tokenizer_of(folder), documents, window=window, progress=_bar)
        found = {"nats": (scores.nll / np.maximum(scores.tokens, 1)).tolist()}
        cache.put(content, "curriculum loss", options, found)
    # A number a document, in the order on disk.
    nats = np.array(found["nats"])
    return lambda _, documents: nats[documents]


def _bar(batches: Iterable[Any]) -> Iterable[Any]:
    return progress(batches, description="curriculum")


def stored_documents(split: TokenSplit, tokenizer: PreTrainedTokenizerBase) -> Iterator[Document]:
    """Yield the texts of the stored tokens, in the order on disk."""
    for number, domain in enumerate(split.domain_ids):
        ids = split.tokens[split.starts[number] + 1 : split.starts[number + 1] - 1]
        text = tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield Document(text, split.domains[domain])


def plugin_values(name: str, split: TokenSplit, tokenizer: PreTrainedTokenizerBase) -> Values:
    """Return a plugin's figure of each document.

    Raises:
        ConfigError: The function raises or gives no finite number; names the file and the document.
    """
    function = plugins.DIFFICULTIES[name]
    figures = np.zeros(len(split.words))
    for number, document in enumerate(stored_documents(split, tokenizer)):
        begins = document.text[:40].replace("\n", " ")
        with plugins.blamed(function, f"difficulty {name!r} of the document {begins!r}"):
            figures[number] = float(function(document))
            if not math.isfinite(figures[number]):
                raise ValueError(f"gives {figures[number]}, which is not a finite number")
    return lambda _, documents: figures[documents]
