"""Whatever a user's folder holds, only its text is trained on, and what is left out is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from babyllama.common.errors import DataError
from babyllama.data.sources import find_files, has_dev_files, left_out


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"The text of {name}.\n", encoding="utf-8")
    return folder


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize(
    "hidden", [".git/objects/aa/b.txt", ".venv/lib/x/LICENSE.txt", "env/lib/x.txt", "sub/.cache/a/b/c.txt"]
)
def test_hidden_and_programs_folders_are_no_corpus(tmp_path: Path, hidden: str) -> None:
    fill(tmp_path, "a.txt", hidden)
    if hidden.startswith("env"):
        fill(tmp_path, "env/pyvenv.cfg")
    assert names(find_files(str(tmp_path), "train")) == ["a.txt"]
    assert any("hidden" in line for line in left_out(str(tmp_path), own_eval=True))


def test_a_hidden_folder_that_the_user_names_is_read(tmp_path: Path) -> None:
    fill(tmp_path / ".corpus", "a.txt", "sub/b.txt")
    assert names(find_files(str(tmp_path / ".corpus"), "train")) == ["a.txt", "b.txt"]


def test_splits_of_other_tools_are_not_trained_on(tmp_path: Path) -> None:
    fill(tmp_path, "c.txt", "c.valid", "c.test", "README.md")
    assert names(find_files(str(tmp_path), "train")) == ["c.txt"]
    assert has_dev_files(str(tmp_path))
    assert names(find_files(str(tmp_path), "eval")) == ["c.valid"]
    told = " ".join(left_out(str(tmp_path), own_eval=True))
    assert "c.test" in told
    assert "README.md" in told


def test_a_dev_file_beside_plain_text_is_held_out(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "b.dev")
    assert names(find_files(str(tmp_path), "train")) == ["a.txt"]
    assert names(find_files(str(tmp_path), "eval")) == ["b.dev"]


def test_a_dev_file_in_a_hidden_folder_is_none(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", ".ipynb_checkpoints/a.dev")
    assert not has_dev_files(str(tmp_path))


@pytest.mark.parametrize("only", ["test.txt", "README.md", "valid.txt"])
def test_a_folder_of_one_file_is_text_whatever_its_name(tmp_path: Path, only: str) -> None:
    fill(tmp_path, only)
    split = "eval" if only.startswith("valid") else "train"
    assert names(find_files(str(tmp_path), split)) == [only]


def test_a_run_and_wandb_are_never_corpus(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "models/run/log_history.jsonl", "models/run/README.md", "models/run/notes.txt")
    fill(tmp_path, "models/run/run_fingerprint.json", "wandb/run-1/files/output.txt", "wandb_id.txt")
    fill(tmp_path, "generation_samples.txt")
    assert names(find_files(str(tmp_path), "train")) == ["a.txt"]
    with pytest.raises(DataError, match="a run folder, not a corpus"):
        find_files(str(tmp_path / "models" / "run"), "train")


def test_what_stays_beside_train_files_is_told(tmp_path: Path) -> None:
    fill(tmp_path, "a.train", "b.txt", "c.pdf")
    assert names(find_files(str(tmp_path), "train")) == ["a.train"]
    told = " ".join(left_out(str(tmp_path), own_eval=True))
    assert "b.txt" in told
    assert "c.pdf" in told


def test_a_link_to_the_folder_around_ends(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "sub/b.txt")
    (tmp_path / "sub" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert names(find_files(str(tmp_path), "train")) == ["a.txt", "b.txt"]
