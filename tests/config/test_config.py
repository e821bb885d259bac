"""Every way a configuration can be wrong, with the exact line; and that right ones load as meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json
from babyllama.config.flags import add_config_flags, config_from_args
from babyllama.config.loading import config_from_dict, config_notices, json_schema, load_config, save_config
from babyllama.config.reference import configuration_page, description
from babyllama.config.run_layout import corpus_stem, preset_paths, run_dir
from babyllama.config.schema import SECTIONS, Config

ROOT = Path(__file__).resolve().parents[2]
GOOD = "model:\n  type: Llama\n"


def _load(tmp_path: Path, text: str, *overrides: str):
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file, overrides)


BAD = [
    ("model:\n  type: Llama\n  hiden_size: 8\n", "model.hiden_size: unknown key; did you mean model.hidden_size?"),
    (GOOD + "training:\n  hidden_size: 8\n", "training.hidden_size: unknown key; did you mean model.hidden_size?"),
    (GOOD + "trainin:\n  lr: 1\n", "trainin: unknown section; did you mean training?"),
    (GOOD + "training:\n  lr: fast\n", "training.lr: 'fast': input should be a valid number"),
    (GOOD + "training:\n  lr: -1\n", "training.lr: -1: input should be greater than 0"),
    (GOOD + "training:\n  batch_size: 2.5\n", "training.batch_size: 2.5: input should be a valid integer"),
    (GOOD + "training:\n  optimizer: sgd\n", "training.optimizer: 'sgd': input should be 'adamw' or 'muon'"),
    (GOOD + "training:\n  lr: 1\n  lr: 2\n", "duplicate key 'lr': keep one of the two"),
    ("model: !!python/object:os.system\n  type: Llama\n", "is not allowed: write plain values"),
    ("model:\n  hidden_size: 64\n", "model.type: missing; set it to one of Llama, GPT2, GPTJ"),
    ("model:\n  type: Lama\n", "model.type: 'Lama': did you mean Llama?"),
    (GOOD + "  hidden_size: 100\n  n_head: 7\n", "model.n_head: 7 does not divide hidden_size 100"),
    (GOOD + "  hidden_size: 6\n  n_head: 2\n", "model.n_head: 2 gives heads of odd size 3"),
    (GOOD + "  hidden_size: 64\n  n_head: 8\n  n_kv_head: 3\n", "model.n_kv_head: 3 does not divide n_head 8"),
    (
        GOOD + "training:\n  batch_size: 32\n  gradient_accumulation_steps: 5\n",
        "5 does not divide batch_size 32; these do: [1, 2, 4, 8, 16, 32]",
    ),
    (GOOD + "training:\n  fp16: true\n  bf16: true\n", "training.fp16, training.bf16: both true; choose one"),
    (GOOD + "  max_position_embeddings: 64\n", "model.max_position_embeddings: 64 < data.seq_length 128"),
    (GOOD + "  name: a/b\n", "model.name: 'a/b' is the name of one folder"),
    (GOOD + "  name: ..\n", "model.name: '..' is the name of one folder"),
    ("- a\n- b\n", "expected sections (data, model, training, logging), found list"),
    ("model: [\n", "line 2, column 1"),
    (GOOD + "data:\n  encoding_errors: ignore\n", "data.encoding_errors: 'ignore': input should be 'strict' or"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_fault_gives_its_line_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    assert message in str(caught.value)
    assert "c.yaml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = "model:\n  type: Llama\n  hiden_size: 8\ntraining:\n  lr: fast\n  optimizer: sgd\nextra: 1\n"
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=1", "write --set section.key=value"),
        ("training.lr", "write --set section.key=value"),
        ("training.lrr=1", "did you mean training.lr?"),
        ("training.lr=fast", "--set training.lr: 'fast'"),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match="set") as caught:
        _load(tmp_path, GOOD, override)
    assert message in str(caught.value)


def test_a_missing_file_names_the_nearest_preset() -> None:
    with pytest.raises(ConfigError, match=r"did you mean config/llama-10M\.yaml"):
        load_config("config/lama-10M.yaml")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder, not a YAML file"):
        load_config(tmp_path)


def test_text_that_yaml_leaves_is_read_as_meant(tmp_path: Path) -> None:
    text = "model:\n  type: gpt-2\n  intermediate_size: None\ntraining:\n  lr: 3e-4\n  fp16: True\n  max_steps: 1e3\n"
    config = _load(tmp_path, text)
    assert (config.model.type, config.model.intermediate_size) == ("GPT2", None)
    assert (config.training.lr, config.training.fp16, config.training.max_steps) == (3e-4, True, 1000)


@pytest.mark.parametrize(
    "name", ["1e3", "2E5", "1.5e3", "1_0.5", "0x1F", "010", "1:30", "no", "null", "2024", ".5", "09"]
)
def test_a_saved_name_is_read_back_as_the_same_text(tmp_path: Path, name: str) -> None:
    """PyYAML writes 1e3 without quotes, since YAML 1.1 has it as text; a run of that name could not be evaluated."""
    config = config_from_dict({"model": {"type": "Llama", "name": name}, "data": {"mix": {"1e3": 2, "b": 1e-8}}})
    save_config(config, tmp_path / "saved.yaml")
    again = load_config(tmp_path / "saved.yaml")
    assert (again.model, again.data.mix, again.training) == (config.model, config.data.mix, config.training)


def test_older_layouts_load_unchanged(tmp_path: Path) -> None:
    text = "student:\n  type: Llama\noptimization:\n  weight_decay: 0.2\n  adam_beta2: 0.99\n"
    config = _load(tmp_path, text)
    assert (config.model.type, config.training.weight_decay, config.training.adam_beta2) == ("Llama", 0.2, 0.99)


def test_a_saved_config_loads_back_to_the_same(tmp_path: Path) -> None:
    config = _load(tmp_path, GOOD, "training.lr=2e-3", "data.train_path=texts", "model.name=X")
    save_config(config, tmp_path / "saved.yaml")
    again = load_config(tmp_path / "saved.yaml")
    assert Path(again.data.train_path).is_absolute()
    assert again.training == config.training
    assert again.model == config.model


def test_every_path_of_a_saved_config_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teachers' and the trunk's were not: the saved file did not train from another folder."""
    monkeypatch.chdir(tmp_path)
    overrides = ["training.decay_from=t/checkpoint-4", "training.lr_scheduler=wsd", "model.init_from=m"]
    config = _load(tmp_path, GOOD, *overrides, "distillation.teachers=[a, b/c]", "plugins=[p.py]")
    save_config(config, tmp_path / "saved.yaml")
    again = load_config(tmp_path / "saved.yaml")
    paths = [*again.distillation.teachers, again.training.decay_from, again.model.init_from, *again.plugins]
    assert paths == [str(tmp_path / name) for name in ("a", "b/c", "t/checkpoint-4", "m", "p.py")]


