"""Files are whole or absent, JSON is strict, the terminal gets no control codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from babyllama.common.console import printable, progress
from babyllama.common.files import atomic_path, read_json, to_json, write_json, write_text_atomic


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), np.float32(1.5)], 3: np.array([1, 2])})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [None, 1.5], "3": [1, 2]}


def test_json_has_no_bare_nan_for_strict_parsers() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(to_json([float("nan")]), parse_constant=refuse) == [None]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text_atomic(target, "old\n")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text(str(1 / 0), encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_control_codes_are_stripped_and_text_is_kept() -> None:
    assert printable("a\x1b[31mb\x07\tc\nd\x9bé") == "a[31mb\tc\ndé"


def test_progress_passes_everything_through() -> None:
    assert list(progress([1, 2, 3], "counting")) == [1, 2, 3]
