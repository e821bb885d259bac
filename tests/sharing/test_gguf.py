"""GGUF files read back by llama.cpp and by transformers: the same ids, the same log-probabilities."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.config.schema import Config
from babyllama.data.tokenizer import encode_documents
from babyllama.models.architectures import build_model
from babyllama.models.loading import trained_length
from babyllama.sharing import gguf_check, llama_cpp
from babyllama.sharing.export_command import modelfile, run_name, target_path
from babyllama.sharing.gguf_model import check_supported, interleave, named_weights, write_gguf
from babyllama.sharing.gguf_tokenizer import read_bpe

gguf = pytest.importorskip("gguf", reason="the optional package gguf is not installed")

ROOT = Path(__file__).resolve().parents[2]
WINDOW = 32
needs_llama_cpp = pytest.mark.skipif(not llama_cpp.is_installed(), reason="llama.cpp (package xllamacpp) is not there")
reads_our_tokens = pytest.mark.skipif(
    tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 24),
    reason="transformers 5.17 cuts a GGUF file's texts into other tokens than 5.24 (versions between: not tried)",
)
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"type": "Llama"},
    "llama tied": {"type": "Llama", "tie_word_embeddings": True},
    "llama grouped heads": {"type": "Llama", "n_kv_head": 2},
    "gpt2": {"type": "GPT2"},
    "gpt2 untied": {"type": "GPT2", "tie_word_embeddings": False},
}


def _model(kind: str, tokenizer: Any, **more: Any) -> Any:
    import torch

    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "intermediate_size": 256, "n_layer": 2, "n_head": 4} | KINDS[kind] | more
    model = build_model(Config(model=sizes, data={"seq_length": WINDOW}), tokenizer).eval()
    for parameter in model.parameters():  # random weights that say something: at 0.02 every distribution is flat
        if parameter.ndim > 1:
            parameter.data.mul_(4)
    return model


def _write(model: Any, tokenizer: Any, path: Path, quantization: str = "f32") -> Path:
    write_gguf(model, read_bpe(tokenizer), path, quantization, {"name": "tiny"})
    return path


@needs_llama_cpp
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_gives_the_same_ids_and_log_probabilities(kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = _model(kind, tiny_tokenizer)
    reader = llama_cpp.LlamaCpp(_write(model, tiny_tokenizer, tmp_path / "x.gguf"), model.config.vocab_size, 512)
    found = gguf_check.compare(reader, model, tiny_tokenizer, WINDOW)
    assert found.reader == "llama.cpp"
    assert found.different == []
    assert found.prefixes == gguf_check.PREFIXES
    # GPT-2: llama.cpp reads GELU from a table of half-precision numbers (the test below shows that this is all)
    assert found.largest < (1e-4 if kind.startswith("llama") else 5e-3)


@needs_llama_cpp
def test_the_half_precision_gelu_explains_gpt2s_difference(tiny_tokenizer: Any, tmp_path: Path) -> None:
    import torch

    model = _model("gpt2", tiny_tokenizer)
    path = _write(model, tiny_tokenizer, tmp_path / "x.gguf")
    reader = llama_cpp.LlamaCpp(path, model.config.vocab_size, 512)
    rows = gguf_check.own_texts(model, tiny_tokenizer, WINDOW, count=2)

    class Table(torch.nn.Module):
        """ggml's table: input and output rounded to float16; the identity above 10, zero below -10."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
            return torch.where(x <= -10, 0.0, torch.where(x >= 10, x, y))

    for block in model.transformer.h:
        block.mlp.act = Table()
    for row, wanted in zip(rows, gguf_check.model_log_probs(model, rows), strict=True):
        for place in (0, 7, WINDOW - 2):
            assert np.abs(reader.log_probs(row[: place + 1]) - wanted[place]).max() < 1e-4


