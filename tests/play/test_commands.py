"""`generate` and `play` as commands: what they print, what they refuse, how they end."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import main
from babyllama.common.command import run_command
from babyllama.common.console import printable
from babyllama.play.writer import Writer, WritingSettings

ROOT = Path(__file__).resolve().parents[2]


def test_generate_streams_the_text_and_takes_all_settings(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["generate", str(tiny_run), "--prompt", "The dog", "--max-new-tokens", "12", "--device", "cpu"]
    assert main.main(base) == 0
    pieces = Writer(tiny_run, "cpu").write("The dog", WritingSettings(max_new_tokens=12))
    whole = printable("".join(piece.text for piece in pieces))
    assert capsys.readouterr().out == f"The dog{whole}\n\n"
    more = ["--top-k", "0", "--top-p", "0.9", "--min-p", "0.01", "--repetition-penalty", "1.1", "--seed", "3"]
    assert main.main([*base, *more]) == 0
    first = capsys.readouterr().out
    assert main.main([*base, *more]) == 0
    assert capsys.readouterr().out == first != f"The dog{whole}\n\n"
    assert main.main([*base, "--num-samples", "2", "--stop", whole[2:4]]) == 0
    assert capsys.readouterr().out.count("The dog") == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "RUN", "--top-p", "1.5"], "top-p"),
        (["generate", "RUN", "--repetition-penalty", "0"], "repetition-penalty"),
        (["generate", "nowhere"], "no such checkpoint"),
        (["play", "RUN", "RUN", "RUN"], "side by side"),
        (["play", "RUN", "--port", "70000"], "65535"),
    ],
)
def test_wrong_arguments_are_one_line(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    given = [str(tiny_run) if word == "RUN" else word for word in arguments]
    assert run_command(main.main, [*given, "--device", "cpu"]) in {2, 3}
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no Ctrl-C to a single process")
def test_play_serves_until_it_is_interrupted(tiny_run: Path) -> None:
    command = [sys.executable, "main.py", "play", str(tiny_run), "--port", "0", "--device", "cpu", "--seed", "41"]

    def hear_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job, as the tests may be, ignores Ctrl-C

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=hear_interrupts, **streams)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        assert 'value="41"' in page
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
        assert "Traceback" not in rest
        assert process.returncode == 0
    finally:
        process.kill()


def test_play_computes_nothing_in_the_main_thread(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's helpers of the main thread would slow each request's own down to a third."""
    from babyllama.play.server import PlayServer

    seen: list[bool] = []
    warm_up = Writer.warm_up

    def noted(self: Writer) -> float:
        seen.append(threading.current_thread() is threading.main_thread())
        return warm_up(self)

    def interrupted(self: PlayServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "warm_up", noted)
    monkeypatch.setattr(PlayServer, "serve_forever", interrupted)
    assert main.main(["play", str(tiny_run), str(tiny_run), "--port", "0", "--device", "cpu"]) == 0
    assert seen == [False, False]
