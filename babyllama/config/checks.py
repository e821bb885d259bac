"""What must hold between keys, and how unset keys follow the ones that were set."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from babyllama.common.files import ON_WINDOWS
from babyllama.config.schema import CURRICULUM_DIFFICULTIES, TYPES, Config, ModelConfig


def adapt_to_overrides(raw: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """Choose keys of a preset anew where they no longer fit what the user overrode; return a line for each."""
    model = raw.get("model")
    notices: list[str] = []
    if not isinstance(model, dict):
        return notices
    width, heads = model.get("hidden_size"), model.get("n_head")
    # Heads that no longer divide an overridden width.
    if (
        (
            "model.hidden_size" in overrides
            and "model.n_head" not in overrides
            and isinstance(width, int)
            and isinstance(heads, int)
        )
        and heads > 0
        and (width % heads or (width // heads) % 2)
    ):
        model.pop("n_head")
        model.pop("n_kv_head", None)
        notices.append(f"model.n_head: {heads} heads do not fit hidden_size {width}: chosen anew")
    # Heads of keys and values, the batch, the positions.
    kv = model.get("n_kv_head")
    count = model.get("n_head")
    overridden = "model.n_head" in overrides and "model.n_kv_head" not in overrides
    if overridden and isinstance(kv, int) and isinstance(count, int) and count % max(kv, 1):
        model.pop("n_kv_head")
        notices.append(f"model.n_kv_head: {kv} does not fit n_head {count}: as many as n_head")
    training = raw.get("training")
    if isinstance(training, dict):
        notices += _adapt_batch(training, overrides)
    notices += _adapt_positions(raw, model, overrides)
    return notices


def _adapt_positions(raw: dict[str, Any], model: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    data = raw.get("data")
    length = data.get("seq_length") if isinstance(data, dict) else None
    positions = model.get("max_position_embeddings")
    if "data.seq_length" not in overrides or "model.max_position_embeddings" in overrides:
        return []
    if not (isinstance(length, int) and isinstance(positions, int) and positions < length):
        return []
    model["max_position_embeddings"] = length
    return [f"model.max_position_embeddings: {positions} is below seq_length: {length}"]


def _adapt_batch(training: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    size, parts = training.get("batch_size"), training.get("gradient_accumulation_steps")
    overridden = "training.batch_size" in overrides and "training.gradient_accumulation_steps" not in overrides
    if overridden and isinstance(size, int) and isinstance(parts, int) and parts > 0 and size > 0 and size % parts:
        fitting = max(n for n in range(1, parts + 1) if size % n == 0)
        training["gradient_accumulation_steps"] = fitting
        return [f"training.gradient_accumulation_steps: {parts} does not divide batch_size {size}: {fitting} used"]
    return []


def cross_checks(config: Config, source: str) -> list[str]:
    """Return every problem between keys of a configuration: source, keys, values, what fits."""
    m, t, problems = config.model, config.training, []
    # Teachers, curriculum, tokenizer.
    teaching = config.distillation
    if teaching and teaching.weights and len(teaching.weights) != len(teaching.teachers):
        problems.append(
            f"{source}: distillation.weights: {len(teaching.weights)} weights for {len(teaching.teachers)} teachers"
        )
    problems += _curriculum_checks(config)
    if config.data.tokenizer_path and config.data.tokenizer_output:
        problems.append("data.tokenizer_path, data.tokenizer_output: both set; the one is read, the other is trained")
    # The model: a known type, a name that is one folder's, heads that fit.
    if not config.plugins and not m.init_from and m.type not in TYPES.values():
        near = difflib.get_close_matches(m.type.lower(), TYPES, n=1)
        hint = f"did you mean {TYPES[near[0]]}? " if near else ""
        problems.append(
            f"model.type: {m.type!r}: {hint}known: {', '.join(dict.fromkeys(TYPES.values()))}, or a plugin's"
        )
    if m.name is not None and (m.name != m.name.strip() or not m.name.strip(".") or not m.name.isprintable()):
        problems.append(
            f"model.name: {m.name!r} is the name of one folder: no blank at an end, no control character, not only dots"
        )
    elif m.name is not None and any(c in m.name for c in "/\\"):
        problems.append(f"model.name: {m.name!r} is the name of one folder: no / or \\; logging.output_dir says where")
    elif m.name is not None and ON_WINDOWS and not _windows_takes(m.name):
        problems.append(
            f'model.name: {m.name!r}: Windows takes no such folder: none of <>:"|?*, no dot at the end, no CON'
        )
    if not m.init_from and m.type in TYPES.values():
        problems += _head_checks(m)
    # The training: batch, recipe, precision, length.
    if t.patience and t.decay_from:
        problems.append("training.patience: not with training.decay_from: a cooldown is a decay from its first step on")
    elif t.patience and t.lr_scheduler == "wsd" and t.decay_fraction == 1:
        problems.append("training.patience: nothing to end: with decay_fraction 1 the decay begins after the warm-up")
    if t.batch_size % t.parts:
        divisors = [n for n in range(1, t.batch_size + 1) if t.batch_size % n == 0]
        problems.append(
            f"training.gradient_accumulation_steps: {t.gradient_accumulation_steps} does not divide batch_size "
            f"{t.batch_size}; these do: {divisors}"
        )
    if t.slow_batch_size and t.slow_batch_size % t.parts:
        problems.append(f"training.slow_batch_size: {t.parts} parts of a step do not divide {t.slow_batch_size}")
    problems += _recipe_checks(config)
    if t.fp16 is True and t.bf16 is True:
        problems.append("training.fp16, training.bf16: both true; choose one")
    if t.max_steps is not None and t.max_minutes is not None:
        problems.append("training.max_steps, training.max_minutes: both set; choose one")
    if t.decay_from is not None and t.max_minutes is not None:
        problems.append("training.decay_from, training.max_minutes: a cooldown's length is max_steps or num_epochs")
    if m.max_position_embeddings is not None and m.max_position_embeddings < config.data.seq_length:
        problems.append(
            f"model.max_position_embeddings: {m.max_position_embeddings} < " f"data.seq_length {config.data.seq_length}"
        )
    return [f"{source}: {problem}" for problem in problems]


def _windows_takes(name: str) -> bool:
    """Return whether Windows makes a folder of that name, and not a device, another name or a stream of a file.

    >>> [name for name in ("run", "a:b", "run.", "con.1", "concise") if _windows_takes(name)]
    ['run', 'concise']
    """
    device = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)", name.split(".")[0].strip(), re.IGNORECASE)
    return not (device or name.endswith(".") or set('<>:"|?*') & set(name))


def _recipe_checks(config: Config) -> list[str]:
    t, cut, found = config.training, config.data.segment_tokens, []
    # Averages and cooldowns.
    if t.keep == "ema" and not t.ema_decay and not t.average_epochs:
        found.append("training.keep: ema: there is no average: set training.ema_decay, e.g. 0.999, or average_epochs")
    for key in ("ema_decay", "average_epochs"):
        if getattr(t, key) and t.fsdp:
            found.append(f"training.{key}: not with training.fsdp: an average needs whole weights")
    if t.average_epochs and t.patience:  # without a place behind it there would be no mean to save
        found.append("training.average_epochs: not with training.patience, which moves the end; ema_decay goes with it")
    if t.average_epochs and t.max_steps is None and t.max_minutes is None and t.num_epochs < t.average_epochs:
        found.append(f"training.average_epochs: {t.average_epochs} of {t.num_epochs:g} epochs: more than the run has")
    if t.decay_from and t.lr_scheduler != "wsd":
        found.append(f"training.decay_from: a cooldown decays: lr_scheduler wsd, not {t.lr_scheduler}")
    # Chunks: shorter ones at first, from lines, from parts of documents.
    short = config.data.start_length
    if short and (short >= config.data.seq_length or config.data.seq_length % short):
        found.append(f"data.start_length: {short}: a part of seq_length {config.data.seq_length} that divides it")
    if config.data.chunk_start == "line":
        others = {"data.segment_tokens": cut, "data.mix": config.data.mix, "curriculum": config.curriculum}
        others["data.mix_temperature"] = config.data.mix_temperature
        found += [f"data.chunk_start: line: not with {key}" for key, value in others.items() if value is not None]
    found += _sharing_checks(config)
    if cut and not 2 <= cut[0] <= cut[1] <= config.data.seq_length:
        length = config.data.seq_length
        found.append(f"data.segment_tokens: {list(cut)}: shortest and longest, from 2 to seq_length {length}")
    return [*found, *_mix_checks(config)]


def _mix_checks(config: Config) -> list[str]:
    data, found = config.data, []
    if data.mix is None and data.mix_temperature is None:
        return []
    key = "data.mix" if data.mix is not None else "data.mix_temperature"
    if data.mix is not None and data.mix_temperature is not None:
        found.append("data.mix, data.mix_temperature: both set; choose one")
    if data.mix is not None and not sum(data.mix.values()):
        found.append("data.mix: no weight above 0")
    if config.curriculum is not None:
        found.append(f"{key}: not with a curriculum: both say in which order text is shown")
    if data.segment_tokens is not None:
        found.append(f"{key}: not with data.segment_tokens: segments are cut over all domains")
    return found


def _sharing_checks(config: Config) -> list[str]:
    unique = config.model.unique_layers
    if unique is None:
        return []
    if config.model.type not in TYPES.values():
        return [f"model.unique_layers: not with model.type {config.model.type}: its layers are not known"]
    if config.training.fsdp:
        return ["model.unique_layers: not with training.fsdp, which shares out each layer by itself"]
    if unique > config.model.n_layer and not config.model.init_from:
        return [f"model.unique_layers: {unique} of n_layer {config.model.n_layer}: more than there are"]
    return []


def _curriculum_checks(config: Config) -> list[str]:
    learning = config.curriculum
    if learning is None:
        return []
    name = learning.difficulty
    if name not in CURRICULUM_DIFFICULTIES and not config.plugins:
        known = ", ".join(CURRICULUM_DIFFICULTIES)
        return [f"curriculum.difficulty: {name!r}: known: {known}, or one that a plugin registers"]
    if name == "domain" and not learning.domains:
        return ["curriculum.domains: missing: difficulty domain needs every domain of the text, the easiest first"]
    if name == "loss" and not learning.model:
        return ["curriculum.model: missing: difficulty loss needs a run folder"]
    return []


def default_heads(hidden_size: int) -> int:
    """Return number of heads whose size is even, divides `hidden_size` and is closest to 64.

    >>> default_heads(768), default_heads(192), default_heads(100)
    (12, 3, 2)
    """
    divisors = [n for n in range(1, hidden_size + 1) if hidden_size % n == 0 and (hidden_size // n) % 2 == 0]
    return min(divisors or [1], key=lambda n: (abs(hidden_size / n - 64), n))


def _head_checks(model: ModelConfig) -> list[str]:
    """Check heads, also those that are chosen: an odd width has none of even size, as rotary positions need."""
    width, heads = model.hidden_size, model.n_head or default_heads(model.hidden_size)
    rotary = model.type in {"Llama", "GPTJ"}
    if width % heads:
        divisors = [n for n in range(1, 65) if width % n == 0 and (width // n) % 2 == 0]
        return [f"model.n_head: {heads} does not divide hidden_size {width}; these do: {divisors}"]
    if rotary and (width // heads) % 2:
        if model.n_head is None:
            return [f"model.hidden_size: {width} is odd: {model.type} needs heads of even size; {width + 1} is even"]
        return [f"model.n_head: {heads} gives heads of odd size {width // heads}; rotary ones are even"]
    if model.n_kv_head is not None and heads % model.n_kv_head:
        chosen = "" if model.n_head else ", which were chosen for this width"
        return [f"model.n_kv_head: {model.n_kv_head} does not divide n_head {heads}{chosen}"]
    return []
