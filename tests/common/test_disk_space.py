"""Where a command writes is tried before anything is computed, and a user's own file is never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from babyllama.common.disk_space import check_output_file, check_output_folder
from babyllama.common.errors import ConfigError, DiskError
from babyllama.evaluation.surprisal.command import _is_table
from babyllama.sharing.export_command import _is_export


def is_ours(head: bytes) -> bool:
    return head.startswith(b"ours")


def test_only_its_like_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.csv"
    check_output_file(target, is_ours)
    assert not target.exists()
    target.write_text("ours, of yesterday", encoding="utf-8")
    check_output_file(target, is_ours)
    with pytest.raises(ConfigError, match="is itself read"):
        check_output_file(target, is_ours, [tmp_path / "new" / ".." / "new" / "out.csv"])
    target.write_text("precious", encoding="utf-8")
    with pytest.raises(ConfigError, match="not of this command's writing"):
        check_output_file(target, is_ours)
    with pytest.raises(ConfigError, match="a folder; a file is written"):
        check_output_file(tmp_path, is_ours)
    assert target.read_text(encoding="utf-8") == "precious"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match="a file; a folder is needed"):
        check_output_folder(tmp_path / "note.txt")
    with pytest.raises(DiskError, match=r"cannot be written.*Choose another --write"):
        check_output_folder(tmp_path / "note.txt" / "below", "--write")
    check_output_folder(tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_what_is_known_as_ours() -> None:
    assert _is_table(b"text,run,row,level,number,unit,start,end,tokens,bits,bits_corrected,length\nx")
    assert _is_table(b"item\ttext\trun\trow\tlevel\tnumber\tunit\tstart\tend\ttokens\tbits\tbits_corrected\tlength\n")
    assert not _is_table(b"text,region\nThe dog,1\n")
    assert _is_export(b"GGUF\x03...general.description..Trained from scratch, with BabyLlama")
    assert not _is_export(b"GGUF\x03...general.description..A model of mine")
