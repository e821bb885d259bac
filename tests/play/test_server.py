"""The page over real HTTP: what it sends, whom it refuses, and that Stop stops."""

from __future__ import annotations

import http.client
import json
import math
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from babyllama.common.errors import ConfigError
from babyllama.evaluation.log_probs import token_log_probs
from babyllama.evaluation.surprisal.scores import score_texts
from babyllama.play.colouring import colour
from babyllama.play.server import PlayServer
from babyllama.play.writer import Writer, WritingSettings, settings_from

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tiny_run: Path) -> Iterator[PlayServer]:
    writer = Writer(tiny_run, "cpu")
    with PlayServer([writer, writer], 0, WritingSettings(stop=("</textarea><script>",))) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def _ask(server: PlayServer, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
    connection.request(method, path, data, sent)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def _events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_page_brings_all_it_needs_and_allows_nothing_else(server: PlayServer) -> None:
    status, page, headers = _ask(server, "GET", "/")
    assert status == 200
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
        assert rule in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert not re.search(r"(src|href)=\"?(https?:)?//", page)
    assert not re.search(r"<script(?! src=\"play.js\")", page), "a script inside the page would be refused"
    assert "&lt;/textarea&gt;&lt;script&gt;" in page
    for path, kind in (("/play.js", "javascript"), ("/play.css", "css")):
        status, text, headers = _ask(server, "GET", path)
        assert (status, kind in headers["Content-Type"]) == (200, True)
        assert "innerHTML" not in text
        assert "http" not in text.replace("https://", "")
    assert _ask(server, "GET", "/../pyproject.toml")[0] == 404


def test_text_arrives_in_pieces_that_join_to_the_whole(server: PlayServer) -> None:
    settings = {"max_new_tokens": 20, "seed": 3, "temperature": 0.9}
    body = {"run": 1, "prompt": "The <script>alert(1)</script> dog", "settings": settings}
    status, text, headers = _ask(server, "POST", "/write", body, **JSON)
    events = _events(text)
    assert (status, headers.get_content_type()) == (200, "text/event-stream")
    assert [name for name, _ in events][-1] == "end"
    assert events[-1][1]["tokens"] <= 20
    assert sum(name == "text" for name, _ in events) > 5
    wanted = server.writers[1].write(body["prompt"], WritingSettings(max_new_tokens=20, seed=3))
    again = "".join(data["text"] for name, data in events if name == "text")
    from babyllama.models.decoding.sampling import Sampling

    wanted = server.writers[1].write(body["prompt"], WritingSettings(Sampling(0.9), 20, seed=3))
    assert again == "".join(piece.text for piece in wanted)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_what_is_not_this_page_is_refused(server: PlayServer, headers: dict[str, str]) -> None:
    assert _ask(server, "POST", "/write", {"prompt": "x"}, **JSON, **headers)[0] == 403
    assert _ask(server, "POST", "/surprisal", {"text": "x"}, **JSON, **headers)[0] == 403
    assert _ask(server, "GET", "/", **headers)[0] == 403


def test_the_page_itself_is_let_in(server: PlayServer) -> None:
    for name in server.hosts:
        own = {"Host": name, "Origin": f"http://{name}", "Sec_Fetch_Site": "same-origin"}
        assert _ask(server, "POST", "/surprisal", {"text": "The dog"}, **JSON, **own)[0] == 200
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "named"),
    [
        ("/write", {"prompt": "x"}, {"Content-Type": "text/plain"}, 400, "application/json"),
        ("/write", "{", JSON, 400, "no JSON"),
        ("/write", [1], JSON, 400, "object"),
        ("/write", {"run": 2, "prompt": "x"}, JSON, 400, "run 2"),
        ("/write", {"prompt": 5}, JSON, 400, "prompt"),
        ("/write", {"prompt": "x", "settings": {"top_p": 3}}, JSON, 400, "top-p"),
        ("/write", {"prompt": "x", "settings": [1]}, JSON, 400, "settings"),
        ("/write", '{"prompt": "x", "settings": {"seed": Infinity}}', JSON, 400, "seed"),
        ("/write", '{"prompt": "x", "settings": {"top_k": NaN}}', JSON, 400, "top-k"),
        ("/write", '{"prompt": "x", "settings": {"temperature": 1' + "0" * 400 + "}}", JSON, 400, "temperature"),
        ("/write", "[" * 200_000, JSON, 400, "no JSON"),
        ("/write", {"prompt": "x"}, JSON | {"Content_Length": "\u00b2"}, 400, "1,000,000 bytes"),
        ("/surprisal", {"text": "x" * 200_000}, JSON, 400, "100,000 characters"),
        ("/write", "x" * 1_100_000, JSON, 400, "1,000,000 bytes"),
        ("/other", {}, JSON, 404, "nothing here"),
    ],
)
def test_wrong_requests_get_one_line(
    server: PlayServer, path: str, body: Any, headers: dict[str, str], status: int, named: str
) -> None:
    found, text, _ = _ask(server, "POST", path, body, **headers)
    assert found == status
    assert named in json.loads(text)["error"]
    assert "\n" not in json.loads(text)["error"]


