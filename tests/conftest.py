"""Tiny real models, a real tokenizer and the real text's folder, shared by all tests. No mocks, no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest

TEXT = """The little dog ran to the old house near the river. It saw a cat and two birds in the tall tree.
"Come down!" said the dog. The cat did not come down. She looked at the dog and smiled.
Every morning the girl walks to school with her brother. They talk about books, games and the weather.
The boys who live next door never eat apples, but their sister eats three apples a day.
"""


@pytest.fixture(autouse=True, scope="session")
def _no_apple_gpu() -> None:
    """Take `auto` for the CPU: the virtual machines that tests run on show an Apple GPU that allocates nothing."""
    if sys.platform == "darwin":
        import torch

        torch.backends.mps.is_available = lambda: False


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test session's prepared data out of the user's cache."""
    monkeypatch.setenv("BABYLLAMA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE of at most 400 tokens with <pad>, <s>, </s>."""
    from babyllama.data.tokenizer import train_tokenizer

    return train_tokenizer([TEXT] * 3, 400)


def _tiny(kind: str, tokenizer: Any) -> Any:
    import torch

    from babyllama.config.schema import Config
    from babyllama.models.architectures import build_model

    torch.manual_seed(0)
    sizes = {"type": kind, "hidden_size": 32, "intermediate_size": 64, "n_layer": 2, "n_head": 2}
    return build_model(Config(model=sizes, data={"seq_length": 32}), tokenizer).eval()


@pytest.fixture(scope="session")
def tiny_llama(tiny_tokenizer: Any) -> Any:
    """A Llama with 2 layers of width 32, random weights of seed 0."""
    return _tiny("Llama", tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_tokenizer: Any) -> Any:
    """A GPT-2 with 2 layers of width 32, random weights of seed 0."""
    return _tiny("GPT2", tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_gptj(tiny_tokenizer: Any) -> Any:
    """A GPT-J with 2 layers of width 32, random weights of seed 0."""
    return _tiny("GPTJ", tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_run(tiny_llama: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny Llama and its tokenizer, as a user would find it. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny_run")
    tiny_llama.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real text and reference figures; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parent.parent / "../shared/data"
    folder = Path(os.environ.get("BABYLLAMA_TEST_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip("no test data: set BABYLLAMA_TEST_DATA to the folder of real text")
    return folder
