"""`transformers serve`, which needs no code of ours: the docs' command, asked on 127.0.0.1, writes what we write."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
PROMPT, TOKENS = "The little dog", 24


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _post(address: str, body: dict[str, Any]) -> str:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
        return answer.read().decode()


@pytest.fixture
def server(tiny_run: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="pip install 'transformers[serving]'")
    folder = tmp_path / "Tiny"
    shutil.copytree(tiny_run, folder)
    port = _free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + 180
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        yield address, folder
    finally:
        process.terminate()
        process.wait(30)


def test_greedy_text_and_its_stream_are_ours(server: tuple[str, Path]) -> None:
    from evaluate import ModelEvaluator

    address, folder = server
    evaluator = ModelEvaluator(folder, device="cpu")
    (ours,) = evaluator.generate([PROMPT], max_new_tokens=TOKENS, temperature=0)
    body = {"model": str(folder), "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    answer = json.loads(_post(address, body))
    assert answer["choices"][0]["text"] == ours
    events = [line.removeprefix("data: ") for line in _post(address, body | {"stream": True}).splitlines() if line]
    parts = [json.loads(event)["choices"] for event in events if event != "[DONE]"]
    # A random model's text may end within a character, which the stream holds back: on real text nothing is stripped.
    assert "".join(choice[0]["text"] for choice in parts if choice).rstrip("\ufffd") == ours.rstrip("\ufffd")
