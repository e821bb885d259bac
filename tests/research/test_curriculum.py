"""The order of a curriculum: what each step may show, how often a chunk comes, and that a resume finds it again."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from babyllama import plugins
from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.config.loading import config_from_dict
from babyllama.config.schema import CurriculumConfig
from babyllama.data.epoch_order import EpochSampler, shuffled
from babyllama.data.packing import PackedDataset
from babyllama.data.token_store import TokenSplit
from babyllama.research import curriculum
from babyllama.research.curriculum import CurriculumDataset, Pacing
from babyllama.research.difficulty import ChunkDifficulty, build_difficulty, domain_place, rarity, sentence_length
from tests.runs import config_for, corpus, weights
from train import train


def numbers(size: int, schedule: str = "root", steps: int | None = None, **options: Any) -> CurriculumDataset:
    """The numbers 0 ... size - 1, each its own difficulty, shuffled; two a step."""
    values = np.random.Generator(np.random.PCG64(0)).permutation(size).tolist()
    pacing = Pacing(steps or size // 2, schedule, **options)
    return CurriculumDataset(values, float, pacing, batch_size=2, seed=1)


@pytest.mark.parametrize("schedule", ["linear", "root"])
@pytest.mark.parametrize("start", [0.01, 0.3])
@pytest.mark.parametrize("full_at", [0.3, 1.0])
def test_one_epoch_shows_every_chunk_once_and_none_before_its_time(schedule: str, start: float, full_at: float) -> None:
    data = numbers(200, schedule, start=start, full_at=full_at)
    shown = list(data.get_batch_by_difficulty(0))
    assert sorted(shown) == list(range(200))
    for step in range(1, 101):
        allowed = max(2, np.ceil(data.pacing.share(step) * 200))
        assert max(shown[2 * step - 2 : 2 * step]) < allowed, step
    assert shown != sorted(shown), "by lot among those that are in"


@pytest.mark.parametrize("schedule", ["linear", "root", "step"])
def test_several_epochs(schedule: str) -> None:
    """Each step only what is in; what was in from an epoch's start is shown equally often, to one; full: each once."""
    data = numbers(60, schedule, steps=120, start=0.1, full_at=0.75, stages=3)  # 4 epochs of 30 steps
    for epoch in range(4):
        order = np.array(list(data.get_batch_by_difficulty(epoch)))
        available = data.available(epoch)
        assert all((order[2 * i : 2 * i + 2] < available[i]).all() for i in range(30))
        assert all(len(set(order[2 * i : 2 * i + 2])) == 2 for i in range(30))
        times = Counter(order.tolist())
        early = [times[value] for value in range(available[0])]
        assert max(early) - min(early) <= 1
        assert len(order) == 60
    assert Counter(order.tolist()) == Counter(range(60)), "the last epoch begins with everything in"
    assert data.available(2)[-1] == 60


def test_a_loop_of_ones_own_gets_easy_examples_first() -> None:
    texts = ["a b c d", "a", "a b", "a b c", "a b c d e", "a b c d e f"]
    data = CurriculumDataset(texts, lambda text: len(text.split()), epochs=3, batch_size=2)
    first, last = (list(data.get_batch_by_difficulty(epoch)) for epoch in (0, 2))
    assert set(first[:2]) == {"a", "a b", "a b c"} & set(first[:2])
    assert len(first) == len(data) == 6
    assert sorted(last) == sorted(texts)
    loader = DataLoader(data, batch_size=2, sampler=EpochSampler(data, seed=0))
    assert [text for batch in loader for text in batch] == last


