"""Models saved by words seen: the count by hand, folders that are whole, a resume that writes the same ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.common.files import read_json
from babyllama.config.loading import config_from_dict
from babyllama.config.schema import CurriculumConfig
from babyllama.data.epoch_order import shuffled
from babyllama.data.packing import PackedDataset
from babyllama.data.token_store import TokenSplit
from babyllama.research.milestones import saved_milestones, targets_of
from babyllama.research.word_counts import WordCounter, word_begins
from babyllama.training import checkpoints
from babyllama.training.run_folder import inspect_run
from tests.runs import config_for, corpus, weights
from train import train

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "The dog ran.\n\nIt's  old\t; don't you see?",
    " leading and trailing ",
    "x",
    "naïve café\u00a0au\u3000lait \u2014 日本 語",  # white space of two and three bytes
    "one\u2028two\x1cthree",
]


def split_of(texts: list[str], tokenizer: Any) -> TokenSplit:
    """The texts as the token store has them."""
    ids = [[1, *tokenizer.encode(text, add_special_tokens=False), 2] for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(document) for document in ids])]).astype(np.int64)
    words = np.array([len(text.split()) for text in texts], dtype=np.int64)
    return TokenSplit(np.concatenate(ids).astype(np.uint16), starts, words, words, words * 0, ["d"])


def test_words_begin_where_they_begin(tiny_tokenizer: Any) -> None:
    split = split_of(TEXTS, tiny_tokenizer)
    begins = word_begins(split, tiny_tokenizer)
    found = np.add.reduceat(begins, split.starts[:-1], dtype=np.int64)
    assert found.tolist() == [len(text.split()) for text in TEXTS]
    for number in (0, 1, 2):  # every beginning of these texts is that of the text read so far
        first, end = split.starts[number], split.starts[number + 1]
        for stop in range(first + 1, end):
            read = tiny_tokenizer.decode(split.tokens[first + 1 : stop])
            assert begins[first:stop].sum() == len(read.split()), (number, read)


def by_hand(texts: list[str], tokenizer: Any, packed: PackedDataset, epoch: int) -> list[int]:
    """Words of each chunk, counted in the decoded text: word k of the stream belongs to the chunk of its first byte."""
    packed.set_epoch(epoch)
    batch = packed.__getitems__(list(range(len(packed))))
    counts, space = [], True
    stream = []
    for row, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        stream.append([int(t) for t, label in zip(row, labels, strict=True) if label != -100])
    before = tokenizer.decode(stream[-1][-1:], skip_special_tokens=True)  # the stream goes round
    space = not before or before[-1].isspace()
    for chunk in stream:
        count = 0
        for token in chunk:
            text = tokenizer.decode([token], skip_special_tokens=True)
            for letter in text or " ":
                count += space and not letter.isspace()
                space = letter.isspace()
        counts.append(count)
    return counts


def test_words_of_chunks_equal_a_count_by_hand(tiny_tokenizer: Any) -> None:
    texts = ["The dog ran to the old house.", "She looked at the dog and smiled.", "Come down!"] * 4
    split = split_of(texts, tiny_tokenizer)
    packed = PackedDataset(split, 16, pad_id=0, seed=5, shuffle=True, random_offset=True, multiple_of=4)
    counter = WordCounter(packed, split, tiny_tokenizer)
    offsets = set()
    for epoch in range(4):
        offsets.add(packed.offset_of(epoch))
        assert counter.of_chunks(epoch).tolist() == by_hand(texts, tiny_tokenizer, packed, epoch)
        assert counter.of_chunks(epoch).sum() == sum(len(text.split()) for text in texts)
    assert len(offsets) > 1


def test_schedules_and_lists() -> None:
    assert targets_of("babylm-strict-small") == [n * 10**6 for n in [*range(1, 11), *range(20, 101, 10)]]
    assert targets_of("babylm-strict")[-10:] == [n * 10**8 for n in range(1, 11)]
    config = config_from_dict({"model": {"type": "Llama"}, "training": {"save_words": ["2M", "500k", 1000, "2M"]}})
    assert config.training.save_words == [1000, 500_000, 2_000_000]
    assert config_from_dict({"model": {"type": "Llama"}, "training": {"save_words": "1M"}}).training.save_words == [
        10**6
    ]
    with pytest.raises(ConfigError, match=r"no such schedule in config/milestones \(there: babylm-strict, "):
        targets_of("babylm")
    with pytest.raises(ConfigError, match=r"training\.save_words: .*'1 Mio' is not a count"):
        config_from_dict({"model": {"type": "Llama"}, "training": {"save_words": ["1 Mio"]}})


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small", 600)


def folder_hashes(run: Path) -> dict[str, str]:
    """Every file of every milestone."""
    files = sorted(path for folder in run.glob("chck_*") for path in folder.iterdir())
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# bf16, because saving once took the autocast off the model that went on training: seen only in mixed precision.
RECIPE = {
    "bf16": True,
    "max_steps": None,
    "num_epochs": 2,
    "save_steps": 20,
    "save_words": ["1k", "4k", "9k", "12k", "1M"],
}


@pytest.mark.integration
@pytest.mark.parametrize("curriculum", [None, CurriculumConfig(difficulty="length", full_at=0.7)])
def test_milestones_are_counted_saved_and_written_again_by_a_resume(
    curriculum: CurriculumConfig | None, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(text, tmp_path, **RECIPE)
    config.curriculum, config.training.save_total_limit = curriculum, 9
    run = train(config).run_dir
    told = capsys.readouterr().out
    assert "milestones beyond this run's" in told
    found = [milestone for _, milestone in saved_milestones(run)]
    assert [m.name for m in found] == ["chck_1k", "chck_4k", "chck_9k", "chck_12k"]
    if curriculum is None:
        _count_again(config, found)
        unsaved = config_for(text, tmp_path, name="unsaved", **{**RECIPE, "save_words": None})
        assert weights(train(unsaved).run_dir) == weights(run), "saving changes nothing"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for folder, milestone in saved_milestones(run):
        assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0
        assert AutoTokenizer.from_pretrained(folder)("The dog")["input_ids"]
        assert milestone.target <= milestone.words < milestone.target + 8 * 32
    before = folder_hashes(run)
    for folder in (run / "chck_12k", *run.glob("checkpoint-*")):  # as if killed behind step 40
        if folder.name not in {"checkpoint-20", "checkpoint-40"}:
            shutil.rmtree(folder)
    (run / ".chck_12k.building").mkdir()
    (run / ".chck_12k.building" / "model.safetensors").write_bytes(b"half")
    for name in ("model.safetensors", "training_metrics.json"):
        (run / name).unlink()
    train(config, resume=True)
    assert folder_hashes(run) == before
    assert not list(run.glob(".chck_*"))


def _count_again(config: Any, found: list[Any]) -> None:
    """The words of the steps, from the decoded chunks in the order that the training took."""
    from data_utils import DataProcessor

    data = DataProcessor(config.data).prepare()
    seed, size = config.training.seed, config.training.batch_size
    packed = PackedDataset(data.train, 32, pad_id=0, seed=seed, shuffle=True, random_offset=True, multiple_of=size)
    words, steps = 0, {}
    for epoch in range(2):
        chunks = by_hand([], data.tokenizer, packed, epoch)
        order = shuffled(len(packed), seed, epoch)
        for start in range(0, len(order), size):
            words += sum(chunks[i] for i in order[start : start + size])
            steps[len(steps) + 1] = words
    assert words == 2 * data.train_words
    for milestone in found:
        assert steps[milestone.step] == milestone.words
        assert steps[milestone.step - 1] < milestone.target <= milestone.words


@pytest.mark.integration
def test_the_order_that_is_counted_is_the_order_that_is_trained(text: Path, tmp_path: Path) -> None:
    """The batches that the Trainer really draws, with accumulation and over an epoch's end."""
    from babyllama.data.packing import PackedDataset as Watched

    drawn: list[tuple[int, list[int]]] = []
    plain = Watched.__getitems__

    def watch(self: Any, indices: list[int]) -> Any:
        if self.chunks > 50:  # not the held-out set
            drawn.append((self.epoch, list(indices)))
        return plain(self, indices)

    Watched.__getitems__ = watch  # type: ignore[method-assign]
    try:
        config = config_for(text, tmp_path, max_steps=None, num_epochs=1.5, gradient_accumulation_steps=2)
        train(config)
    finally:
        Watched.__getitems__ = plain  # type: ignore[method-assign]
    chunks = {epoch: [i for e, batch in drawn if e == epoch for i in batch] for epoch in (0, 1)}
    assert chunks[0] == shuffled(len(chunks[0]), 42, 0).tolist()
    assert chunks[1] == shuffled(len(chunks[0]), 42, 1).tolist()[: len(chunks[1])]
    assert len(chunks[1]) >= len(chunks[0]) // 2