@pytest.mark.parametrize("name", sorted(preset_paths()))
@pytest.mark.parametrize(
    "override",
    [
        "model.hidden_size=256",
        "model.hidden_size=250",
        "model.type=GPT2",
        "model.type=GPTJ",
        "model.n_layer=1",
        "training.batch_size=24",
        "training.batch_size=7",
        "training.max_steps=3",
        "data.seq_length=1024",
        "training.optimizer=adamw",
        "model.tie_word_embeddings=None",
    ],
)
def test_every_single_override_works_on_every_preset(name: str, override: str) -> None:
    config = load_config(preset_paths()[name], [override])
    assert config.training.batch_size % config.training.gradient_accumulation_steps == 0


def test_what_was_adapted_is_said() -> None:
    config = load_config(preset_paths()["llama-10M"], ["model.hidden_size=256"])
    assert config_notices(config) == ["model.n_head: 6 heads do not fit hidden_size 256: chosen anew"]


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("../corpora/babylm_like/", "babylm_like"),
        ("a/my text.train", "my_text"),
        ("texts/*.txt", "texts"),
        ("hf:org/Name:en", "Name-en"),
        ("x/story.train.gz", "story"),
    ],
)
def test_a_corpus_has_a_short_name(path: str, stem: str) -> None:
    assert corpus_stem(path) == stem


