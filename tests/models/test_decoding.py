"""The lean decoding step: what Transformers writes, at every length, padded or not; how a token is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from babyllama.common.errors import ConfigError
from babyllama.models.decoding import decoder as decoders
from babyllama.models.decoding.decoder import (
    LeanDecoder,
    RereadingDecoder,
    TransformersDecoder,
    make_decoder,
    slower_because,
)
from babyllama.models.decoding.lean_model import take_apart
from babyllama.models.decoding.sampling import GREEDY, Sampling

WINDOW = 24


def _llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()


def _gptj(**changes: Any) -> Any:
    from transformers import GPTJConfig, GPTJForCausalLM

    torch.manual_seed(1)
    sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "rotary_dim": 16}
    model = GPTJForCausalLM(GPTJConfig(**sizes | changes)).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def _gpt2(**changes: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(**sizes | changes)).eval()
    for parameter in model.parameters():  # biases begin at 0 and would hide a mistake
        torch.nn.init.normal_(parameter, std=0.1)
    return model


MODELS = {
    "llama": lambda: _llama(),
    "llama, grouped heads": lambda: _llama(num_key_value_heads=2),
    "llama, one key head, tied": lambda: _llama(num_key_value_heads=1, tie_word_embeddings=True),
    "llama, biases, wide heads": lambda: _llama(attention_bias=True, mlp_bias=True, head_dim=16),
    "llama, stretched positions": lambda: _llama(
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    ),
    "gpt2": lambda: _gpt2(),
    "gpt2, untied, other scale": lambda: _gpt2(tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True),
    "gptj": lambda: _gptj(),
    "gptj, some dimensions turned": lambda: _gptj(rotary_dim=6),
}


def _logits(decoder: Any, rows: list[list[int]], more: list[list[int]]) -> Tensor:
    return torch.stack([decoder.begin(rows), *(decoder.extend(tokens) for tokens in more)])


@pytest.mark.parametrize("name", MODELS)
def test_lean_logits_are_those_of_transformers(name: str) -> None:
    model = MODELS[name]()
    lean, plain = make_decoder(model, WINDOW), TransformersDecoder(model, WINDOW)
    assert isinstance(lean, LeanDecoder), "the lean step was refused"
    ids = torch.randint(97, (WINDOW * 3,), generator=torch.Generator().manual_seed(2)).tolist()
    for rows in ([ids[:5]], [ids[:1]], [ids[:3], ids[4:13], ids[20:21]], [ids[: WINDOW - 6]] * 2):
        more = [[ids[(7 * step + row) % len(ids)] for row in range(len(rows))] for step in range(6)]
        found, wanted = _logits(lean, rows, more), _logits(plain, rows, more)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)
        assert lean.length == max(map(len, rows)) + 6


@pytest.mark.parametrize("name", ["llama", "gpt2", "gptj"])
def test_greedy_text_equals_generate(name: str) -> None:
    from babyllama.models.decoding.loop import decode

    model = MODELS[name]()
    ids = [[5, 9, 14, 2], [7, 7, 1, 30]]
    theirs = model.generate(torch.tensor(ids), max_new_tokens=15, do_sample=False, pad_token_id=0, eos_token_id=None)
    steps = list(decode(make_decoder(model, WINDOW), ids, GREEDY, 15, torch.Generator()))
    assert [list(row) for row in zip(*steps, strict=True)] == theirs[:, 4:].tolist()


def test_full_context_is_read_anew_from_its_newer_half() -> None:
    """The rolling window by hand: whenever it is full, the newer half is a text of its own."""
    from babyllama.models.decoding.loop import decode

    model, window = MODELS["llama"](), 8
    text, read = [3, 5, 8], [3, 5, 8]
    for _ in range(20):
        with torch.no_grad():
            token = int(model(torch.tensor([read])).logits[0, -1].argmax())
        text.append(token)
        read = [*read, token] if len(read) < window else text[-window // 2 :]
    steps = decode(make_decoder(model, window), [[3, 5, 8]], GREEDY, 20, torch.Generator())
    assert [tokens[0] for tokens in steps] == text[3:]


def test_unknown_architecture_runs_on_transformers_and_says_so(tiny_llama: Any) -> None:
    class OwnModel(type(tiny_llama)):  # type: ignore[misc]
        """A plugin's class: whatever it changes, its own forward is asked."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = -output.logits
            return output

    torch.manual_seed(0)
    model = OwnModel(tiny_llama.config).eval()
    decoder = make_decoder(model, 16)
    assert isinstance(decoder, TransformersDecoder | RereadingDecoder)  # the latter with transformers 5.17
    assert "OwnModel has no lean decoding step" in str(slower_because(decoder))
    with torch.no_grad():
        torch.testing.assert_close(decoder.begin([[4, 5]]), model(torch.tensor([[4, 5]])).logits[:, -1])
    assert slower_because(make_decoder(tiny_llama, 16)) is None


def test_every_class_is_asked_for_its_cache_by_the_name_it_knows(tiny_llama: Any) -> None:
    """Transformers 5.24 names it `cache`; Mamba's state has that name, too, and is no cache of keys and values."""
    from transformers import MambaConfig, MambaForCausalLM

    class Wrapped(type(tiny_llama)):  # type: ignore[misc]
        """Passes on whatever it is given."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    class Plain(torch.nn.Module):
        """A plugin's module without any cache."""

        def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
            return input_ids

    assert decoders.cache_argument(tiny_llama) in {"cache", "past_key_values"}
    assert decoders.cache_argument(Wrapped(tiny_llama.config)) == decoders.cache_argument(tiny_llama)
    assert decoders.cache_argument(Plain()) is None
    mamba = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4)).eval()
    assert decoders.cache_argument(mamba) is None
    assert isinstance(make_decoder(mamba, 16), decoders.RereadingDecoder)


