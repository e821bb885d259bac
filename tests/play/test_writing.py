"""Text that is given out as it is written: the pieces join to the whole, whatever the tokens cut through."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from babyllama.common.errors import ConfigError
from babyllama.data.tokenizer import decode_behind
from babyllama.evaluation.generation import generate
from babyllama.models.decoding.sampling import Sampling
from babyllama.play.text_stream import TextStream
from babyllama.play.writer import Writer, WritingSettings, settings_from


@pytest.fixture(scope="module")
def writer(tiny_run: Path) -> Writer:
    return Writer(tiny_run, "cpu")


@pytest.mark.parametrize(
    "text", ["naïve 日本 — 🦙🏽 end", "plain words here", "🦙", "a\n\nb  c", "\ufffd\ufffd real marks"]
)
def test_pieces_join_to_the_text_and_are_never_taken_back(tiny_tokenizer: Any, text: str) -> None:
    stream = TextStream(tiny_tokenizer)
    shown = ""
    for token in tiny_tokenizer(text, add_special_tokens=False)["input_ids"]:
        shown += stream.push(token)
        assert text.startswith(shown), "a part of a letter was shown"
    assert shown + stream.finish() == text


def test_random_tokens_join_to_what_they_decode_to(tiny_tokenizer: Any) -> None:
    """Random ids are mostly broken letters: what is shown once has to stay right all the same."""
    for seed in range(40):
        ids = [random.Random(seed + 1000 * n).randrange(3, len(tiny_tokenizer)) for n in range(30)]
        stream = TextStream(tiny_tokenizer)
        assert "".join(map(stream.push, ids)) + stream.finish() == decode_behind(tiny_tokenizer, ids)


@pytest.mark.parametrize(
    ("stops", "wanted"),
    [(["dog"], "The little "), (["zebra"], "The little dog ran to"), (["tle d", "little"], "The "), (["rant"], None)],
)
def test_text_ends_before_a_stop_text(tiny_tokenizer: Any, stops: list[str], wanted: str | None) -> None:
    text = "The little dog ran to"
    stream = TextStream(tiny_tokenizer, stops)
    shown = ""
    for token in tiny_tokenizer(text, add_special_tokens=False)["input_ids"]:
        shown += stream.push(token)
        assert not any(stop in shown for stop in stops)
        if stream.stopped:
            break
    assert shown + stream.finish() == (text if wanted is None else wanted)
    assert stream.stopped == (wanted not in (None, text))


@pytest.mark.parametrize("settings", [Sampling(), Sampling(1.2, 0, 0.9, 0.02, 1.3), Sampling(0)], ids=str)
def test_streamed_text_is_the_text_of_generate(writer: Writer, settings: Sampling) -> None:
    pieces = list(writer.write("The dog", WritingSettings(settings, 25, seed=4)))
    whole = generate(
        writer.model, writer.tokenizer, ["The dog"], window=writer.window, max_new_tokens=25, sampling=settings, seed=4
    )[0]
    assert "".join(piece.text for piece in pieces) == whole.completion
    assert pieces[-1].tokens == whole.new_tokens
    assert [bool(piece.ended) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert writer.write_several("The dog", WritingSettings(settings, 25, seed=4), 1) == [whole.completion]


def test_stop_text_is_honoured_alike_in_a_stream_and_in_several_texts(writer: Writer) -> None:
    free = "".join(piece.text for piece in writer.write("The", WritingSettings(max_new_tokens=30, seed=1)))
    stop = free[len(free) // 2 :][:3]
    settings = WritingSettings(max_new_tokens=30, seed=1, stop=(stop,))
    pieces = list(writer.write("The", settings))
    assert pieces[-1].ended == "stop text"
    assert "".join(piece.text for piece in pieces) == free[: free.index(stop)]
    assert writer.write_several("The", settings, 1) == [free[: free.index(stop)]]


def test_two_texts_at_once_do_not_meet(writer: Writer) -> None:
    """A page may write twice at the same time: each text has its own cache."""
    settings = [WritingSettings(max_new_tokens=12, seed=seed) for seed in (1, 2)]
    alone = ["".join(piece.text for piece in writer.write("The dog", s)) for s in settings]
    both = ["", ""]
    running = [writer.write("The dog", s) for s in settings]
    while running[0] is not None or running[1] is not None:
        for number, steps in enumerate(running):
            piece = next(steps, None) if steps is not None else None
            if piece is None:
                running[number] = None  # type: ignore[call-overload]
            else:
                both[number] += piece.text
    assert both == alone


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": 1.5}, "top-k"),
        ({"top_k": True}, "top-k"),
        ({"seed": -1}, "seed"),
        ({"max_new_tokens": 0}, "max-new-tokens"),
        ({"stop": "one"}, "stop"),
        ({"top_p": 0}, "top-p"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings_from(values)


def test_settings_come_from_plain_values() -> None:
    found = settings_from({"temperature": 1, "top_k": 3.0, "stop": ["a", ""], "unknown": 1})
    assert found == WritingSettings(Sampling(1.0, 3), stop=("a",))
