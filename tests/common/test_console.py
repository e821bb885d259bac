"""Progress where nobody looks at a terminal: a line now and then, none for short work."""

from __future__ import annotations

import pytest

from babyllama.common import console
from babyllama.common.console import transfer


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (300_000_000, "reading: 100 of 300 MB, 10.0 MB/s, 0 min 20 s left"),
        (None, "reading: 100 MB, 10.0 MB/s"),
        (50_000_000, "reading: 100 MB, 10.0 MB/s"),
    ],
)
def test_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], total: int | None, expected: str
) -> None:
    clock = iter([0.0, 4.0, 10.0, 15.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with transfer("reading", total) as seen:
        seen(40_000_000)
        seen(60_000_000)
        seen(1)
    assert capsys.readouterr().out.splitlines() == [expected]


def test_other_processes_are_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    with transfer("reading", 10) as seen:
        seen(5)
    assert capsys.readouterr().out == ""
