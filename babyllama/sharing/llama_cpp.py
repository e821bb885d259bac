"""Read a GGUF file with llama.cpp itself: the ids of a text, and the log-probabilities after a prefix.

llama.cpp comes with the optional package xllamacpp. Its only door is a server, which is started inside this process on
127.0.0.1 and asked over HTTP; it ends with the object. The cache of keys and values is float32 and flash
attention is off, so that what differs from transformers is the file and not the cache's rounding.
"""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

FORCE = 1e9  # a logit bias that no other token can outweigh


def is_installed() -> bool:
    """Return whether llama.cpp can be used here."""
    from importlib.util import find_spec

    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """A GGUF file in llama.cpp.

    Args:
        path: The file.
        vocab_size: Tokens of its vocabulary.
        context: Positions to keep.
    """

    name = "llama.cpp"

    def __init__(self, path: Path, vocab_size: int, context: int) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup = context, 1, False
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.hostnames, parameters.port, parameters.verbosity = ["127.0.0.1"], 0, -1
        # Its threads spin while they wait for each other: more than the free cores slow a small model a hundredfold.
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
        self._server = xllamacpp.Server(parameters)
        self._address = self._server.listening_address
        self.vocab_size = vocab_size
        self._letter = self.encode("a")[-1]

    def encode(self, text: str) -> list[int]:
        """Return ids of a text with what the file puts in front; special tokens in the text are text."""
        body = {"content": text, "add_special": True, "parse_special": False}
        return self._post("/tokenize", body)["tokens"]

    def log_probs(self, prefix: list[int]) -> np.ndarray:
        """(V,) natural log-probabilities of every token after a prefix of ids."""
        answer = self._after(prefix, self._letter, self.vocab_size)
        assert answer is not None, "a letter is a whole character"
        found = np.full(self.vocab_size, np.nan)
        for entry in answer["top_logprobs"]:
            found[entry["id"]] = entry["logprob"]
        return found

    def log_prob(self, prefix: list[int], token: int) -> float:
        """Natural log-probability of one token after a prefix; a prefix one longer than the last is read on from it."""
        answer = self._after(prefix, token, 1)
        if answer is None:
            return float(self.log_probs(prefix)[token])
        return answer["logprob"]

    def _after(self, prefix: list[int], token: int, count: int) -> dict[str, Any] | None:
        """Return the model's probabilities where `token` is written after a prefix.

        The bias that forces the token changes which one is written, not the probabilities that are reported. The server
        reports none for an end token and for a piece of a character; None stands for that.
        """
        body = {
            "prompt": prefix,
            "n_predict": 1,
            "cache_prompt": True,
            "n_probs": count,
            "logit_bias": [[token, FORCE]],
        }
        found = self._post("/completion", body).get("completion_probabilities")
        if found and found[0]["id"] != token:
            raise RuntimeError(f"llama.cpp wrote token {found[0]['id']} although {token} was forced")
        return found[0] if found else None

    def _post(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, json.dumps(body).encode(), headers)
        # No proxy: the server is in this process.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return json.load(answer)
