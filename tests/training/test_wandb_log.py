"""W&B: reached through the proxy that the environment names, closed as the pinned version wants it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from babyllama.config.schema import Config
from babyllama.training.live.wandb_log import WandbLog, proxy_for, wandb_mode


def test_the_proxy_is_what_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster whose only way out is a proxy a bare connection to the address fails: W&B was always offline."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY", "HTTP_PROXY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.invalid")
    import wandb

    wandb.teardown()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=server.accept, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        assert proxy_for("https://wandb.invalid") == f"http://127.0.0.1:{port}"
        assert wandb_mode() == ("online", "connected")
    monkeypatch.setenv("NO_PROXY", "wandb.invalid")
    assert proxy_for("https://wandb.invalid") is None
    assert wandb_mode()[0] == "offline"
    wandb.teardown()


@pytest.mark.parametrize(
    ("named", "asked"), [("127.0.0.1:{port}", None), ("http://127.0.0.1", ("127.0.0.1", 80)), ("squid", ("squid", 80))]
)
def test_a_proxy_is_asked_where_it_listens(
    monkeypatch: pytest.MonkeyPatch, named: str, asked: tuple[str, int] | None
) -> None:
    """`HTTPS_PROXY=proxy:3128` has no scheme: its host was None, and W&B always offline; port 443 was guessed."""
    import wandb

    from babyllama.training.live import wandb_log

    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY", "HTTP_PROXY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.invalid")
    wandb.teardown()
    seen: list[tuple[str, int]] = []
    real = socket.create_connection

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        seen.append(address)
        return real(("127.0.0.1", port), timeout)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(wandb_log.socket, "create_connection", connect)
        monkeypatch.setenv("HTTPS_PROXY", named.format(port=port))
        assert wandb_mode() == ("online", "connected")
    assert seen == [asked or ("127.0.0.1", port)]
    wandb.teardown()


@pytest.mark.integration
def test_the_pinned_version_is_closed_without_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = WandbLog(Config(model={"type": "Llama"}), tmp_path)
    log._start()
    assert log.run is not None
    log.finish({"eval_bits_per_byte": 1.0})
    assert log.run is None
    said = capsys.readouterr()
    assert "not closed cleanly" not in said.out + said.err
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_an_error_of_several_lines_is_told_in_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __init__(self) -> None:
            self.summary: dict[str, float] = {}

        def finish(self) -> None:
            raise RuntimeError("first\nsecond\nthird")

    log = WandbLog(Config(model={"type": "Llama"}), tmp_path)
    log.run = Broken()
    log.finish()
    assert capsys.readouterr().err.strip().splitlines() == ["wandb: not closed cleanly (RuntimeError: first)"]
