"""`export RUN --gguf`: a file that llama.cpp, Ollama and LM Studio read, checked against the model before it is kept
(but with `--no-check`).

    python main.py export models/Llama-10M --gguf                      models/Llama-10M/gguf/Llama-10M-F16.gguf
    python main.py export models/Llama-10M --gguf --quantize q8_0      half the size

Beside the file stands a Modelfile for Ollama (`ollama create NAME -f Modelfile`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from babyllama.common.console import say
from babyllama.common.errors import ConfigError
from babyllama.common.files import atomic_path, write_text_atomic
from babyllama.common.units import human_bytes
from babyllama.config.run_layout import TRAINING_CONFIG

FOLDER, MODELFILE = "gguf", "Modelfile"
NO_TEMPLATE = "# A base model continues text: no chat template."
BITS = {"f32": 32, "f16": 16, "q8_0": 8.5, "q5_0": 5.5, "q4_0": 4.5}  # a weight, its block's scale included


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("checkpoint", metavar="RUN", help="a run folder, a milestone in it, or any Llama or GPT-2")
    parser.add_argument("--gguf", action="store_true", help="write a GGUF file for llama.cpp and Ollama")
    parser.add_argument(
        "--quantize",
        choices=list(BITS),
        default="f16",
        help="how matrices are stored: f16 (default) loses nothing that can be measured, q8_0 half its size",
    )
    parser.add_argument("--output", metavar="PATH", help="a file *.gguf, or a folder (default: RUN/gguf)")
    parser.add_argument("--no-check", action="store_true", help="do not read the file back and compare it")


def run(args: argparse.Namespace) -> int:
    """Export a checkpoint.

    Raises:
        ConfigError: No format was asked for, or the model has no counterpart in it.
        CheckpointError: The checkpoint cannot be loaded, or what was written differs from it.
    """
    if not args.gguf:
        raise ConfigError("export: which format? add --gguf")
    from babyllama.common import disk_space
    from babyllama.models.loading import load_model, load_tokenizer_of, trained_length
    from babyllama.sharing import gguf_check, gguf_model, gguf_tokenizer

    # 1. refuse early: without the package, a model llama.cpp has no graph for, a tokenizer it would cut otherwise
    gguf_model.require_gguf()
    folder = Path(args.checkpoint).expanduser()
    model, tokenizer = load_model(folder), load_tokenizer_of(folder)
    gguf_model.check_supported(model.config)
    bpe = gguf_tokenizer.read_bpe(tokenizer)
    target = target_path(folder, args.output, args.quantize)
    disk_space.check_output_file(target, _is_export)
    disk_space.check_output_file(target.parent / MODELFILE, _is_modelfile)
    expected = int(model.num_parameters() * BITS[args.quantize] / 8)
    disk_space.check_space(target.parent, expected, "the GGUF file", "choose another --output")
    # 2. write under a temporary name, read back, compare, and only then give it its name
    window = trained_length(folder) or model.config.max_position_embeddings
    with atomic_path(target) as temporary:
        facts = {"name": run_name(folder), "description": _description(folder)}
        written = gguf_model.write_gguf(model, bpe, temporary, args.quantize, facts)
        if not args.no_check:
            found = gguf_check.compare(gguf_check.open_reader(temporary, model), model, tokenizer, window)
            gguf_check.require_equal(found, args.quantize)
    write_text_atomic(target.parent / MODELFILE, modelfile(target.name, window, tokenizer.eos_token))
    # 3. what was done
    say(f"{target}: {human_bytes(written.bytes)}, {written.parameters:,} weights in {args.quantize}")
    if written.unquantized:
        say(f"{len(written.unquantized)} matrices are kept in f16: their rows are no multiple of a block of 32")
    say("not checked: --no-check" if args.no_check else found.line())
    say(f"trained on {window} tokens at a time: llama-cli -m {target} -c {window} -p 'Once upon a time'")
    say(f"Ollama: ollama create {run_name(folder).lower()} -f {target.parent / MODELFILE}")
    return 0


def _description(folder: Path) -> str:
    """Say where a checkpoint comes from, as far as its folder tells."""
    from babyllama.models.loading import run_config_of
    from babyllama.pages.model_card import origin_of

    config = run_config_of(folder)
    if config is None:
        return "Exported with BabyLlama"
    teachers = config.distillation.teachers if config.distillation else ()
    origin = origin_of(config.model.init_from, teachers)
    return f"{origin[0].upper()}{origin[1:]}, with BabyLlama"


def _is_export(head: bytes) -> bool:
    """Whether a file begins as the GGUF files of this command do."""
    return head.startswith(b"GGUF") and b"BabyLlama" in head


def _is_modelfile(head: bytes) -> bool:
    """Whether a file begins as the Modelfiles of this command do."""
    return head.startswith(b"FROM ./") and NO_TEMPLATE.encode() in head


def target_path(folder: Path, output: str | None, quantization: str) -> Path:
    """Return where the file goes: `--output FILE.gguf`, else NAME-TYPE.gguf in `--output FOLDER` or RUN/gguf.

    >>> target_path(Path("models/Llama-10M"), "out", "q8_0").as_posix()
    'out/Llama-10M-Q8_0.gguf'
    """
    if output is not None and output.endswith(".gguf"):
        return Path(output).expanduser()
    parent = folder / FOLDER if output is None else Path(output).expanduser()
    return parent / f"{run_name(folder)}-{quantization.upper()}.gguf"


def run_name(folder: Path) -> str:
    """Name of a checkpoint: its folder's; for a milestone or a checkpoint of a run the run's name in front."""
    folder = folder.resolve()
    if (folder.parent / TRAINING_CONFIG).is_file():
        return f"{folder.parent.name}-{folder.name}"
    return folder.name


def modelfile(name: str, window: int, eos: str | None) -> str:
    """Text of an Ollama Modelfile for a base model: the prompt as it is, the trained context length, the end token.

    Args:
        name: The GGUF file beside it.
        window: Positions the model was trained at.
        eos: The token that ends a text.
    """
    lines = [
        f"FROM ./{name}",
        NO_TEMPLATE,
        'TEMPLATE """{{ .Prompt }}"""',
        f"PARAMETER num_ctx {window}",
        "PARAMETER temperature 0.8",
        "PARAMETER top_k 50",
        "PARAMETER repeat_penalty 1.0",
    ]
    return "\n".join([*lines, *([f'PARAMETER stop "{eos}"'] if eos else [])]) + "\n"
