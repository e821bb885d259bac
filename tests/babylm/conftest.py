"""Made-up items in the form of the challenge's data, and tiny models with three kinds of tokenizer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TEXT, _tiny

WORDS = "dax wug blick fep toma zib".split()


def metaspace_tokenizer(kind: str) -> Any:
    """A sentencepiece-like tokenizer: blanks as U+2581, one put in front; "unigram" also ends texts with </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        trainer: Any = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    end = " </s>" if kind == "unigram" else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A{end}", pair=f"<s> $A $B:1{end}", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="session", params=["Llama bytes", "GPT2 bytes", "Llama bpe", "GPT2 unigram"])
def pair(request: Any, tiny_tokenizer: Any) -> tuple[Any, Any]:
    """A tiny model of random weights and its tokenizer."""
    architecture, kind = request.param.split()
    tokenizer = tiny_tokenizer if kind == "bytes" else metaspace_tokenizer(kind)
    return _tiny(architecture, tokenizer), tokenizer


def made_items(kind: str) -> list[dict[str, Any]]:
    """A few lines in the form of a task's data; invented words, no line of the real data."""
    if kind == "blimp":
        return [
            {"sentence_good": f"The {w}s sing.", "sentence_bad": f"The {w}s sings.", "field": "syntax",
             "linguistics_term": "agreement", "UID": f"number_{n % 2}"} for n, w in enumerate(WORDS)
        ] + [{"sentence_good": "Same here.", "sentence_bad": "Same here.", "field": "syntax",
              "linguistics_term": "agreement", "UID": "number_0"}]  # fmt: skip
    if kind == "supplement":
        return [{"sentence_good": f"A: Who sang?\nB: A {w}.", "sentence_bad": f"A: Who sang?\nB: In a {w}."}
                for w in WORDS]  # fmt: skip
    if kind == "ewok":
        base = [{"Domain": f"d{n % 2}", "ContextType": "t", "ContextDiff": "c", "TargetDiff": "d",
                 "Context1": f"Tom gave Ann the {w}.", "Context2": f"Ann gave Tom the {w}.",
                 "Target1": f"Ann has the {w}.", "Target2": f"Tom has the {w}."}
                for n, w in enumerate(WORDS)]  # fmt: skip
        swap = {"Context1": "Context2", "Context2": "Context1", "Target1": "Target2", "Target2": "Target1"}
        return [line for item in base for line in (item, {k: item[swap.get(k, k)] for k in item})]
    if kind == "entity":
        lines = []
        for number, word in enumerate(WORDS):
            empty = number % 3 == 0
            options = ["nothing" if empty else f"the {word}", *[f"the {w}" for w in WORDS if w != word][:4]]
            prefix = "".join(f"Box {b} contains the {w}. " for b, w in enumerate(WORDS[: 2 + number]))
            lines.append({"sample_id": number, "numops": number % 2, "input_prefix": prefix + "Box 0 contains ",
                          "options": options, "example_id": number})  # fmt: skip
        return lines
    if kind == "comps":
        return [{"id": n, "prefix_acceptable": f"A {a}", "prefix_unacceptable": f"A {b}", "property_phrase": "can fly."}
                for n, (a, b) in enumerate((a, b) for a in WORDS[:3] for b in WORDS[3:])]  # fmt: skip
    if kind == "piqa":
        return [{"prompt": f"To open a {w},", "solution0": "pull it.", "solution1": f"push the {w} hard, then wait.",
                 "solution2": "sing.", "solution3": "look at it.", "label": n % 4, "example_id": f"eng_{n}"}
                for n, w in enumerate(WORDS)]  # fmt: skip
    return [{"sentences": f"It is {w}able.\tIt is {w}ness.", "ratio": n / 6} for n, w in enumerate(WORDS)]


def write_jsonl(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Write lines as JSONL and give the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def babylm_data() -> Path:
    """A folder with stored predictions and reading data of the 2025 pipeline, skipped where it is absent."""
    folder = Path(os.environ.get("BABYLLAMA_BABYLM_DATA", "/nonexistent"))
    if not folder.is_dir():
        pytest.skip("no stored predictions: set BABYLLAMA_BABYLM_DATA to a copy of suchirsalhan/babylm-evaluation-2025")
    return folder
