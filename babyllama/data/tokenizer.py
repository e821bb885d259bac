"""Byte-level BPE trained on the training text only, lossless, and the same for everyone who loads it.

Every string is spelled in bytes (GPT-2's trick, Radford et al. 2019), the alphabet holds all 256 of them whether the
corpus has them or not, and nothing is normalised: decode(encode(s)) == s for every valid string. Three tokens are
special: `<pad>` 0, `<s>` 1, `</s>` 2. The tokenizer puts `<s>` in front and never `</s>`, which is what evaluation
tools expect of a causal model.

Merges do not cross words, which GPT-2's rule tells apart. For it a combining mark is no letter: हिन्दी falls into six
words, and no merge can join a consonant with its vowel. So in text where more than one in fifty letters is a mark
(Indic scripts, Thai, Khmer, vocalized Hebrew) words are told apart by the same rule with marks among the letters.

With `prefix_space` every text is read as if a blank stood in front of it, so that a word has the same tokens at the
start of a text as inside; decoding takes that one blank away again, and the round trip stays lossless.

Text of a corpus that spells `</s>` is text, not a token: `encode_documents` switches the special spelling off.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import regex

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.config.run_layout import MODEL_CONFIG, TOKENIZER_CONFIG
from babyllama.data.words import is_unspaced, pieces
from babyllama.models.loading import read_whole_texts

if TYPE_CHECKING:
    from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
IN_FRONT = " "
SPECIAL = (PAD, BOS, EOS)
OWN_CLASSES = {"PreTrainedTokenizerFast", "TokenizersBackend"}  # one class, by its old and its new name
BLANK = "\u2581"  # SentencePiece's sign for a blank
MIN_FREQUENCY = 2  # a merge seen once is a memory of one place, not a unit of the language

WORDS_PER_TOKEN = 8  # a vocabulary of V wants a corpus of about 8 V words, else merges are memories of one place
AUTO_SIZES = (1_000, 2_000, 4_000, 8_000, 16_000, 32_000)  # what `vocab_size: auto` chooses among
AUTO_GAIN = 0.05  # a vocabulary is doubled for at least so much shorter text: its rows are parameters of the model
AUTO_SAMPLE = 2_000_000  # characters of text on which lengths are compared

# GPT-2's rule with combining marks, ZWNJ and ZWJ among the letters.
WORDS_WITH_MARKS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}\x{200C}\x{200D}]+| ?\p{N}+|"
    r" ?[^\s\p{L}\p{M}\p{N}\x{200C}\x{200D}]+|\s+(?!\S)|\s+"
)
MARKS_SHARE, MARKS_SAMPLE = 50, 1_000_000  # one mark in so many letters; characters at the beginning that are looked at
_MARK, _LETTER = regex.compile(r"\p{M}"), regex.compile(r"\p{L}")

ENDLESS = 1_000
LOOK_FROM = 20_000  # characters; shorter documents are not looked through
_ENDLESS = re.compile(rf"\S{{{ENDLESS},}}")


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE.

    Args:
        texts: Training text, document by document; only the train split.
        vocab_size: Tokens wanted, the three special ones and 256 bytes among them. Fewer come out where the text has
            no further pair that occurs twice.
        prefix_space: Whether the tokenizer puts a blank in front of every text.

    Returns:
        A fast tokenizer that adds `<s>` in front.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    # How words are told apart depends on the script at the text's begin.
    texts = iter(texts)
    first = _first_characters(texts)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if writes_marks("".join(first)[:MARKS_SAMPLE]):
        words = pre_tokenizers.Split(Regex(WORDS_WITH_MARKS), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    # The alphabet is all 256 bytes, so that nothing is unknown.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(_without_endless_words, chain(first, texts)), trainer)
    if prefix_space:
        _put_blank_in_front(tokenizer)
    return wrap(tokenizer)


def _put_blank_in_front(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a bare tokenizer put a blank in front of a text, and take one away where it decodes."""
    from tokenizers import decoders, normalizers

    tokenizer.normalizer = normalizers.Prepend(IN_FRONT)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse(), decoders.Strip(IN_FRONT, 1, 0)])


