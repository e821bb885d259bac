"""`main.py prepare`: no text is lost, nothing of another's is replaced, every file is in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from babyllama.common.errors import ConfigError
from data_utils import clean_folder


def prepare(source: Path, output: Path, split: str = "train") -> list[str]:
    return list(clean_folder(str(source), output, split, None, "keep"))


@pytest.mark.parametrize(
    "files", [("wiki.part1.txt", "wiki.part2.txt"), ("x/wiki.txt", "y/wiki.txt"), ("wiki.train", "sub/wiki.train")]
)
def test_files_of_one_domain_all_arrive(tmp_path: Path, files: tuple[str, str]) -> None:
    for number, name in enumerate(files):
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Text number {number} stays.\n", encoding="utf-8")
    lines = prepare(tmp_path / "raw", tmp_path / "out")
    text = (tmp_path / "out" / "wiki.train").read_text(encoding="utf-8")
    assert "Text number 0 stays." in text
    assert "Text number 1 stays." in text
    assert "of 2 files" in lines[0]


def test_what_prepare_did_not_write_stays(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    (raw / "wiki.txt").write_text("New.\n", encoding="utf-8")
    (out / "wiki.train").write_text("mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not as this command wrote it"):
        prepare(raw, out)
    assert (out / "wiki.train").read_text(encoding="utf-8") == "mine\n"
    (out / "wiki.train").unlink()
    prepare(raw, out)
    prepare(raw, out)  # its own may be made anew
    (out / "wiki.train").write_text("edited\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not as this command wrote it"):
        prepare(raw, out)


def test_the_source_is_not_its_own_output(tmp_path: Path) -> None:
    (tmp_path / "wiki.train").write_text("Mine.\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="itself the text"):
        prepare(tmp_path, tmp_path)
    assert (tmp_path / "wiki.train").read_text(encoding="utf-8") == "Mine.\n"


def test_every_file_is_in_a_line(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("a.train", "b.txt", "c.pdf", "d.test"):
        (raw / name).write_text("Some text here.\n", encoding="utf-8")
    lines = " ".join(prepare(raw, tmp_path / "out"))
    assert all(name in lines for name in ("a.train", "b.txt", "c.pdf", "d.test"))