def test_lone_surrogates_are_no_reason_to_fall_over(server: PlayServer) -> None:
    status, text, _ = _ask(server, "POST", "/surprisal", '{"text": "a \\ud83d b"}', **JSON)
    assert status == 200
    assert "".join(piece["text"] for piece in json.loads(text)["pieces"]) == "a ? b"


def test_closing_the_connection_stops_the_writing(server: PlayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop in the page aborts its request: the model has to stop, too."""
    made: list[int] = []
    from babyllama.play import writer as module

    real = module.TextStream.push

    def counted(self: Any, token: int) -> str:
        made.append(token)
        time.sleep(0.01)
        return real(self, token)

    greedy = {"max_new_tokens": 600, "temperature": 0}  # greedily this model never ends
    *_, last = server.writers[0].write("The", settings_from(greedy))
    assert last.ended == "length"
    monkeypatch.setattr(module.TextStream, "push", counted)
    body = json.dumps({"prompt": "The", "settings": greedy | {"max_new_tokens": 5000}}).encode()
    head = f"POST /write HTTP/1.1\r\nHost: {server.hosts[0]}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        while received.count(b"event: text") < 3:
            received += connection.recv(4096)
    deadline = time.monotonic() + 20
    before = -1
    while before != len(made) and time.monotonic() < deadline:
        before = len(made)
        time.sleep(0.5)
    assert 3 <= before < 600, f"{before} tokens were written: it did not stop"


def test_colours_are_our_log_probabilities(server: PlayServer) -> None:
    writer = server.writers[0]
    text = "The little dog ran to the old house. naïve 日本 🦙 <b>x</b>\n\n end"
    found = colour(writer, text)
    tokens = [token for piece in found["pieces"] for token in piece["tokens"]]
    assert "".join(piece["text"] for piece in found["pieces"]) == text
    assert found["bits"] == pytest.approx(sum(piece["bits"] or 0 for piece in found["pieces"]))
    bits = score_texts(writer.model, writer.tokenizer, [text], window=writer.window)[0].bits
    assert [token["bits"] for token in tokens] == pytest.approx(list(bits), abs=1e-4)

    ids = writer.tokenizer(text, add_special_tokens=False)["input_ids"]
    given = torch.tensor([[writer.tokenizer.bos_token_id, *ids[:-1]]])
    nats = token_log_probs(writer.model, given, torch.tensor([ids]))[0].tolist()
    assert [token["bits"] * math.log(2) for token in tokens] == pytest.approx([-nat for nat in nats], abs=1e-4)
    with torch.no_grad():
        logits = writer.model(given).logits[0]
    for token, row, target in zip(tokens, logits, ids, strict=True):
        order = row.argsort(descending=True).tolist()
        assert order[token["rank"] - 1] == target
        assert [share for _, share in token["likeliest"]] == pytest.approx(row.softmax(0)[order[:5]].tolist(), abs=1e-5)


def test_a_long_text_is_rolled_through(server: PlayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = server.writers[0]
    monkeypatch.setattr(writer, "window", 16)
    text = "The little dog ran to the old house near the river. " * 4
    found = colour(writer, text)
    bits = score_texts(writer.model, writer.tokenizer, [text], window=16)[0].bits
    assert found["bits"] == pytest.approx(float(bits.sum()), abs=1e-3)
    assert "".join(piece["text"] for piece in found["pieces"]) == text
    assert colour(writer, "") == {"pieces": [], "bits": 0, "tokens": 0, "bytes": 0}


def test_no_name_server_is_asked(server: PlayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a name was looked up")

    for name in ("getfqdn", "gethostbyaddr", "gethostbyname"):
        monkeypatch.setattr(socket, name, asked)
    with PlayServer(server.writers, 0, WritingSettings()) as made:
        assert made.server_address[0] == "127.0.0.1"
        assert made.server_port == made.port


def test_a_taken_port_is_told(server: PlayServer) -> None:
    with pytest.raises(ConfigError, match="--port 0 takes a free one"):
        PlayServer(server.writers, server.port, WritingSettings())