def without_prefix(tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedTokenizerFast, str]:
    """Take the blank in front out of a tokenizer's rules.

    Args:
        tokenizer: Any fast tokenizer; it is not changed.

    Returns:
        A tokenizer that gives for `prefix + text` the ids that the given one gives for `text`, and the prefix ("" and
        the tokenizer itself where it puts no blank in front).
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    ours = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BOS, EOS, PAD)
    if not ours or state["normalizer"] != {"type": "Prepend", "prepend": IN_FRONT}:
        return tokenizer, ""
    from tokenizers import Tokenizer

    return wrap(Tokenizer.from_str(json.dumps(state | {"normalizer": None}))), IN_FRONT


def decode_behind(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """Return text of tokens that stand behind other text: a blank at their beginning is theirs and stays.

    Tokenizers that put a blank in front of every text drop one when they decode, and so "a dog" plus " ran" would
    become "a dogran".

    Args:
        tokenizer: The tokenizer.
        ids: Tokens; special ones are left out.
    """
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = tokenizer.decode(anchor, skip_special_tokens=True)
    return tokenizer.decode([*anchor, *ids], skip_special_tokens=True)[len(before) :]


def _first_characters(texts: Iterator[str]) -> list[str]:
    """Return the first texts, up to MARKS_SAMPLE characters; they are taken out of the stream."""
    found: list[str] = []
    size = 0
    for text in texts:
        found.append(text)
        size += len(text)
        if size >= MARKS_SAMPLE:
            break
    return found


def writes_marks(text: str) -> bool:
    """Tell whether more than one in fifty letters of a text is a combining mark.

    >>> writes_marks("हिन्दी"), writes_marks("Zoë est naïve"), writes_marks("สวัสดี")
    (True, False, True)
    """
    if text.isascii():
        return False
    marks = len(_MARK.findall(text))
    return MARKS_SHARE * marks > len(_LETTER.findall(text)) + marks


def _without_endless_words(text: str) -> str:
    """What merges can be learned from: of thousands of letters without a space (data, not words) the first 1,000; in a
    script without spaces all of them, in lines of 1,000.

    The trainer keeps every distinct word whole, so that memory would grow with them.
    """
    return _ENDLESS.sub(_bounded, text) if len(text) > LOOK_FROM else text


def _bounded(match: re.Match[str]) -> str:
    return "\n".join(pieces(match[0], ENDLESS)) if is_unspaced(match[0]) else match[0][:ENDLESS]


def carried_size(words: int) -> int:
    """The largest vocabulary that a corpus of so many words carries; never less than bytes and special tokens take."""
    return max(260, words // WORDS_PER_TOKEN)


def shortened(tokenizer: PreTrainedTokenizerFast, size: int) -> PreTrainedTokenizerFast:
    """The tokenizer that the same training had given at a smaller vocabulary: merges are learned one after another.

    Args:
        tokenizer: Result of `train_tokenizer`.
        size: Tokens to keep; at least the special ones and the bytes.
    """
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = {token: number for token, number in state["model"]["vocab"].items() if number < size}
    merges = [pair for pair in state["model"]["merges"] if "".join(pair) in vocabulary]
    state["model"] |= {"vocab": vocabulary, "merges": merges}
    return wrap(Tokenizer.from_str(json.dumps(state)))


def choose_vocab_size(tokenizer: PreTrainedTokenizerFast, sample: Sequence[str]) -> tuple[int, str]:
    """Return the vocabulary size that `vocab_size: auto` stands for, and why.

    From 1,000 tokens on the vocabulary is doubled as long as that makes the text at least 5% shorter, up to 32,000 and
    to what the corpus carries.

    Args:
        tokenizer: Trained with the largest vocabulary that comes into question.
        sample: Text of the corpus.

    Returns:
        The size and a line for the user.
    """
    sizes = [size for size in AUTO_SIZES if size <= len(tokenizer)]
    if not sizes:
        return len(tokenizer), f"vocab_size auto: {len(tokenizer):,}, all that this text carries"
    lengths: dict[int, int] = {}
    for size in sizes:
        made = shortened(tokenizer, size)
        lengths[size] = sum(map(len, encode_documents(made, sample)))
        before = sizes[len(lengths) - 2] if len(lengths) > 1 else None
        if before is not None and 1 - lengths[size] / lengths[before] < AUTO_GAIN:
            gain = 100 * (1 - lengths[size] / lengths[before])
            told = f"{size:,} would make the text only {gain:.1f}% shorter and has twice the rows"
            return before, f"vocab_size auto: {before:,}: {told}"
    last = sizes[-1]
    if len(sizes) == 1:
        return last, f"vocab_size auto: {last:,}: the text carries no {2 * last:,}"
    gain = 100 * (1 - lengths[last] / lengths[sizes[-2]])
    more = "that is the largest" if last == AUTO_SIZES[-1] else f"the text carries no {2 * last:,}"
    return last, f"vocab_size auto: {last:,}: {gain:.1f}% shorter text than with {sizes[-2]:,}; {more}"


def wrap(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """Make a transformers tokenizer of a bare one that has our special tokens; it adds `<s>` in front."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text alone: no special token is added, and none is read out of the text.

    Uses all cores (the tokenizers library's own threads).
    """
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes]:
    """Return the bytes that each token stands for; none for special tokens.

    A byte-level token tells them letter by letter, SentencePiece's byte tokens as `<0xE0>`, others are their text.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    special = set(tokenizer.all_special_ids)
    byte_level = '"ByteLevel"' in tokenizer.backend_tokenizer.to_str()
    found = []
    for number, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if number in special or token is None:
            found.append(b"")
        elif byte_level and all(letter in byte_of for letter in token):
            found.append(bytes(byte_of[letter] for letter in token))
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            found.append(bytes([int(token[3:5], 16)]))
        else:
            found.append(token.replace(BLANK, " ").encode("utf-8", "replace"))
    return found


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Save so that `AutoTokenizer.from_pretrained(folder)` gives the same ids."""
    tokenizer.save_pretrained(str(folder))


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer folder, or one file of the tokenizers library (`*.json`).

    Raises:
        ConfigError: It is absent or not a tokenizer; or it has no token to begin a text with.
    """
    path = Path(path)
    try:
        if path.suffix == ".json" and path.is_file():
            from tokenizers import Tokenizer

            bare = Tokenizer.from_file(str(path))
            if all(bare.token_to_id(token) is not None for token in SPECIAL):
                return read_whole_texts(wrap(bare), path)
            raise ConfigError(f"data.tokenizer_path: {path} lacks one of {', '.join(SPECIAL)}: train it with us")
        tokenizer = _loader(path).from_pretrained(str(path), local_files_only=True)
    except ConfigError:
        raise
    except Exception as error:  # the library raises bare Exception, OSError and ValueError alike
        raise ConfigError(f"data.tokenizer_path: {path} is not a tokenizer that can be read: {error}") from error
    for told in ("is_local", "local_files_only"):  # how it was loaded: no part of what is saved again
        tokenizer.init_kwargs.pop(told, None)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ConfigError(f"data.tokenizer_path: {path} has neither a BOS nor an EOS token: texts cannot be told apart")
    return read_whole_texts(tokenizer, path)


def _loader(path: Path) -> type[PreTrainedTokenizerBase] | type[AutoTokenizer]:
    """Return the class that loads a folder: for one that we saved alone (no model beside it) the class that it names.

    AutoTokenizer would load the same, after importing torch and every model's configuration: 2.0 s instead of 0.5.
    """
    names = path / TOKENIZER_CONFIG
    if names.is_file() and not (path / MODEL_CONFIG).exists():
        record = read_json(names)
        if record.get("tokenizer_class") in OWN_CLASSES and "auto_map" not in record:
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return SHA-256 over vocabulary, merges and every rule of the tokenizer, whatever folder it lies in."""
    content = f"{tokenizer.backend_tokenizer.to_str()}|{tokenizer.special_tokens_map}"
    return hashlib.sha256(content.encode()).hexdigest()
