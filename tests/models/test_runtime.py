"""Decisions of the runtime: what the config asks for, what the machine can do, and the line that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from babyllama import SPINS
from babyllama.common.cache_folders import cache_home
from babyllama.common.errors import ConfigError
from babyllama.config.schema import Config
from babyllama.models import runtime as rt
from babyllama.models.structure import decoder_layers

ROOT = Path(__file__).resolve().parents[2]


def _config(seq_length: int = 128, **training: Any) -> Config:
    return Config(model={"type": "Llama"}, data={"seq_length": seq_length}, training={"device": "cpu", **training})


def _decide(config: Config, steps: int = 10) -> rt.Runtime:
    return rt.decide(config, total_steps=steps, num_parameters=10_000_000)


def test_both_precisions_off_is_float32() -> None:
    assert _decide(_config(fp16=False, bf16=False)).precision == "fp32"


def test_threads_are_torchs_or_the_configs() -> None:
    assert _decide(_config()).threads == torch.get_num_threads()
    assert _decide(_config(threads=1)).threads == 1


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's libgomp")
def test_how_threads_wait_is_set_before_torch_is_loaded() -> None:
    """Nothing sets it once torch is there, so that it is set says that the root files load no torch before us."""
    code = "import os, train, evaluate, benchmark, main; print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {k: v for k, v in os.environ.items() if k not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    for given, told in ({}, SPINS), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "77"}, "77"):
        command = [sys.executable, "-c", code if not given else "import os, babyllama;" + code.split(";")[1]]
        done = subprocess.run(
            command, cwd=ROOT, env=environment | given, capture_output=True, encoding="utf-8", check=True
        )
        assert done.stdout.strip() == told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"GOMP_SPINCOUNT": SPINS}, "2 threads that sleep after 30,000 spins"),
        ({"GOMP_SPINCOUNT": "77", "OMP_WAIT_POLICY": "active"}, "2 threads (GOMP_SPINCOUNT=77)"),
        ({"OMP_WAIT_POLICY": "active"}, "2 threads (OMP_WAIT_POLICY=active)"),
        ({}, "2 threads"),
    ],
)
def test_the_line_says_how_threads_wait(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert rt.Runtime("cpu", "fp32", "eager", "off", 2).line().endswith(told)
    assert rt.Runtime("cpu", "fp32", "eager", "off", 1).line().endswith("1 threads")


def test_allocator_and_tf32_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    decided = _decide(_config(keep_freed_memory=False, tf32=False))
    assert (decided.keep_freed_memory, decided.tf32) == (False, False)
    assert "freed memory given back" in decided.line()
    asked = []
    monkeypatch.setattr(rt, "keep_freed_memory", lambda: asked.append(True))
    rt.apply(decided)
    assert not asked
    rt.apply(_decide(_config()))
    assert asked == [True]


def test_a_record_without_the_newer_choices_is_read() -> None:
    older = {k: v for k, v in _decide(_config()).to_dict().items() if k not in {"keep_freed_memory", "tf32"}}
    assert rt.Runtime(**older) == _decide(_config())


def test_fp16_without_a_gpu_runs_otherwise_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert _decide(_config(fp16=True)).precision in {"bf16", "fp32"}
    assert "fp16 needs a CUDA GPU" in capsys.readouterr().out


@pytest.mark.parametrize(("length", "attention"), [(128, "eager"), (512, "eager"), (1024, "sdpa")])
def test_attention_goes_by_length_on_cpu(length: int, attention: str) -> None:
    assert _decide(_config(length)).attention == attention


def test_a_short_run_is_not_compiled_and_a_long_one_is() -> None:
    assert _decide(_config(), steps=20).compile == "off"
    expected = "layers" if rt.has_cpp_compiler() else "off"
    assert _decide(_config(), steps=5000).compile == expected
    assert _decide(_config(torch_compile=False), steps=5000).compile == "off"


def test_without_a_compiler_nothing_is_compiled_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert _decide(_config(torch_compile=True), steps=5000).compile == "off"
    assert "no C++ compiler" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["cpu:x:y", "tpu", "cuda:99"])
def test_unknown_or_absent_devices_are_refused(device: str) -> None:
    if device.startswith("cpu"):
        assert rt.resolve_device(device) == device
        return
    with pytest.raises(ConfigError, match=r"training\.device"):
        rt.resolve_device(device)


def test_cuda_without_a_gpu_is_refused_with_the_way_out() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="--device cpu"):
        rt.resolve_device("cuda")


def test_the_runtime_survives_the_checkpoint() -> None:
    decided = _decide(_config())
    assert rt.Runtime(**decided.to_dict()) == decided
    assert rt.possible(decided)
    assert decided.line().startswith("runtime: cpu, ")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("BABYLLAMA_CACHE", str(tmp_path))
    assert cache_home() == tmp_path
    monkeypatch.delenv("BABYLLAMA_CACHE")
    assert cache_home().name == "babyllama"


def test_layers_of_the_three_architectures_are_found(tiny_llama: Any, tiny_gpt2: Any, tiny_gptj: Any) -> None:
    assert [len(decoder_layers(model)) for model in (tiny_llama, tiny_gpt2, tiny_gptj)] == [2, 2, 2]
    assert decoder_layers(torch.nn.Linear(2, 2)) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ATEN_CPU_CAPABILITY", "avx2"), ("ATEN_CPU_CAPABILITY", "default"), ("ONEDNN_MAX_CPU_ISA", "AVX2")],
)
def test_a_lowered_instruction_set_has_no_fast_bf16(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setattr(rt, "_processor_has_bf16", lambda: True)
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    assert rt.fast_low_precision("cpu") == torch.bfloat16
    monkeypatch.setenv(variable, value)
    assert rt.fast_low_precision("cpu") == torch.float32
    assert _decide(_config()).precision == "fp32"


def test_half_precision_keeps_compiled_code_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BABYLLAMA_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "put back afterwards")
    folders = set()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    for precision in ("bf16", "fp32", "fp16"):  # one after the other in a process
        rt.apply(rt.Runtime("cpu", precision, "eager", "layers", torch.get_num_threads(), keep_freed_memory=False))
        folders.add(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folders == {str(tmp_path / "inductor"), str(tmp_path / "inductor-fp16")}