def test_a_model_that_was_changed_by_hand_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class alone proves nothing: a layer with a hook of the user's computes something else."""
    model = MODELS["llama"]()
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, output: output * 1.5)
    assert isinstance(make_decoder(model, WINDOW), TransformersDecoder)
    dynamic = _llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    assert take_apart(dynamic, WINDOW) is None
    monkeypatch.setattr(decoders, "take_apart", lambda model, length: None)
    assert isinstance(make_decoder(MODELS["gpt2"](), WINDOW), TransformersDecoder)


def _theirs(logits: Tensor, context: list[int], s: Sampling) -> Tensor:
    """Probabilities of the whole vocabulary by Transformers' processors."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(s.repetition_penalty)])
    chain += [TemperatureLogitsWarper(s.temperature)]
    chain += [TopKLogitsWarper(s.top_k)] if s.top_k else []
    chain += [TopPLogitsWarper(s.top_p)] if s.top_p < 1 else []
    chain += [MinPLogitsWarper(s.min_p)] if s.min_p else []
    return torch.softmax(chain(torch.tensor([context]), logits), dim=1)[0]


@pytest.mark.parametrize(
    "settings",
    [
        Sampling(),
        Sampling(1.0, 0),
        Sampling(1.3, 0, top_p=0.7),
        Sampling(0.7, 12, top_p=0.8),
        Sampling(1.0, 0, min_p=0.2),
        Sampling(1.0, 0, repetition_penalty=1.8),
        Sampling(0.9, 20, 0.9, 0.05, 1.2),
    ],
    ids=str,
)
def test_choice_follows_the_probabilities_of_transformers(settings: Sampling) -> None:
    logits = 2 * torch.randn(1, 60, generator=torch.Generator().manual_seed(3))
    context = [int(token) for token in logits[0].topk(4).indices]
    wanted = _theirs(logits.clone(), context, settings)
    draws = 4000
    generator = torch.Generator().manual_seed(5)
    chosen = settings.choose(logits.expand(draws, -1), [context] * draws, generator)
    counts = torch.bincount(torch.tensor(chosen), minlength=60) / draws
    assert not counts[wanted == 0].any()
    assert (counts - wanted).abs().max() < 5 * (0.25 / draws) ** 0.5
    before = logits.clone()
    settings.choose(logits, [context], generator)
    assert torch.equal(before, logits), "the model's logits were changed"


def test_default_choice_draws_what_it_always_drew() -> None:
    """Yesterday's choice in three lines: with the same generator, the same tokens."""
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(3))
    values, tokens = logits.topk(50, dim=1)
    picks = torch.multinomial(torch.softmax(values / 0.8, dim=1), 1, generator=torch.Generator().manual_seed(9))
    found = Sampling().choose(logits, [[0]] * 6, torch.Generator().manual_seed(9))
    assert found == tokens.gather(1, picks).squeeze(1).tolist()


def test_greedy_takes_the_likeliest_and_the_penalty_moves_it() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert GREEDY.choose(logits, [[1]], torch.Generator()) == [1]
    assert Sampling(0, repetition_penalty=2.0).choose(logits, [[1]], torch.Generator()) == [2]


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1), ("top_k", -1), ("top_p", 0), ("top_p", 1.5), ("min_p", 2), ("repetition_penalty", 0)],
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field.replace("_", "-")):
        Sampling(**{field: value})
    with pytest.raises(ConfigError, match="temperature"):
        Sampling(temperature=float("nan"))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(24, 96), (96, 24), (8, 7), (16, 1536), (32, 770)])
@pytest.mark.parametrize("kind", ["plain", "bias", "gelu", "silu"])
def test_a_matrix_gives_the_same_product_for_one_row_and_many(threads: int, height: int, width: int, kind: str) -> None:
    """Blocks of columns, one a thread, oneDNN's packed copy and the plain product: all are x W + b."""
    from babyllama.models.decoding.lean_model import Matrix, gelu

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(height + width)
        weight, rows, scale = torch.randn(height, width), torch.randn(5, height), torch.rand(height)
        bias = None if kind == "plain" else torch.randn(width)
        matrix = Matrix(weight, bias, scale)
        matrix.activation = {"gelu": gelu, "silu": torch.nn.functional.silu}.get(kind)
        wanted = (rows.double() * scale) @ weight.double() + (0 if bias is None else bias.double())
        wanted = wanted if matrix.activation is None else matrix.activation(wanted)
        many, single = matrix(rows), torch.cat([matrix(row[None]) for row in rows])
        torch.testing.assert_close(many, wanted.float(), atol=2e-4, rtol=2e-4)
        torch.testing.assert_close(single, wanted.float(), atol=2e-4, rtol=2e-4)
        assert len(matrix._blocks) == max(
            n for n in range(1, threads + 1) if width % n == 0 and (n == 1 or n * 32 <= width)
        )
    finally:
        torch.set_num_threads(before)


def test_a_model_in_half_precision_is_left_to_transformers(tiny_llama: Any) -> None:
    assert take_apart(tiny_llama, 16) is not None
    assert take_apart(type(tiny_llama)(tiny_llama.config).bfloat16(), 16) is None