@pytest.mark.parametrize("difficulty", ["rarity", "domain", "own"])
def test_a_spawned_loader_process_gets_the_curriculum(difficulty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of([[3, 4, 5, 6], [7, 8], [9, 3, 3]], [0, 1, 0])
    packed = PackedDataset(split, 4, pad_id=0, shuffle=True)
    difficulties = {
        "rarity": ChunkDifficulty(split, np.arange(10) < 3, rarity(split)),
        "domain": ChunkDifficulty(split, np.arange(10) < 3, domain_place(split, ["plays", "books"])),
        "own": lambda chunk: float(chunk["labels"].max()),
    }
    data = CurriculumDataset(packed, difficulties[difficulty], epochs=2, batch_size=2)
    data.set_epoch(1)
    order = data.order(1).tolist()
    assert np.array_equal(copy.deepcopy(data).order(0), data.order(0)), "a copy is whole"
    with monkeypatch.context() as spawning:
        spawning.setattr(curriculum, "get_spawning_popen", lambda: "a process that is being started")
        sent = pickle.dumps(data)
    got = pickle.loads(sent)
    assert all(np.array_equal(got[number]["labels"], data[number]["labels"]) for number in order)


def split_of(documents: list[list[int]], domains: list[int] | None = None) -> TokenSplit:
    """Documents of given ids, `<s>` 1 and `</s>` 2 around each."""
    ids = [[1, *document, 2] for document in documents]
    starts = np.concatenate([[0], np.cumsum([len(document) for document in ids])]).astype(np.int64)
    zeros = np.zeros(len(ids), dtype=np.int64)
    place = np.array(domains or [0] * len(ids), dtype=np.int32)
    return TokenSplit(np.concatenate(ids).astype(np.uint16), starts, zeros, zeros, place, ["plays", "books"])


def test_rarity_by_hand() -> None:
    """Ten tokens: 1 and 2 twice each, 5 four times, 6 and 7 once: -ln 0.4 and -ln 0.1; `<s>` and `</s>` left out."""
    split = split_of([[5, 5, 5], [5, 6, 7]])
    packed = PackedDataset(split, 5, pad_id=0)
    special = np.array([True, True, True, False, False, False, False, False])
    found = ChunkDifficulty(split, special, rarity(split)).of_dataset(packed, 0)
    assert found == pytest.approx([-np.log(0.4), (-np.log(0.4) - 2 * np.log(0.1)) / 3])


def test_moving_cut_points_and_padding() -> None:
    """Each text token once an epoch, whatever the offset: chunk sums add up; a chunk of padding is the hardest."""
    split = split_of([[5, 6, 5], [6, 5, 5, 7, 5], [7]], domains=[0, 1, 0])
    special = np.array([True] * 3 + [False] * 5)
    packed = PackedDataset(split, 4, pad_id=0, seed=3, shuffle=True, random_offset=True, multiple_of=3)
    by_domain = ChunkDifficulty(split, special, domain_place(split, ["books", "plays"]))
    for epoch in range(4):
        packed.set_epoch(epoch)
        batch = packed.__getitems__(list(range(len(packed))))
        found = by_domain.of_dataset(packed, epoch)
        text = (batch["labels"] > 2).sum(1).numpy()
        assert np.isinf(found[text == 0]).all()
        assert np.nansum(np.where(text > 0, found, 0) * text) == pytest.approx(4), "4 tokens of plays, place 1"


def test_sentence_lengths_by_hand(tiny_tokenizer: Any) -> None:
    texts = ["It ran. The dog saw it", "Come down!"]
    encoded = [tiny_tokenizer.encode(text, add_special_tokens=False) for text in texts]
    split = split_of(encoded)
    values = sentence_length(split, tiny_tokenizer)
    places = np.arange(len(split.tokens))
    found = values(places, places)
    stop = encoded[0].index(tiny_tokenizer.encode(".", add_special_tokens=False)[0]) + 1
    first = [1 + stop] * (1 + stop)  # <s> stands before the first sentence
    second = [len(encoded[0]) - stop + 1] * (len(encoded[0]) - stop + 1)  # up to </s>
    assert found[: len(encoded[0]) + 2].tolist() == [*first, *second]


def test_domains_must_be_the_texts() -> None:
    split = split_of([[5], [6]], domains=[0, 1])
    with pytest.raises(ConfigError, match=r"curriculum\.domains: books not listed; no text of songs"):
        domain_place(split, ["plays", "songs"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"difficulty": "rarety"}, "curriculum.difficulty: 'rarety': known: length, rarity, domain, loss"),
        ({"difficulty": "domain"}, "curriculum.domains: missing"),
        ({"difficulty": "loss"}, "curriculum.model: missing"),
        ({"start": 0}, "curriculum.start: 0: "),
        ({"pace": 1}, "curriculum.pace: unknown key"),
    ],
)
def test_mistakes_in_the_section_are_told(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_dict({"model": {"type": "Llama"}, "curriculum": section})
    assert message in str(caught.value)


def test_the_plain_order_is_that_of_accelerate() -> None:
    """So that runs that were begun before the order was ours go on with the same batches."""
    from accelerate.data_loader import SeedableRandomSampler

    sampler = SeedableRandomSampler(range(50), data_seed=42)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert list(sampler) == shuffled(50, 42, epoch).tolist()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("text") / "small", 600)


@pytest.mark.integration
def test_a_resume_in_the_middle_equals_the_uninterrupted_run(text: Path, tmp_path: Path) -> None:
    """Two epochs and a half with accumulation, stopped in the first and in the second: the same bits, the same log."""
    recipe = {"max_steps": None, "num_epochs": 2.5, "gradient_accumulation_steps": 2, "save_steps": 20}
    options = CurriculumConfig(difficulty="rarity", schedule="root", full_at=0.6)
    configs = [config_for(text, tmp_path, "Llama", name, **recipe) for name in ("whole", "resumed")]
    for config in configs:
        config.curriculum = options
        config.training.save_total_limit = 9
    whole, resumed = (train(config).run_dir for config in configs)
    curve = read_json(whole / "curriculum.json")["curve"]
    steps = read_json(whole / "training_metrics.json")["global_step"]
    assert curve[-1]["step"] == steps > 60
    assert curve[0]["difficulty"] < curve[-1]["difficulty"]
    for stop in (20, 60):  # in the first and in the second epoch
        for folder in resumed.glob("checkpoint-*"):
            if int(folder.name.split("-")[1]) > stop:
                shutil.rmtree(folder)
        for name in ("model.safetensors", "training_metrics.json"):
            (resumed / name).unlink()
        train(configs[1], resume=True)
        assert weights(resumed) == weights(whole)
    logs = [
        [json.loads(line) for line in (run / "log_history.jsonl").open(encoding="utf-8")] for run in (whole, resumed)
    ]
    curves = [[(e["step"], e.get("loss"), e.get("valid_loss")) for e in log] for log in logs]
    assert curves[0] == curves[1]
    page_figures = (whole / "curriculum.json").read_text(encoding="utf-8")
    assert page_figures == (resumed / "curriculum.json").read_text(encoding="utf-8")


