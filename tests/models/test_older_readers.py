"""Saved folders under the names of transformers 4, and still the same for version 5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from babyllama.common.files import read_json, write_json
from babyllama.models.older_readers import write_old_names


def test_a_saved_llama_names_its_rotary_base_and_tokenizer_in_both_ways(
    tiny_llama: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_llama.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    config = read_json(tmp_path / "config.json")
    config["rope_parameters"]["rope_theta"] = 500.0
    write_json(tmp_path / "config.json", config)
    write_old_names(tmp_path)
    found = read_json(tmp_path / "config.json")
    assert (found["rope_theta"], found["rope_scaling"]) == (500.0, None)
    assert found["rope_parameters"]["rope_theta"] == 500.0
    assert read_json(tmp_path / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert read_json(tmp_path / "tokenizer_config.json")["model_input_names"] == ["input_ids", "attention_mask"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.rope_parameters["rope_theta"] == 500.0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("The dog")["input_ids"] == tiny_tokenizer("The dog")["input_ids"]
    ids = torch.tensor([[1, 5, 6, 7]])
    assert not torch.equal(model(ids).logits, tiny_llama(ids).logits)  # the base is read, not taken for 10,000


def test_what_has_no_rotary_embedding_is_left_alone(tiny_gpt2: Any, tmp_path: Path) -> None:
    tiny_gpt2.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    write_old_names(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    write_old_names(tmp_path / "nothing")
