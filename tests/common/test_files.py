"""Files are whole or absent, JSON is strict, the terminal gets no control codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from babyllama.common.console import printable, progress
from babyllama.common.files import (
    DIGESTS,
    Building,
    NotWhole,
    atomic_path,
    check_files,
    read_json,
    read_manifest,
    seal,
    to_json,
    write_json,
    write_text_atomic,
)


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


@pytest.mark.parametrize("digest", sorted(DIGESTS))
def test_a_sealed_folder_tells_what_is_not_as_it_was_written(tmp_path: Path, digest: str) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    for name in ("a", "inner/b"):
        (folder / name).write_bytes(name.encode() * 100)
    with pytest.raises(NotWhole, match="incomplete"):
        read_manifest(folder, "m.json")
    sealed = seal(folder, "m.json", {"rules": {"a": "lines"}}, digest)
    manifest = read_manifest(folder, "m.json")
    assert manifest == sealed
    assert set(manifest["files"]) == {"a", os.path.join("inner", "b")}
    check_files(folder, manifest)
    (folder / "a").write_bytes(b"b" * 100)
    check_files(folder, manifest, contents=False)
    with pytest.raises(NotWhole, match=f"a: damaged: its content is not what was written \\(its {digest} differs"):
        check_files(folder, manifest)
    (folder / "a").write_bytes(b"b")
    with pytest.raises(NotWhole, match="1 bytes, the manifest says 100"):
        check_files(folder, manifest, contents=False)
    (folder / "a").unlink()
    with pytest.raises(NotWhole, match="a: missing"):
        check_files(folder, manifest)
    text = (folder / "m.json").read_text(encoding="utf-8")
    (folder / "m.json").write_text(text.replace("lines", "linen"), encoding="utf-8")
    with pytest.raises(NotWhole, match="its content is not what was written"):
        read_manifest(folder, "m.json")


def test_a_folder_is_built_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("first", "second"):
        with Building(target) as temporary:
            (temporary / "text").write_text(content, encoding="utf-8")
        assert (target / "text").read_text(encoding="utf-8") == content
    with pytest.raises(FileNotFoundError), Building(target) as temporary:
        (temporary / "text").rename(temporary / "inner" / "text")
    assert (target / "text").read_text(encoding="utf-8") == "second"
    assert list(tmp_path.iterdir()) == [target]
