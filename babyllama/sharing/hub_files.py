"""What of a run is published, and on which branch: weights, tokenizer, card and records; nothing else.

The list below is what may leave: a file that is not on it (optimizer state, a checkpoint's folder, a pickle, a cache, a
log of the machine) stays, whatever else a run folder comes to hold. The final model is the branch `main`, each
milestone (`chck_1M` ...) a branch of its own name, as BabyLM's evaluation looks for them.

Records name the folders they were made in. Those paths are cut before a file leaves: `/home/anna/thesis/data/x.train`
says who and where, which is nobody's business; figures are untouched. Cut are the folders that this command knows (the
run's, the working folder, home) and those of every absolute path that configuration, results or command line name.
"""

from __future__ import annotations

import fnmatch
import html
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import escape

from babyllama.common.errors import CheckpointError, ConfigError
from babyllama.common.files import read_json
from babyllama.config import run_layout
from babyllama.config.yaml_reader import read_yaml
from babyllama.sharing.model_index import eval_results

WEIGHTS = (
    run_layout.WEIGHTS,
    "model-*-of-*.safetensors",
    run_layout.WEIGHTS_INDEX,
    run_layout.MODEL_CONFIG,
    run_layout.GENERATION_CONFIG,
)
TOKENIZER = (
    run_layout.TOKENIZER,
    run_layout.TOKENIZER_CONFIG,
    run_layout.SPECIAL_TOKENS,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
RECORDS = (
    run_layout.TRAINING_CONFIG,
    run_layout.TRAINING_METRICS,
    run_layout.TRAINING_LOG,
    run_layout.EVALUATION_RESULTS,
    run_layout.MILESTONE_RESULTS,
    run_layout.MILESTONE,
    run_layout.CURRICULUM,
    run_layout.SAMPLES,
    run_layout.REPORT,
)
_RESULTS = (run_layout.EVALUATION_RESULTS, run_layout.MILESTONE_RESULTS)
CARD, MAIN, MILESTONES = run_layout.MODEL_CARD, "main", "chck_*"
TEXTS = (".json", ".jsonl", ".yaml", ".txt", ".html")  # of RECORDS: what paths are cut from


@dataclass(frozen=True)
class PublishedFile:
    """A file to be published.

    Attributes:
        name: Path of the file in the repository.
        source: A path, or the content where that is not what lies on the disk.
    """

    name: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def read(self) -> bytes:
        """Return the content."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True)
class Branch:
    """A branch and its files, in alphabetical order."""

    name: str
    files: list[PublishedFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def branches(run_dir: Path, repo_id: str, *, milestones: bool = True) -> list[Branch]:
    """Return everything that is to be published, `main` first, then the milestones in the order of words.

    Args:
        run_dir: A run folder, or any model folder.
        repo_id: "org/name", for the lines of code in the card.
        milestones: Whether the milestones are published too.

    Raises:
        CheckpointError: A folder holds no whole model.
    """
    found = [_branch(MAIN, run_dir, repo_id, run_dir)]
    if milestones:
        folders = [path for path in run_dir.glob(MILESTONES) if (path / run_layout.MILESTONE).is_file()]
        folders.sort(key=lambda path: read_json(path / run_layout.MILESTONE)["target"])
        found += [_branch(path.name, path, repo_id, run_dir) for path in folders]
    return found


def is_of_model(name: str) -> bool:
    """Return whether a file of this name is weights or tokenizer, which decide what is loaded.

    >>> is_of_model("model-00001-of-00002.safetensors"), is_of_model("notes.md"), is_of_model("old/config.json")
    (True, False, False)
    """
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in WEIGHTS + TOKENIZER)


def left_out(run_dir: Path) -> list[str]:
    """Return names of folders that are called like milestones and have no record of one: they are not published."""
    return sorted(path.name for path in run_dir.glob(MILESTONES) if not (path / run_layout.MILESTONE).is_file())


def _branch(name: str, folder: Path, repo_id: str, run_dir: Path) -> Branch:
    check_whole(folder)
    files = []
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        # A link is followed for what a model does not load without, as HuggingFace's cache keeps it; no record is one.
        if is_of_model(path.name):
            files.append(PublishedFile(path.name, path))
        elif path.name in RECORDS and path.suffix in TEXTS and not path.is_symlink():
            text = without_local_paths(path.read_text(encoding="utf-8"), run_dir)
            files.append(PublishedFile(path.name, text.encode()))
    card = main_card(run_dir, repo_id) if name == MAIN else milestone_card(folder, repo_id)
    return Branch(name, sorted([*files, PublishedFile(CARD, card.encode())], key=lambda file: file.name))


def check_whole(folder: Path) -> None:
    """Look into the weights' headers, which a truncated file does not survive.

    Raises:
        CheckpointError: There is no model, or one of its files is damaged.
    """
    from safetensors import safe_open

    if not (folder / run_layout.MODEL_CONFIG).is_file():
        raise CheckpointError(f"{folder}: no config.json: not a model folder")
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise CheckpointError(f"{folder}: no model.safetensors: the run has not ended yet (checkpoints stay here)")
    for path in weights:
        try:
            with safe_open(path, framework="np") as opened:
                opened.keys()
        except Exception as error:  # safetensors raises its own kinds
            raise CheckpointError(f"{path}: damaged: {str(error).splitlines()[0]}") from error


def without_local_paths(text: str, run_dir: Path) -> str:
    """Cut the folders of this machine out of a record: what lay below them is named from there.

    Args:
        text: A record.
        run_dir: The run folder, whose parent is the first to be cut.
    """
    places = {run_dir.resolve().parent, Path.cwd(), Path.cwd().parent} | _named_folders(run_dir)
    with suppress(RuntimeError):  # no HOME and no entry in passwd
        places |= {Path.home(), Path.home().parent}
    for place in sorted({str(place) for place in places if len(place.parts) > 1}, key=len, reverse=True):
        cut = place + os.sep
        for told in (cut, cut.replace("'", "'\"'\"'")):  # as it is, and as a command line quotes it
            in_json = (json.dumps(told, ensure_ascii=plain)[1:-1] for plain in (False, True))
            for spelled in (told, *in_json, html.escape(told), str(escape(told))):
                text = text.replace(spelled, "")
    return text


def _named_folders(run_dir: Path) -> set[Path]:
    """Return the folders around what a run's records name by an absolute path: text and data of other disks."""
    found: set[Path] = set()
    for name in (run_layout.TRAINING_CONFIG, run_layout.TRAINING_METRICS, *_RESULTS):
        path = run_dir / name
        try:
            record = read_yaml(path.read_text(encoding="utf-8"), name) if path.suffix == ".yaml" else read_json(path)
        except (OSError, ValueError, ConfigError):
            continue
        for text in _strings(record):
            for word in (text, *(word.rpartition("=")[2] for word in _words(text))):
                if Path(word).is_absolute() and "\n" not in word:
                    found.add(Path(word).parent)
    return found


def _words(text: str) -> list[str]:
    """Return the words of a text, and those of a command line, which quotes a path with a blank or an umlaut."""
    words = text.split()
    with suppress(ValueError):  # a single quote that is none
        words += shlex.split(text)
    return words


def _strings(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON or YAML
    """Yield the texts in a record, but for those that a model wrote."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in ("generation", "samples"):
                yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def main_card(run_dir: Path, repo_id: str) -> str:
    """Return the run's README.md with `model-index` in its head and the repository's name in its lines of code.

    What the user wrote into the card (a licence, a language, more text) stays.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import eval_results_to_model_index

    path = run_dir / CARD
    text = path.read_text(encoding="utf-8") if path.is_file() else _bare_card(run_dir.name)
    card = ModelCard(text)
    results = run_dir / run_layout.EVALUATION_RESULTS
    if results.is_file():
        entries = eval_results(read_json(results), corpus_name(run_dir))
        card.data["model-index"] = eval_results_to_model_index(repo_id.split("/")[-1], entries)
    card.text = card.text.replace('from_pretrained("PATH")', f'from_pretrained("{repo_id}")')
    return str(card).rstrip("\n") + "\n"


def _bare_card(name: str) -> str:
    return f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# {name}\n"


def corpus_name(run_dir: Path) -> str:
    """Return the training text's name: its folder's or file's, "synthetic", or the hub's."""
    from babyllama.config.loading import load_config

    path = run_dir / run_layout.TRAINING_CONFIG
    return run_layout.corpus_stem(load_config(path).data.train_path) if path.is_file() else "text"


def milestone_card(folder: Path, repo_id: str) -> str:
    """Return a short card of a milestone: how far the training was, and how to load it."""
    facts = read_json(folder / run_layout.MILESTONE)
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- babyllama\n---\n\n"
        f"# {repo_id.split('/')[-1]}, {facts['name']}\n\n"
        f"The model after {facts['words']:,} words ({facts['step']:,} steps) of its training; the branch `main` has "
        f"the final one and its card.\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repo_id}", revision="{facts["name"]}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}", revision="{facts["name"]}")\n```\n'
    )