def _parse(*argv: str):
    import argparse

    parser = argparse.ArgumentParser()
    add_config_flags(parser)
    return config_from_args(parser.parse_args(list(argv)))


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ([], "Llama-10M"),
        (["--train-path", "corpora/tiny"], "Llama-10M-tiny"),
        (["--train-path", "corpora/tiny", "--model_name", "Mine"], "Mine"),
        (["--set", "model.name=Mine", "--train-path", "t"], "Mine"),
    ],
)
def test_a_run_is_named_after_preset_and_corpus(argv: list[str], name: str) -> None:
    config = _parse("--config", str(ROOT / "config/llama-10M.yaml"), *argv)
    assert config.model.name == name
    assert run_dir(config).name == name


def test_a_users_own_name_stands(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model:\n  type: Llama\n  name: Own\n", encoding="utf-8")
    assert _parse("--config", str(file), "--train-path", "t").model.name == "Own"


def test_flags_reach_their_keys_in_both_spellings() -> None:
    config = _parse(
        *("--config", str(ROOT / "config/llama-10M.yaml"), "--lr", "1e-3", "--batch_size", "16", "--num-epochs", "2"),
        *("--bf16", "false", "--fp16", "--torch_compile", "auto", "--wandb", "--wandb-project", "p", "--seed", "7"),
    )
    training = config.training
    assert (training.lr, training.batch_size, training.num_epochs, training.seed) == (1e-3, 16, 2, 7)
    assert (training.bf16, training.fp16, training.torch_compile) == (False, True, "auto")
    assert (config.logging.wandb, config.logging.project) == (True, "p")


def test_the_schema_in_the_repository_is_fresh() -> None:
    assert read_json(ROOT / "config/schema.json") == json_schema(), "run: python main.py schema > config/schema.json"


def test_every_key_is_documented() -> None:
    for section in json_schema()["$defs"].values():
        for key, facts in section["properties"].items():
            assert facts.get("description"), key


def test_the_page_of_keys_is_fresh() -> None:
    told = "run: python -m babyllama.config.reference > docs/configuration.md"
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == configuration_page(), told


def test_the_page_shows_each_default_as_yaml_would_read_it() -> None:
    """0 and 1 equal False and True: four numbers stood there as false and true."""
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        rows = page.split(f"\n## {name}\n")[1].split("\n## ")[0].splitlines()
        cells = [row.split(" | ") for row in rows if row.startswith("| `")]
        shown = {cell[0].strip("| `"): cell[2] for cell in cells}
        for key, field in section.model_fields.items():
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            if isinstance(default, bool | int | float):
                assert (shown[key] in {"true", "false"}) == isinstance(default, bool), key
                assert json.loads(shown[key]) == default, key


def test_every_key_has_a_description_of_a_sentence() -> None:
    for name, section in SECTIONS.items():
        for key in section.model_fields:
            assert description(f"{name}.{key}").endswith("."), f"{name}.{key}"


def test_the_string_none_is_no_value_only_where_a_key_may_have_none() -> None:
    config = Config(model={"type": "Llama", "n_head": "None"}, data={"train_path": "None", "eval_path": "none"})
    assert (config.model.n_head, config.data.eval_path, config.data.train_path) == (None, None, "None")


QUICK = """
model: {type: Llama}
training:
  batch_size: 128
  num_epochs: 10
  quick_start: {batch_size: 32, num_epochs: 1, quick_start_minutes: 4}
"""


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (32, 1, 4)),
        (["data.train_path=synthetic"], (32, 1, 4)),
        (["training.num_epochs=3"], (32, 3, 4)),  # what is typed wins
        (["data.train_path=books"], (128, 10, None)),
    ],
)
def test_the_embedded_corpus_has_its_own_short_recipe(
    tmp_path: Path, overrides: list[str], expected: tuple[int, int, int | None]
) -> None:
    training = _load(tmp_path, QUICK, *overrides).training
    assert (training.batch_size, training.num_epochs, training.quick_start_minutes) == expected
    assert training.quick_start is None


def test_a_short_recipe_is_checked_as_the_section_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.batchsize: unknown key; did you mean training.batch_size"):
        _load(tmp_path, QUICK.replace("{batch_size", "{batchsize"))
    with pytest.raises(ConfigError, match=r"training.quick_start: expected keys of training and their values, found 4"):
        _load(tmp_path, "model: {type: Llama}\ntraining: {quick_start: 4}\n")
