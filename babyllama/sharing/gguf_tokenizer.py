"""Write a byte-level BPE tokenizer into a GGUF file, or say in one line why llama.cpp would cut text otherwise.

llama.cpp's own converter recognises a tokenizer by a hash of the ids it gives for one text, and so refuses every
newly trained one. The file format needs no such hash: with `tokenizer.ggml.model = gpt2` (byte-level BPE) and
`tokenizer.ggml.pre = gpt-2` (GPT-2's way to cut a text into words, Radford et al. 2019) llama.cpp applies the merges
that the file lists. Only a tokenizer that is exactly that may be written; what differs (a normalizer, another split,
a prefix space) would be dropped in silence, and the model would read other tokens than it was trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from babyllama.common.errors import ConfigError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

MODEL, SPLIT = "gpt2", "gpt-2"  # names of byte-level BPE and of GPT-2's split in llama.cpp


@dataclass(frozen=True)
class ByteLevelBPE:
    """The parts of a byte-level BPE that a GGUF file has a place for.

    Attributes:
        tokens: Vocabulary in the order of ids, spelled in GPT-2's byte alphabet.
        merges: Pairs in the order of their rank, "left right".
        special: Ids of special tokens, which text never spells.
        added: Ids of added tokens that are not special, which text may spell.
        bos: Id of the token that begins a text, None without one.
        eos: Id of the token that ends a text, None without one.
        pad: Id of the padding token, None without one.
        adds_bos: Whether encoding a text puts `bos` in front.
    """

    tokens: list[str]
    merges: list[str]
    special: frozenset[int]
    added: frozenset[int]
    bos: int | None
    eos: int | None
    pad: int | None
    adds_bos: bool


def read_bpe(tokenizer: PreTrainedTokenizerBase) -> ByteLevelBPE:
    """Take a tokenizer apart.

    Args:
        tokenizer: A fast tokenizer of transformers.

    Raises:
        ConfigError: It is not a byte-level BPE with GPT-2's split and nothing else.
    """
    spec = _specification(tokenizer)
    # Can llama.cpp do what it does?
    differences = _differences(spec)
    vocabulary, bos = tokenizer.get_vocab(), tokenizer.bos_token_id
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        differences.append("its ids have gaps")
    around, plain = (tokenizer("a", add_special_tokens=special).input_ids for special in (True, False))
    if around not in (plain, [bos, *plain]):
        differences.append("it puts more around a text than one token in front")
    if differences:
        raise ConfigError(
            f"the tokenizer cannot be written as GGUF: {'; '.join(differences)}. Only byte-level BPE with GPT-2's "
            "split and no normalizer can, which is what BabyLlama trains"
        )
    # Its parts.
    added = {entry["id"]: entry["special"] for entry in spec["added_tokens"]}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["model"]["merges"]]
    return ByteLevelBPE(
        tokens=sorted(vocabulary, key=vocabulary.__getitem__),
        merges=merges,
        special=frozenset(index for index, special in added.items() if special),
        added=frozenset(index for index, special in added.items() if not special),
        bos=bos,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        adds_bos=around != plain,
    )


def _specification(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError("the tokenizer cannot be written as GGUF: it has no tokenizer.json (a slow tokenizer)")
    return json.loads(backend.to_str())


def _differences(spec: dict[str, Any]) -> list[str]:
    """Return what of a tokenizer llama.cpp would not do, each in a few words."""
    model, split = spec["model"], spec["pre_tokenizer"] or {}
    found = []
    if model["type"] != "BPE":
        found.append(f"its model is {model['type']}")
    if spec["normalizer"] is not None:
        found.append(f"it has a normalizer ({spec['normalizer']['type']})")
    if split.get("type") != "ByteLevel" or not split.get("use_regex", True):
        found.append(f"it splits text by {split.get('type', 'nothing')}")
    elif split.get("add_prefix_space"):
        found.append("it puts a space in front of a text")
    unusual = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    # GPT-2's own files name an unk_token that byte-level text never needs, and write affixes as empty strings.
    found += [f"its {key} is set" for key in unusual if model.get(key) and key != "unk_token"]
    if model.get("ignore_merges"):
        found.append("it takes whole words from the vocabulary before it merges (ignore_merges)")
    return found


def add_tokenizer(writer: GGUFWriter, bpe: ByteLevelBPE, vocab_size: int) -> None:
    """Write a tokenizer's keys.

    Args:
        writer: An open GGUF writer.
        bpe: The tokenizer's parts.
        vocab_size: Rows of the model's embedding; rows beyond the tokenizer get names that no text spells.

    Raises:
        ConfigError: The tokenizer has more tokens than the model.
    """
    from gguf import TokenType

    if len(bpe.tokens) > vocab_size:
        raise ConfigError(f"the tokenizer has {len(bpe.tokens):,} tokens, the model {vocab_size:,} embeddings")
    # A kind for each token; embeddings beyond the vocabulary get names, too.
    kinds = [TokenType.NORMAL] * len(bpe.tokens)
    for index in bpe.special:
        kinds[index] = TokenType.CONTROL
    for index in bpe.added:
        kinds[index] = TokenType.USER_DEFINED
    beyond = range(len(bpe.tokens), vocab_size)
    writer.add_tokenizer_model(MODEL)
    writer.add_tokenizer_pre(SPLIT)
    writer.add_token_list([*bpe.tokens, *(f"[PAD{index}]" for index in beyond)])
    writer.add_token_types([*kinds, *(TokenType.UNUSED for _ in beyond)])
    writer.add_token_merges(bpe.merges)
    # Special tokens, and what is put around a text.
    places = (
        (writer.add_bos_token_id, bpe.bos),
        (writer.add_eos_token_id, bpe.eos),
        (writer.add_pad_token_id, bpe.pad),
    )
    for add, index in places:
        if index is not None:
            add(index)
    writer.add_add_bos_token(bpe.adds_bos)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
