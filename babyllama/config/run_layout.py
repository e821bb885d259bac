"""Names: of a run, of its folder and of the files in it. Every other module takes them from here."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pydantic takes 0.1 s, which `--help` does without
    from babyllama.config.schema import Config

# Files of a training
TRAINING_METRICS = "training_metrics.json"
TRAINING_CONFIG = "training_config.yaml"
TRAINING_LOG = "log_history.jsonl"
RUN_FINGERPRINT = "run_fingerprint.json"
MODEL_CARD = "README.md"
WANDB_ID = "wandb_id.txt"
CURRICULUM = "curriculum.json"
LIVE_SAMPLES = "samples_during_training.jsonl"
AVERAGES, MEANS = "ema_", "mean_"  # folders of a run: exponential averages, means over epochs
AVERAGES_FILE = "weight_averages.safetensors"  # a file of each checkpoint
MPS_RANDOM_STATE = "mps_random_state.safetensors"  # likewise, of a training on an Apple GPU
HELD_OUT_TEXT, TEST_TEXT, TEXT_HASHES = "held_out.jsonl.gz", "test.jsonl.gz", "text_hashes.npz"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
MODEL_CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
CHECKPOINT_MANIFEST, TRAINER_STATE = "checkpoint_manifest.json", "trainer_state.json"  # files of each checkpoint
SWEEP = "sweep.json"  # the plan in the folder of a sweep
# Files of an evaluation
EVALUATION_RESULTS = "evaluation_results.json"
EVALUATION_ITEMS = "evaluation_items.jsonl.gz"
EVALUATION_PLOTS = "evaluation_plots.png"
SAMPLES = "generation_samples.txt"
TEST_RESULTS = "test_results"  # a folder: what `evaluate.py RUN --split test` found
MILESTONE, MILESTONE_RESULTS = "milestone.json", "milestone_results.json"
BABYLM_RESULTS = "babylm_results.json"
REPORT = "report.html"

# What a run writes beside its checkpoints; --overwrite removes these and nothing else.
RUN_FILES = (
    WEIGHTS,
    WEIGHTS_INDEX,
    MODEL_CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    TRAINING_CONFIG,
    TRAINING_METRICS,
    RUN_FINGERPRINT,
    TRAINING_LOG,
    MODEL_CARD,
    REPORT,
    WANDB_ID,
    CURRICULUM,
    LIVE_SAMPLES,
    HELD_OUT_TEXT,
    TEST_TEXT,
    TEXT_HASHES,
    MILESTONE_RESULTS,
    BABYLM_RESULTS,
    EVALUATION_RESULTS,
    EVALUATION_ITEMS,
    EVALUATION_PLOTS,
    SAMPLES,
    TEST_RESULTS,
)

REPLACED = ".replaced"  # where --overwrite keeps the old run until the new one has something that loads
LONGEST_STEM = 120  # bytes of a corpus's part of a run's name: a file system takes 255 of a folder's
_JOINERS = "\u200c\u200d"  # zero-width, but they tell words of Persian and of Indic scripts apart

_PACKAGE = Path(__file__).resolve().parents[1]
# The folder of main.py and config/: beside the package in a clone, babyllama/app in a wheel.
PROJECT_ROOT = _PACKAGE / "app" if (_PACKAGE / "app" / "main.py").is_file() else _PACKAGE.parent
PRESETS = PROJECT_ROOT / "config"


def preset_paths() -> dict[str, Path]:
    """Return the presets beside the code as name -> file."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}


def config_path(named: str | Path) -> Path:
    """The file that `--config` names: a path, or the bare name of a preset where no such file is.

    `config/llama-10M.yaml`, as the documents write it, also stands for the preset in a folder without a `config/`.

    >>> config_path("llama-10M") == preset_paths()["llama-10M"]
    True
    """
    path = Path(named).expanduser()
    if path.exists() or path.parent not in {Path(), Path("config")} or path.suffix not in {"", ".yaml"}:
        return path
    return preset_paths().get(path.name.removesuffix(".yaml"), path)


def name_after_corpus(config: Config, *, named: bool) -> None:
    """Put the corpus's stem behind a preset's name, unless the text is embedded or the user named the run."""
    if named:
        return
    name = run_name(config)
    if config.data.train_path != "synthetic":
        name = f"{name}-{corpus_stem(config.data.train_path)}"
    config.model.name = name


def run_name(config: Config) -> str:
    """Return the run's name: `model.name`, else the architecture's.

    A preset's name stands for its recipe, so `name_after_corpus` gives a second command on another text another folder.
    """
    return config.model.name or config.model.type


def corpus_stem(train_path: str) -> str:
    """Return a short name for a corpus path, of the letters, marks and digits of any script.

    Where other characters than punctuation of ASCII and blanks are left out, or a name is long, six digits of its hash
    keep it apart from others.

    >>> corpus_stem("../corpora/babylm_like/"), corpus_stem("hf:org/Name:en"), corpus_stem("हिन्दी.txt")
    ('babylm_like', 'Name-en', 'हिन्दी')
    """
    if train_path.startswith("hf:"):
        stem = train_path.removeprefix("hf:").split("/")[-1].replace(":", "-")
    else:
        path = Path(train_path)
        stem = path.parent.name if any(c in path.name for c in "*?[") else path.name
        stem = stem.split(".")[0] or path.resolve().name
    stem = unicodedata.normalize("NFC", stem.encode("utf-8", "replace").decode())  # macOS takes letters apart
    kept = "".join(c if c in "_-" or unicodedata.category(c)[0] in "LMN" or c in _JOINERS else " " for c in stem)
    name = re.sub(r"\s+", "_", kept).strip("_")
    lost = any(k == " " and not c.isspace() and not c.isascii() for k, c in zip(kept, stem, strict=True))
    while len(name.encode()) > LONGEST_STEM:
        name, lost = name[:-1], True
    digest = hashlib.sha256(stem.encode()).hexdigest()[:6]
    return (f"{name}-{digest}".lstrip("-") if lost else name) or "text"


def run_dir(config: Config) -> Path:
    """Return the run folder as an absolute path."""
    return (Path(config.logging.output_dir).expanduser() / run_name(config)).resolve()