@needs_llama_cpp
def test_one_forced_token_is_the_same_log_probability(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = _model("llama", tiny_tokenizer)
    path = _write(model, tiny_tokenizer, tmp_path / "x.gguf")
    reader = llama_cpp.LlamaCpp(path, model.config.vocab_size, 512)
    (row,) = gguf_check.own_texts(model, tiny_tokenizer, 8, count=1)
    (wanted,) = gguf_check.model_log_probs(model, [row])
    for place in range(7):
        assert reader.log_prob(row[: place + 1], row[place + 1]) == pytest.approx(
            wanted[place, row[place + 1]], abs=1e-4
        )


@needs_llama_cpp
def test_a_tokenizer_of_real_text_cuts_odd_text_alike(tiny_llama: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Random sequences of tokens spell every byte, in orders that no corpus has."""
    reader = llama_cpp.LlamaCpp(_write(tiny_llama, tiny_tokenizer, tmp_path / "x.gguf"), len(tiny_tokenizer), 512)
    draws = np.random.default_rng(0).integers(3, len(tiny_tokenizer), (60, 20))
    for text in (tiny_tokenizer.decode(row) for row in draws):
        (ids,) = encode_documents(tiny_tokenizer, [text])
        assert reader.encode(text) == [tiny_tokenizer.bos_token_id, *ids], text


@pytest.mark.parametrize("kind", ["llama tied", "llama grouped heads", "gpt2"])
@pytest.mark.parametrize("quantization", ["f32", "f16", "q8_0", "q4_0"])
@reads_our_tokens
def test_transformers_reads_it_back(kind: str, quantization: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = _model(kind, tiny_tokenizer)
    path = _write(model, tiny_tokenizer, tmp_path / "x.gguf", quantization)
    found = gguf_check.compare(gguf_check.TransformersReader(path, model), model, tiny_tokenizer, WINDOW)
    assert found.different == []
    assert found.largest < {"f32": 1e-5, "f16": 0.05, "q8_0": 0.5, "q4_0": 8}[quantization]
    gguf_check.require_equal(found, quantization)


def test_block_types_have_their_size_and_narrow_rows_stay_in_half_precision(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = _model("llama", tiny_tokenizer, hidden_size=48, intermediate_size=64)  # rows of 48 and of 64
    written = write_gguf(model, read_bpe(tiny_tokenizer), tmp_path / "x.gguf", "q8_0")
    assert "blk.0.attn_q.weight" in written.unquantized
    assert "blk.0.ffn_down.weight" not in written.unquantized
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert written.parameters == sum(p.numel() for p in model.parameters())
    assert written.bytes == (tmp_path / "x.gguf").stat().st_size


def test_a_tied_head_is_stored_once(tiny_tokenizer: Any) -> None:
    tied = [name for name, _ in named_weights(_model("llama tied", tiny_tokenizer))]
    assert "output.weight" not in tied
    assert "output.weight" in [name for name, _ in named_weights(_model("llama", tiny_tokenizer))]


def test_interleaving_is_undone_by_its_inverse() -> None:
    weight = np.arange(48.0).reshape(12, 4)  # 2 heads of 6 rows
    pairs = interleave(weight, heads=2)
    assert pairs[:6, 0].tolist() == [0, 12, 4, 16, 8, 20]
    back = pairs.reshape(2, 3, 2, 4).swapaxes(1, 2).reshape(12, 4)
    assert (back == weight).all()


def test_other_models_and_tokenizers_are_one_line(tiny_gptj: Any, tiny_llama: Any, tiny_tokenizer: Any) -> None:
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(ConfigError, match=r"^a model of type gptj cannot be written as GGUF: llama\.cpp has no graph"):
        check_supported(tiny_gptj.config)
    scaled = type(tiny_llama.config)(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    with pytest.raises(ConfigError, match="rotary positions of type linear"):
        check_supported(scaled)
    with pytest.raises(ConfigError, match=r"llama\.cpp has no hidden_act = 'relu' for llama"):
        check_supported(type(tiny_llama.config)(hidden_act="relu"))
    backend = type(tiny_tokenizer.backend_tokenizer).from_str(tiny_tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Lowercase()
    with pytest.raises(ConfigError, match=r"it has a normalizer \(Lowercase\)"):
        read_bpe(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>"))


@pytest.mark.parametrize(("what", "named"), [("end", "puts more around a text"), ("gap", "its ids have gaps")])
def test_what_a_file_has_no_place_for_is_refused_before_it_is_written(
    tiny_tokenizer: Any, what: str, named: str
) -> None:
    import json

    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    spec = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
    if what == "gap":
        last = max(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__)
        spec["model"]["vocab"][last] += 3
    backend = Tokenizer.from_str(json.dumps(spec))
    if what == "end":
        end = tiny_tokenizer.eos_token
        backend.post_processor = TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, backend.token_to_id(end))]
        )
    names = {"bos_token": tiny_tokenizer.bos_token, "eos_token": tiny_tokenizer.eos_token}
    with pytest.raises(ConfigError, match=named):
        read_bpe(transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names))


def test_a_modelfile_of_the_users_own_stays(tmp_path: Path) -> None:
    from babyllama.sharing.export_command import _is_modelfile

    assert _is_modelfile(modelfile("x.gguf", 32, "</s>").encode())
    assert not _is_modelfile(b"FROM ./x.gguf\nSYSTEM You are a pirate.\n")


def test_a_foreign_tokenizer_of_another_kind_is_refused(test_data: Path) -> None:
    from babyllama.models.loading import load_tokenizer_of

    with pytest.raises(ConfigError, match="cannot be written as GGUF: "):
        read_bpe(load_tokenizer_of(test_data / "checkpoints/stories260K-hf"))


@reads_our_tokens
def test_a_wrong_file_is_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Weights of another seed under the same names: the comparison must see it."""
    import torch

    model = _model("llama", tiny_tokenizer)
    path = _write(model, tiny_tokenizer, tmp_path / "x.gguf")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight.copy_(model.model.layers[0].self_attn.q_proj.weight)
    found = gguf_check.compare(gguf_check.TransformersReader(path, model), model, tiny_tokenizer, WINDOW)
    with pytest.raises(CheckpointError, match=r"the file was not kept: read by transformers it differs"):
        gguf_check.require_equal(found, "f32")


def _export(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "main.py", "export", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.integration
def test_the_command_writes_checks_and_names_what_to_type(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Tiny"
    shutil.copytree(tiny_run, folder)
    done = _export(str(folder), "--gguf", "--quantize", "q8_0")
    assert done.returncode == 0, done.stderr
    target = folder / "gguf" / "Tiny-Q8_0.gguf"
    assert target.is_file()
    assert sorted(path.name for path in target.parent.iterdir()) == ["Modelfile", "Tiny-Q8_0.gguf"]
    assert (target.parent / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./Tiny-Q8_0.gguf\n")
    assert "ids of 17 of 17 texts equal" in done.stdout
    assert done.stderr == ""


@pytest.mark.integration
def test_gptj_is_one_line_and_leaves_nothing(tiny_gptj: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    tiny_gptj.save_pretrained(tmp_path / "J")
    tiny_tokenizer.save_pretrained(tmp_path / "J")
    done = _export(str(tmp_path / "J"), "--gguf")
    assert done.returncode == 2
    (line,) = done.stderr.strip().split("\n")
    assert line == "error: a model of type gptj cannot be written as GGUF: llama.cpp has no graph for GPT-J"
    assert not (tmp_path / "J" / "gguf").exists()
    assert _export(str(tmp_path / "J")).returncode == 2


def test_names_and_the_modelfile(tmp_path: Path) -> None:
    (tmp_path / "chck_1M").mkdir()
    assert run_name(tmp_path / "chck_1M") == "chck_1M"
    (tmp_path / "training_config.yaml").write_text(
        "model: {type: Llama}\ndata: {train_path: synthetic, seq_length: 64}\n", encoding="utf-8"
    )
    assert run_name(tmp_path / "chck_1M") == f"{tmp_path.name}-chck_1M"
    assert trained_length(tmp_path / "chck_1M") == 64
    assert target_path(tmp_path, "a/b.gguf", "f16") == Path("a/b.gguf")
    text = modelfile("x.gguf", 64, "</s>")
    assert "PARAMETER num_ctx 64\n" in text
    assert text.endswith('PARAMETER stop "</s>"\n')
    assert "stop" not in modelfile("x.gguf", 64, None)
