"""What is decided for a CUDA GPU, shown without one: torch's answers about the machine are patched, nothing else."""

from __future__ import annotations

import gc
import os
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from babyllama.common.errors import ConfigError
from babyllama.config.schema import Config, TrainingConfig
from babyllama.models import compiled_layers, gpu
from babyllama.models import runtime as rt
from babyllama.models.runtime import Runtime
from babyllama.training.callbacks import CollectSeldom
from babyllama.training.start import taken_by

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that says it has one GPU with bf16, Triton and a compiler."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(rt, "compile_obstacle", lambda: None)
    return monkeypatch


@pytest.fixture
def many_gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that says it has four; which one is taken is forgotten afterwards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(gpu, "_pinned", None)
    monkeypatch.setattr(gpu, "initialize_cuda", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    return monkeypatch


def decide(steps: int = 100, length: int = 128, **training: Any) -> Runtime:
    config = Config(model={"type": "Llama", "n_layer": 6}, data={"seq_length": length}, training=training)
    return rt.decide(config, total_steps=steps, num_parameters=10_000_000)


# One GPU a process


def test_cuda_n_becomes_the_only_gpu(many_gpus: pytest.MonkeyPatch) -> None:
    assert gpu.pin_gpu("cpu") == "cpu"
    assert gpu.pin_gpu("cuda") == "cuda"
    assert gpu.pin_gpu("cuda:2") == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    assert gpu.pin_gpu("cuda:2") == "cuda"
    assert rt.resolve_device("cuda:2") == "cuda"
    with pytest.raises(ConfigError, match="trains on cuda:2 already"):
        gpu.pin_gpu("cuda:1")


def test_cuda_n_counts_among_the_visible_ones(many_gpus: pytest.MonkeyPatch) -> None:
    many_gpus.setenv("CUDA_VISIBLE_DEVICES", "5,6,GPU-abc,7")
    gpu.pin_gpu("cuda:2")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-abc"


@pytest.mark.parametrize("name", ["cuda:4", "cuda:x", "cuda:"])
def test_a_gpu_that_is_not_there_is_refused(many_gpus: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(ConfigError, match="there are 4 GPUs"):
        gpu.pin_gpu(name)


@pytest.mark.parametrize("before", [None, "4,5,6,7"])
def test_cuda_n_is_refused_where_the_driver_was_asked_before(many_gpus: pytest.MonkeyPatch, before: str | None) -> None:
    """`torch.cuda.is_available` starts the driver and not torch's CUDA: the others are then no longer hidden."""
    if before:
        many_gpus.setenv("CUDA_VISIBLE_DEVICES", before)
    many_gpus.setattr(gpu, "initialize_cuda", lambda: 4)
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=1"):
        gpu.pin_gpu("cuda:1")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    assert gpu.pinned_gpu() is None


def test_a_card_that_does_not_start_is_named_with_its_reason(many_gpus: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable\nCompile with ...")

    many_gpus.setattr(gpu, "initialize_cuda", refuse)
    with pytest.raises(ConfigError, match=r"cuda:1: CUDA does not start on it: CUDA-capable device\(s\) is/are busy"):
        gpu.pin_gpu("cuda:1")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_cuda_n_is_refused_where_cuda_is_up(many_gpus: pytest.MonkeyPatch) -> None:
    many_gpus.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=1"):
        gpu.pin_gpu("cuda:1")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


# Scores in float32


def test_scores_ignore_tf32_and_autocast_and_put_them_back() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            with gpu.full_float32():
                assert torch.get_float32_matmul_precision() == "highest"
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_every_score_is_computed_in_full_float32(tiny_llama: Any, tiny_tokenizer: Any) -> None:
    """A forward hook sees the setting inside of each measure, as after a training that left TF32 and autocast on."""
    from babyllama.data.documents import Document
    from babyllama.evaluation.completion import completion_accuracy
    from babyllama.evaluation.consistency import next_token_distributions
    from babyllama.evaluation.generation import generate
    from babyllama.evaluation.minimal_pairs import score_sentences
    from babyllama.evaluation.pair_scoring import score_pairs
    from babyllama.evaluation.perplexity import score_documents
    from babyllama.evaluation.surprisal.scores import score_texts
    from babyllama.evaluation.token_statistics import token_statistics

    seen: list[tuple[str, bool]] = []

    def look(*_: Any) -> None:
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))

    documents = [Document("The dog ran to the old house near the river.", "x")]
    handle = tiny_llama.base_model.register_forward_hook(look)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            score_documents(tiny_llama, tiny_tokenizer, documents, window=16)
            token_statistics(tiny_llama, tiny_tokenizer, documents, window=16)
            score_sentences(tiny_llama, tiny_tokenizer, ["The dog ran."])
            score_pairs(tiny_llama, [([5, 6, 7], [5, 8, 9])], 1)
            completion_accuracy(tiny_llama, tiny_tokenizer, [("The dog ran to the old", " house")], window=16)
            generate(tiny_llama, tiny_tokenizer, ["The"], window=16, max_new_tokens=2)
            next_token_distributions(tiny_llama, tiny_tokenizer, ["The"], window=16)
            score_texts(tiny_llama, tiny_tokenizer, ["The dog ran."], window=16)
    finally:
        handle.remove()
        torch.set_float32_matmul_precision("highest")
    assert len(seen) >= 7, "what was proved on this model before is not tried again, and text is written by a lean step"
    assert set(seen) == {("highest", False)}


def test_a_training_puts_the_process_settings_back() -> None:
    with gpu.restored_settings():
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        gpu.compute_deterministically()
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction


@pytest.mark.parametrize(
    ("precision", "tf32", "expected"), [("fp32", True, "high"), ("fp32", False, "highest"), ("bf16", True, "highest")]
)
def test_tf32_is_for_trainings_in_float32(precision: str, tf32: bool, expected: str) -> None:
    with gpu.restored_settings():
        rt.apply(Runtime("cuda", precision, "causal", "off", torch.get_num_threads(), tf32=tf32))
        assert torch.get_float32_matmul_precision() == expected


def test_beside_a_gpu_the_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(rt, "keep_freed_memory", lambda: asked.append(True))
    with gpu.restored_settings():
        rt.apply(Runtime("cuda", "bf16", "causal", "off", torch.get_num_threads()))
        assert not asked
        rt.apply(Runtime("cpu", "fp32", "eager", "off", torch.get_num_threads()))
    assert asked == [True]


def test_deterministic_is_part_of_the_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    decided = decide(device="cpu", deterministic=True)
    assert decided.line().endswith(", deterministic")
    with gpu.restored_settings():
        rt.apply(decided)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


# Compiling


def test_without_triton_a_compiler_or_headers_a_gpu_run_is_eager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sysconfig

    import torch.utils._triton as triton

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(triton, "has_triton", lambda: False)
    assert decide(device="cuda", torch_compile=True).compile == "off"
    assert "Triton is not there" in capsys.readouterr().out
    monkeypatch.setattr(triton, "has_triton", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "C compiler" in (gpu.compile_obstacle() or "")
    (tmp_path / "gcc").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert "Python.h" in (gpu.compile_obstacle() or "")
    (tmp_path / "Python.h").write_text("", encoding="utf-8")
    assert gpu.compile_obstacle() is None
    assert decide(device="cuda", torch_compile=True).compile == "layers"


def test_auto_compiles_a_launch_bound_run_once_it_pays(one_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """llama-10M: 7 ms of launches a step; 25 s of compiling pay from 12,000 steps on, 6 s from 3,000."""
    one_gpu.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "empty"))
    assert decide(device="cuda", steps=11_000).compile == "off"
    assert decide(device="cuda", steps=14_000).compile == "layers"
    one_gpu.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    (tmp_path / "code").mkdir()
    assert decide(device="cuda", steps=2_500).compile == "off"
    assert decide(device="cuda", steps=3_500).compile == "layers"
    assert decide(device="cuda", steps=1_800, gradient_accumulation_steps=2).compile == "layers"
    assert gpu.compiling_saves(1.0, 1, 6, 4e16) == pytest.approx(100)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)."), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_out_of_memory_in_all_its_words(error: Exception, expected: bool) -> None:
    assert gpu.is_out_of_memory(error) is expected


