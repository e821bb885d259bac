"""Perplexity and log-probabilities against hand counts, an unbatched loop, and the model's own logits."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from babyllama.common.errors import DataError
from babyllama.data.documents import Document
from babyllama.data.tokenizer import encode_documents
from babyllama.evaluation.intervals import bootstrap_ratio, wilson
from babyllama.evaluation.log_probs import batches_by_length, token_log_probs
from babyllama.evaluation.perplexity import rolling_windows, score_documents, summarize
from babyllama.models.structure import backbone_and_head

TEXTS = ["The dog ran to the old house.", "She looked at the dog and smiled. " * 6, "Cats!", "apples é 日本"]
DOCUMENTS = [Document(text, "a" if number % 2 else "b") for number, text in enumerate(TEXTS)]


def _uniform(model: Any) -> Any:
    flat = copy.deepcopy(model)
    with torch.no_grad():
        flat.get_output_embeddings().weight.zero_()
    return flat


def test_the_perplexity_of_a_uniform_model_is_its_vocabulary_size(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    found = summarize(score_documents(_uniform(tiny_llama), tiny_tokenizer, DOCUMENTS, window=16))
    assert found["perplexity"] == pytest.approx(len(tiny_tokenizer), rel=1e-6)
    tokens, size = found["total_tokens"], sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"] == pytest.approx(tokens * math.log2(len(tiny_tokenizer)) / size, rel=1e-6)
    assert found["num_documents"] == 4
    assert set(found["domains"]) == {"a", "b"}


@torch.inference_mode()
def _by_hand(model: Any, ids: list[int], window: int) -> float:
    """One token at a time, full float32 logits, no batch, no cache."""
    total, done = 0.0, 0
    stream = [1, *ids]
    while done < len(ids):
        end = min(done + window, len(ids))
        start = max(0, end - window)
        for place in range(done, end):
            logits = model(torch.tensor([stream[start : place + 1]])).logits[0, -1].double()
            total -= float(torch.log_softmax(logits, 0)[ids[place]])
        done = end
    return total


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "tiny_gptj"])
@pytest.mark.parametrize("batch_tokens", [1, 50, 4096])
def test_equal_to_an_unbatched_loop_at_any_batch_size(
    name: str, batch_tokens: int, request: pytest.FixtureRequest, tiny_tokenizer: Any
) -> None:
    model = request.getfixturevalue(name)
    scores = score_documents(model, tiny_tokenizer, DOCUMENTS, window=16, batch_tokens=batch_tokens)
    encoded = encode_documents(tiny_tokenizer, TEXTS)
    expected = [_by_hand(model, ids, 16) for ids in encoded]
    np.testing.assert_allclose(scores.nll, expected, rtol=1e-6)
    assert scores.tokens.tolist() == [len(ids) for ids in encoded]


def test_order_of_documents_changes_nothing(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    forward = score_documents(tiny_llama, tiny_tokenizer, DOCUMENTS, window=16)
    backward = score_documents(tiny_llama, tiny_tokenizer, DOCUMENTS[::-1], window=16)
    np.testing.assert_allclose(forward.nll, backward.nll[::-1], rtol=1e-6)


@pytest.mark.parametrize("length", [0, 1, 4, 5, 8, 9, 23])
@pytest.mark.parametrize(("window", "stride"), [(4, None), (4, 1), (4, 3), (8, 4), (1, None)])
def test_windows_predict_each_token_once_with_the_context_before_it(
    length: int, window: int, stride: int | None
) -> None:
    tokens = list(range(100, 100 + length))
    predicted = []
    for inputs, targets in rolling_windows(tokens, 1, window, stride):
        assert len(inputs) == len(targets) <= window
        for place, target in enumerate(targets):
            if target != -100:
                predicted.append(target)
                assert inputs[place] == (1 if target == 100 else target - 1)
    assert predicted == tokens


def test_a_stride_gives_more_context_and_so_a_different_score(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    disjoint = score_documents(tiny_llama, tiny_tokenizer, DOCUMENTS, window=8)
    overlapping = score_documents(tiny_llama, tiny_tokenizer, DOCUMENTS, window=8, stride=2)
    assert (disjoint.tokens == overlapping.tokens).all()
    assert not np.allclose(disjoint.nll[1], overlapping.nll[1])
    windows = list(rolling_windows(range(100, 130), 1, 8, 2))
    assert {len(inputs) for inputs, _ in windows[1:-1]} == {8}, "each has as much context as fits"
    assert all(targets[:6] == [-100] * 6 for _, targets in windows[1:])


@pytest.mark.parametrize(("window", "stride"), [(0, None), (8, 0), (8, 9)])
def test_impossible_windows_are_refused(tiny_llama: Any, tiny_tokenizer: Any, window: int, stride: int | None) -> None:
    with pytest.raises(DataError, match="window"):
        score_documents(tiny_llama, tiny_tokenizer, DOCUMENTS, window=window, stride=stride)


def test_an_empty_text_is_refused(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="evaluation text is empty"):
        score_documents(tiny_llama, tiny_tokenizer, [Document("", "a")], window=8)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "tiny_gptj"])
def test_log_probs_equal_the_models_own_logits(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    assert backbone_and_head(model) is not None
    ids = torch.randint(3, 200, (3, 9), generator=torch.Generator().manual_seed(0))
    targets = torch.randint(3, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    targets[0, 4:] = -100
    found = token_log_probs(model, ids, targets)
    with torch.inference_mode():
        expected = torch.log_softmax(model(ids).logits, -1).gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(found, expected.masked_fill(targets == -100, 0.0), rtol=1e-5, atol=1e-5)


def test_a_model_with_scaled_logits_takes_the_long_way(tiny_llama: Any) -> None:
    scaled = copy.deepcopy(tiny_llama)
    plain = scaled.forward
    if hasattr(scaled, "_babyllama_split_ok"):
        del scaled._babyllama_split_ok

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = output.logits * 3 + 1
        return output

    scaled.forward = forward
    assert backbone_and_head(scaled) is None
    ids = torch.tensor([[1, 50, 60]])
    expected = torch.log_softmax(scaled(ids).logits, -1)[0, 0, 50]
    assert token_log_probs(scaled, ids, torch.tensor([[50, -100, -100]]))[0, 0] == pytest.approx(float(expected))


def test_batches_hold_every_index_once() -> None:
    lengths = [5, 1, 9, 3, 3, 8, 20]
    batches = list(batches_by_length(lengths, 16))
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(max(lengths[i] for i in batch) * len(batch) <= 16 or len(batch) == 1 for batch in batches)


def test_bootstrap_intervals_cover_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        sizes = generator.integers(20, 200, 60).astype(float)
        low, high = bootstrap_ratio(sizes * generator.normal(3.0, 0.5, 60), sizes, resamples=300, seed=trial)
        hits += low <= 3.0 <= high
    assert 0.90 <= hits / 200 <= 0.98


@pytest.mark.parametrize(("right", "total"), [(0, 5), (5, 5), (1, 2), (0, 0), (500, 1000)])
def test_wilson_stays_inside_and_holds_the_share(right: int, total: int) -> None:
    low, high = wilson(right, total)
    assert 0 <= low <= (right / total if total else 0.5) <= high <= 1