@pytest.mark.integration
def test_a_curriculum_belongs_to_the_run_and_to_its_length(text: Path, tmp_path: Path) -> None:
    config = config_for(text, tmp_path, max_steps=4)
    config.curriculum = CurriculumConfig(difficulty="length")
    plain = config_for(text, tmp_path, name="plain", max_steps=4)
    assert weights(train(config).run_dir) != weights(train(plain).run_dir)
    config.training.max_steps = 8
    with pytest.raises(ConfigError, match="length of the curriculum: 1 epochs, max_steps 4"):
        train(config, resume=True)
    config.training.max_steps, config.curriculum.schedule = 4, "linear"
    with pytest.raises(ConfigError, match=r"curriculum\.schedule: root -> linear"):
        train(config)


@pytest.mark.integration
def test_a_models_loss_orders_the_text(text: Path, tmp_path: Path) -> None:
    """The difficulty of a document is what evaluation says of it; a second run takes it from the cache."""
    teacher = train(config_for(text, tmp_path, name="teacher", max_steps=4)).run_dir
    config = config_for(text, tmp_path, name="student", max_steps=4)
    config.data.tokenizer_path = str(teacher)
    config.curriculum = CurriculumConfig(difficulty="loss", model=str(teacher))
    from babyllama.evaluation.perplexity import score_documents
    from babyllama.models.loading import load_model, load_tokenizer_of
    from data_utils import DataProcessor

    processor = DataProcessor(config.data)
    data = processor.prepare()
    found = build_difficulty(config, data)
    documents = processor.load_text_files(str(text), "train")
    scores = score_documents(load_model(teacher), load_tokenizer_of(teacher), documents, window=32)
    places = np.arange(len(documents))
    assert found.values(places, places) == pytest.approx(scores.nll / scores.tokens, rel=1e-5)
    assert train(config).metrics["finished"]
    config.curriculum.model = str(tmp_path / "nobody")
    with pytest.raises(ConfigError, match=r"curriculum\.model: .*nobody: no such checkpoint folder"):
        build_difficulty(config, data)


@pytest.mark.integration
def test_a_plugins_difficulty_that_fails_names_file_and_document(text: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from babyllama.plugins import register_difficulty\n"
        "register_difficulty('bad', lambda document: 1 / (document.domain != 'small'))\n"
        "register_difficulty('nan', lambda document: float('nan'))\n",
        encoding="utf-8",
    )
    config = config_for(text, tmp_path)
    config.plugins = [str(plugin)]
    for name, why in (("bad", "ZeroDivisionError"), ("nan", "not a finite number")):
        config.curriculum = CurriculumConfig(difficulty=name)
        with pytest.raises(
            ConfigError, match=rf"{plugin}(:\d+)?: difficulty '{name}' of the document 'The .*{why}"
        ) as caught:
            train(config)
        assert caught.value.exit_code == 2
        assert str(caught.value).count("\n") == 0
        assert not (tmp_path / "run/run_fingerprint.json").exists()
    config.curriculum = CurriculumConfig(difficulty="other")
    with pytest.raises(ConfigError, match="'other' is not known: length, rarity, domain, loss, bad, nan"):
        train(config)
    del plugins.DIFFICULTIES["bad"], plugins.DIFFICULTIES["nan"]


def test_processes_share_one_order() -> None:
    """Accelerate deals the micro-batches of one order out: a step shows the same chunks on one device and on two."""
    from accelerate.data_loader import prepare_data_loader

    split = split_of([list(range(3, 9))] * 40)
    special = np.array([True] * 3 + [False] * 6)
    packed = PackedDataset(split, 8, pad_id=0, multiple_of=8)
    data = CurriculumDataset(packed, ChunkDifficulty(split, special, rarity(split)), Pacing(5), batch_size=8)
    data.set_epoch(0)
    order = data.order(0).tolist()
    for world, parts in ((1, 2), (2, 2), (4, 1)):
        size = 8 // (world * parts)
        dealt = []
        for rank in range(world):
            loader = DataLoader(data, batch_size=size, sampler=EpochSampler(data, seed=0), collate_fn=dict)
            shard = prepare_data_loader(loader, num_processes=world, process_index=rank, put_on_device=False)
            dealt.append(list(shard.batch_sampler))
        for step in range(len(order) // 8):
            shown = [i for rank in dealt for batch in rank[step * parts : (step + 1) * parts] for i in batch]
            assert sorted(shown) == sorted(order[8 * step : 8 * step + 8])