@pytest.mark.integration
def test_a_kill_leaves_no_half_written_milestone(text: Path, tmp_path: Path) -> None:
    """SIGKILL while one is written, then between two of them: whole folders only, and the resume has them all."""
    code = (
        "import os, sys; from pathlib import Path; from tests.runs import config_for; from train import train\n"
        "from babyllama.research import milestones\n"
        "from tests.research.test_milestones import RECIPE\n"
        "text, out, at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])\n"
        "count, plain = 0, milestones.write_json\n"
        "def dying(path, value):\n"
        "    global count\n    plain(path, value)\n    count += 1\n"
        "    if count == at: os.kill(os.getpid(), 9)\n"
        "milestones.write_json = dying\n"
        "train(config_for(text, out, **RECIPE), resume=len(sys.argv) > 4)\n"
    )
    clean = train(config_for(text, tmp_path / "clean", **RECIPE)).run_dir
    for number, at in enumerate((2, 1)):
        command = [sys.executable, "-c", code, str(text), str(tmp_path / "killed"), str(at), *["resume"][:number]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", env={**os.environ})
        assert done.returncode == -signal.SIGKILL, done.stderr
        run = tmp_path / "killed" / "run"
        whole, found = folder_hashes(clean), folder_hashes(run)
        same = [name for name, value in found.items() if whole[name] == value]
        assert all(name in same or name.endswith("training_config.yaml") for name in found)
        assert list(run.glob(".chck_*.building")), "one was being written"
    train(config_for(text, tmp_path / "killed", **RECIPE), resume=True)
    assert {name: v for name, v in folder_hashes(run).items() if not name.endswith(".yaml")} == {
        name: v for name, v in whole.items() if not name.endswith(".yaml")
    }


@pytest.mark.integration
def test_milestones_are_scored_and_shown_and_overwritten(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import evaluate

    config = config_for(text, tmp_path, max_steps=20, save_words=["500", "1k"], eval_steps=5)
    config.curriculum = CurriculumConfig()
    run = train(config).run_dir
    (tmp_path / "p.jsonl").write_text(
        '{"sentence_good": "The dog ran.", "sentence_bad": "Dog the ran."}\n', encoding="utf-8"
    )
    assert (
        evaluate.main([str(run), "--milestones", "--minimal-pairs", str(tmp_path / "p.jsonl"), "--device", "cpu"]) == 0
    )
    assert "chck_500" in capsys.readouterr().out
    results = read_json(run / "milestone_results.json")
    assert [row["name"] for row in results["milestones"]] == ["chck_500", "chck_1k"]
    first, second = results["milestones"]
    assert first["bits_per_byte"] > second["bits_per_byte"]
    assert second["minimal_pairs"]["p.jsonl"]["num_pairs"] == 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Learning by words seen" in page
    assert "Easy text first" in page
    assert f"{second['bits_per_byte']:.4f}" in page
    with pytest.raises(CheckpointError, match="no milestones"):
        evaluate.main([str(run / "chck_1k"), "--milestones"])
    config.training.save_words = [700]
    assert train(config).already_finished, "milestones are no part of the recipe"
    train(config, overwrite=True)
    assert [folder.name for folder, _ in saved_milestones(run)] == ["chck_700"]
    assert not (run / "milestone_results.json").exists()


def test_milestones_are_known_in_a_run_folder(tmp_path: Path) -> None:
    for name in ("chck_1M", ".chck_2M.building"):
        (tmp_path / name).mkdir()
    state = inspect_run(tmp_path)
    assert state.foreign_files == []
    checkpoints.clean_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chck_1M"]


def test_counting_is_fast(tiny_tokenizer: Any) -> None:
    """A strict corpus has 140M tokens: 2M of them in well under a second (measured: 0.1 s)."""
    split = split_of([("The dog ran to the old house. " * 20).strip()] * 4000, tiny_tokenizer)
    started = time.perf_counter()
    assert word_begins(split, tiny_tokenizer).sum() == split.words.sum()
    assert time.perf_counter() - started < 5