def test_compile_errors_are_known_by_where_they_come_from() -> None:
    from torch._dynamo.exc import TorchDynamoException

    outer = RuntimeError("in a step")
    outer.__cause__ = TorchDynamoException("backend='inductor' raised")
    assert gpu.is_compile_error(outer)
    outer.__cause__.__cause__ = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert not gpu.is_compile_error(outer), "smaller parts, not a slower step"
    assert not gpu.is_compile_error(RuntimeError("shapes differ"))


# The decision on CUDA, and a resume


def test_on_cuda_attention_needs_no_mask(one_gpu: pytest.MonkeyPatch) -> None:
    assert decide(device="cuda").attention == "causal"
    assert decide(device="cuda", length=2048).attention == "causal"
    assert decide(device="cuda", attention="sdpa").attention == "sdpa"
    assert decide(device="cpu").attention == "eager"


SAVED_ON_CPU = Runtime("cpu", "fp32", "eager", "off", 1, muon_precision=None)


def test_an_explicit_device_wins_over_the_checkpoint(
    one_gpu: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decided = decide(device="cuda")
    assert rt.reuse(SAVED_ON_CPU, decided, TrainingConfig(device="cuda")) == decided
    assert "device: cpu -> cuda, as training.device says: the resume is not bit-exact" in capsys.readouterr().out
    assert rt.reuse(SAVED_ON_CPU, decided, TrainingConfig()) == SAVED_ON_CPU
    assert "--device cuda moves it" in capsys.readouterr().out


def test_other_keys_that_are_set_win_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    decided = replace(SAVED_ON_CPU, precision="bf16", attention="sdpa")
    training = TrainingConfig(device="cpu", attention="sdpa")
    assert rt.reuse(SAVED_ON_CPU, decided, training) == replace(SAVED_ON_CPU, attention="sdpa")
    assert "attention eager -> sdpa, as set: the resume is not bit-exact" in capsys.readouterr().out
    assert rt.reuse(SAVED_ON_CPU, decided, TrainingConfig(bf16=True)).precision == "bf16"
    fewer = replace(SAVED_ON_CPU, threads=SAVED_ON_CPU.threads + 1)
    assert rt.reuse(fewer, SAVED_ON_CPU, TrainingConfig(threads=SAVED_ON_CPU.threads)).threads == SAVED_ON_CPU.threads
    assert rt.reuse(SAVED_ON_CPU, decided, TrainingConfig()) == SAVED_ON_CPU
    assert rt.reuse(None, decided, TrainingConfig()) == decided


@pytest.mark.parametrize("saved", ["bf16", "fp16"])
def test_a_card_without_bf16_goes_on_in_half_precision_and_says_so(
    one_gpu: pytest.MonkeyPatch, saved: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Colab's change of cards: a run that an A100 began in bf16, a T4 only emulates it."""
    began = replace(decide(device="cuda"), precision=saved, muon_precision=None)
    one_gpu.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    decided = replace(decide(device="cuda"), muon_precision=None)
    assert rt.reuse(began, decided, TrainingConfig()).precision == "fp16"
    assert ("cannot compute as the checkpoint did" in capsys.readouterr().out) == (saved == "bf16")
    assert decide(device="cuda", bf16=True).precision == "bf16"
    assert "bf16 is slow on this cuda" in capsys.readouterr().out


def test_a_resume_records_no_step_where_a_new_run_would_not(one_gpu: pytest.MonkeyPatch) -> None:
    began = decide(device="cuda")
    assert began.graphs
    halved = decide(device="cuda", batch_size=32, gradient_accumulation_steps=2)
    assert not rt.reuse(began, halved, TrainingConfig()).graphs
    assert not rt.reuse(began, replace(began, processes=2, graphs=False), TrainingConfig()).graphs
    assert rt.reuse(began, began, TrainingConfig()).graphs


@pytest.mark.parametrize(
    ("taken", "wanted", "recorded"), [("causal", "auto", True), ("eager", "auto", False), ("eager", True, True)]
)
def test_steps_are_recorded_where_the_model_takes_causal_attention(
    one_gpu: pytest.MonkeyPatch, taken: str, wanted: Any, recorded: bool
) -> None:
    one_gpu.setattr(compiled_layers, "set_attention", lambda model, name: taken)
    found = taken_by(None, decide(device="cuda", cuda_graphs=wanted), TrainingConfig(cuda_graphs=wanted))
    assert (found.attention, found.graphs) == (taken, recorded)


def test_what_a_training_froze_goes_before_the_next_attempt() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    held = Cycle()
    seen = weakref.ref(held)
    CollectSeldom().on_train_begin(None, None, None)
    try:
        del held
        gpu.free_gpu_memory()
        assert seen() is None
    finally:
        gc.unfreeze()
        gc.enable()


def test_another_card_of_the_machine_is_no_change(one_gpu: pytest.MonkeyPatch) -> None:
    decided = decide(device="cuda")
    assert rt.reuse(replace(decided, device="cuda:1"), decided, TrainingConfig(device="cuda")) == decided


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2", "tiny_gptj"])
def test_causal_attention_is_sdpa_and_asks_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    """Same numbers as sdpa; Transformers' search for packed sequences, a wait for the GPU, is never made."""
    import copy

    from transformers import masking_utils

    from babyllama.models.compiled_layers import set_attention

    model = copy.deepcopy(request.getfixturevalue(kind))
    ids = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    assert set_attention(model, "sdpa") in ("sdpa", "eager")
    wanted = model(input_ids=ids, use_cache=False).logits
    used = set_attention(model, "causal")
    if used != "causal":
        pytest.skip(f"this transformers gives {kind} no choice of attention: {used}")
    searched: list[int] = []
    original = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda *a, **k: searched.append(1) or original(*a, **k)
    try:
        found = model(input_ids=ids, use_cache=False).logits
    finally:
        masking_utils.find_packed_sequence_indices = original
    assert torch.equal(found, wanted)
    assert not searched


def test_the_attention_that_a_model_takes_is_what_is_recorded(tiny_llama: Any) -> None:
    import copy

    from babyllama.models.compiled_layers import set_attention

    model = copy.deepcopy(tiny_llama)
    assert set_attention(model, "plain") == "plain"
    model._supports_attention_backend = False
    assert set_attention(model, "plain") == "eager"
    assert set_attention(model, "causal") == "sdpa"
    model.set_attn_implementation = lambda name: None  # GPT-J before transformers 5.24
    assert set_attention(model, "eager") == "sdpa"


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        (H100, 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 836e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA A10", 125e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GeForce RTX 5090", 210e12),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", None),
    ],
)
def test_a_cards_peak_goes_by_whole_words(name: str, rate: float | None) -> None:
    from babyllama.models.flops import peak_of

    assert peak_of(name) == rate
