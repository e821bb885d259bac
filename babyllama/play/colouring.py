"""A text as coloured pieces: what each costs in bits, its rank, and what the model would rather have read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from babyllama.data.tokenizer import decode_behind
from babyllama.evaluation.surprisal.alternatives import TokenChoice, token_choices
from babyllama.play.writer import Writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def colour(writer: Writer, text: str) -> dict[str, Any]:
    """Score a text and cut it into pieces that join to it exactly.

    A piece is a token; tokens that share a character (a letter of several bytes may be several tokens) are one piece.
    Characters that no token covers are pieces without tokens.

    Args:
        writer: Loaded model.
        text: Text to colour.

    Returns:
        `pieces`: text, bits (null where no token covers it) and tokens (text, bits, rank, likeliest as pairs of text
        and probability); `bits`, `tokens` and `bytes` of the whole text.
    """
    with writer.tokenizer_lock:
        return _colour(writer, text)


def _colour(writer: Writer, text: str) -> dict[str, Any]:
    choices = token_choices(writer.model, writer.tokenizer, text, writer.window) if text else []
    pieces: list[dict[str, Any]] = []
    end = 0
    for choice in choices:
        shown = _shown(writer.tokenizer, choice)
        if choice.start < end or (choice.end == choice.start and pieces):
            pieces[-1]["tokens"].append(shown)
            pieces[-1]["bits"] = (pieces[-1]["bits"] or 0.0) + choice.bits
            pieces[-1]["text"] += text[end : max(end, choice.end)]
        else:
            if choice.start > end:
                pieces.append({"text": text[end : choice.start], "bits": None, "tokens": []})
            pieces.append({"text": text[choice.start : choice.end], "bits": choice.bits, "tokens": [shown]})
        end = max(end, choice.end)
    if end < len(text):
        pieces.append({"text": text[end:], "bits": None, "tokens": []})
    total = sum(choice.bits for choice in choices)
    return {"pieces": pieces, "bits": total, "tokens": len(choices), "bytes": len(text.encode("utf-8"))}


def _shown(tokenizer: PreTrainedTokenizerBase, choice: TokenChoice) -> dict[str, Any]:
    likeliest = [[token_text(tokenizer, token), share] for token, share in choice.likeliest]
    return {
        "text": token_text(tokenizer, choice.token),
        "bits": choice.bits,
        "rank": choice.rank,
        "likeliest": likeliest,
    }


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return a token as text, the blank in front included; special tokens by their names."""
    return decode_behind(tokenizer, [token]) or str(tokenizer.convert_ids_to_tokens(token))
