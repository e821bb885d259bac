"""Foreign models and tokenizers: a score sees no later token, and a tokenizer neither cuts, pads nor draws."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.data.documents import Document
from babyllama.data.tokenizer import encode_documents, load_tokenizer
from babyllama.evaluation.perplexity import tell_lost_text
from babyllama.models.decoding.decoder import make_decoder, slower_because
from babyllama.models.loading import load_model, load_tokenizer_of
from babyllama.models.structure import positions_of, require_causal, sees_later_tokens

TEXT = "The little dog ran to the old house near the river. " * 8


def edit_tokenizer(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if key == "dropout":
            state["model"]["dropout"] = value
        else:
            state[key] = value
    path.write_text(json.dumps(state), encoding="utf-8")


CUTS = {
    "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 400},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    },
    "dropout": 0.5,
}


@pytest.mark.parametrize("what", sorted(CUTS))
@pytest.mark.parametrize("as_file", [True, False])
def test_tokenizers_read_whole_texts(
    tiny_run: Path, tmp_path: Path, what: str, as_file: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "m"))
    wanted = encode_documents(load_tokenizer(folder), [TEXT])
    edit_tokenizer(folder, **{what: CUTS[what]})
    tokenizer = load_tokenizer(folder / "tokenizer.json" if as_file else folder)
    assert encode_documents(tokenizer, [TEXT]) == wanted
    assert encode_documents(load_tokenizer_of(folder), [TEXT]) == wanted
    assert "switched off" in capsys.readouterr().out
    tokenizer.save_pretrained(tmp_path / "again")
    state = json.loads((tmp_path / "again" / "tokenizer.json").read_text(encoding="utf-8"))
    assert state["truncation"] is None
    assert state["padding"] is None


@pytest.mark.parametrize("layers", [1, 2])  # one untrained layer moves a prediction by a thousandth
@pytest.mark.parametrize("kind", ["BertConfig", "RobertaConfig"])
def test_a_masked_model_is_refused(kind: str, layers: int, tiny_tokenizer: Any, tmp_path: Path) -> None:
    import transformers

    config = getattr(transformers, kind)(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(config)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not a causal language model"):
        load_model(tmp_path)


def test_our_models_see_no_later_token(tiny_llama: Any, tiny_gpt2: Any, tiny_gptj: Any) -> None:
    before = torch.get_rng_state()
    assert not any(sees_later_tokens(model) for model in (tiny_llama, tiny_gpt2, tiny_gptj))
    assert torch.equal(before, torch.get_rng_state())  # trying draws nothing: weights stay what they were


def test_a_plugins_model_without_a_mask_is_refused(tiny_tokenizer: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    class Bidirectional(LlamaForCausalLM):
        def forward(self, input_ids: Any = None, **options: Any) -> Any:
            return super().forward(input_ids=input_ids.flip(1), **options)

    config = LlamaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ConfigError, match="needs a causal mask"):
        require_causal(Bidirectional(config))


@pytest.mark.parametrize(
    ("kind", "settings", "positions"),
    [
        ("MptConfig", {"max_seq_len": 48}, 48),
        ("XLNetConfig", {}, None),
        ("GPT2Config", {"n_positions": 64}, 64),
        ("RwkvConfig", {}, 1024),
    ],
)
def test_positions_have_many_names(kind: str, settings: dict[str, int], positions: int | None) -> None:
    import transformers

    class Model:
        config = getattr(transformers, kind)(**settings)

    assert positions_of(Model()) == positions


BLANK_IN_FRONT = {"type": "Prepend", "prepend": " "}


@pytest.mark.parametrize(("change", "lost"), [({"type": "Lowercase"}, 3), (None, 0), (BLANK_IN_FRONT, 0)])
def test_a_tokenizer_that_loses_text_is_told(
    tiny_run: Path, tmp_path: Path, change: Any, lost: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bits per byte of what a lower-casing tokenizer leaves over are not those of the text; blanks are forgiven."""
    folder = Path(shutil.copytree(tiny_run, tmp_path / "m"))
    edit_tokenizer(folder, normalizer=change)
    documents = [Document(f"The old Man {n} read <s> and é.", "d") for n in range(3)]
    assert tell_lost_text(load_tokenizer_of(folder), documents) == lost
    assert ("does not give back 3 of 3 documents" in capsys.readouterr().out) == bool(lost)


@pytest.mark.parametrize("kind", ["Rwkv", "Mamba"])
def test_a_model_without_keys_and_values_writes(kind: str) -> None:
    """Its state is not transformers' cache: texts of unequal length are read anew for each token, and each as alone."""
    import transformers

    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)).eval()
    decoder = make_decoder(model, 24)
    rows = [[1, 5, 9, 7], [1, 3]]
    both = torch.stack([decoder.begin(rows), decoder.extend([4, 8])])
    for number, row in enumerate(([*rows[0], 4], [*rows[1], 8])):
        with torch.inference_mode():
            alone = model(torch.tensor([row])).logits[0]
        torch.testing.assert_close(both[:, number], alone[-2:].float(), atol=1e-5, rtol=1e-5)
    assert slower_because(decoder) is not None
