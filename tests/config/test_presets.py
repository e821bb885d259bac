"""Presets: the size in the name is the size that is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from babyllama.common.errors import ConfigError
from babyllama.config.loading import load_config
from babyllama.config.run_layout import preset_paths
from babyllama.config.schema import Config
from babyllama.models.architectures import (
    RECIPE_EVIDENCE,
    build_model_config,
    count_parameters,
    default_heads,
    ignored_dropouts,
    presets,
    recipe_evidence,
)
from babyllama.pages.terminal import print_presets

SIZED = sorted(name for name in preset_paths() if re.search(r"\d+M", name))


@pytest.mark.parametrize("name", SIZED)
def test_a_preset_builds_to_its_size(name: str) -> None:
    wanted = int(re.search(r"(\d+)M", name)[1]) * 1_000_000
    config = load_config(preset_paths()[name])
    assert count_parameters(config, 16_000) == pytest.approx(wanted, rel=0.05)
    assert build_model_config(config, 16_000).max_position_embeddings >= 512


def test_the_table_lists_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert {preset.name for preset in presets()} == set(preset_paths())
    [first] = [preset for preset in presets() if preset.name == "llama-10M"]
    assert (first.tokens_per_step, first.epochs) == (16_384, 10)  # of a text of one's own, not the quick start's
    print_presets(presets())
    assert "llama-10M" in capsys.readouterr().out


def test_a_preset_says_what_its_recipe_rests_on(tmp_path: Path) -> None:
    assert {preset.evidence for preset in presets()} <= set(RECIPE_EVIDENCE)
    silent = tmp_path / "silent.yaml"
    silent.write_text("# Recipe: surely good\nmodel: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="extrapolated from llama-10M"):
        recipe_evidence(silent)


def test_heads_are_even_and_near_64() -> None:
    assert [default_heads(width) for width in (64, 128, 768, 32, 2)] == [1, 2, 12, 1, 1]


def test_intermediate_size_is_honoured_by_gpt() -> None:
    sizes = {"hidden_size": 32, "n_head": 2, "intermediate_size": 48}
    assert build_model_config(Config(model={"type": "GPT2", **sizes}), 300).n_inner == 48
    assert build_model_config(Config(model={"type": "GPTJ", **sizes}), 300).n_inner == 48


def test_llama_names_the_dropouts_it_ignores() -> None:
    model = {"type": "Llama", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    assert ignored_dropouts(Config(model=model)) == ["model.embd_pdrop"]
    assert ignored_dropouts(Config(model={**model, "type": "GPT2"})) == []


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="Use one of Llama, GPT2, GPTJ"):
        build_model_config(Config(model={"type": "Mamba"}), 300)
