"""Loading a configuration: YAML, older layouts, overrides, flags; every problem found is told at once.

A file is read by a strict loader: duplicate keys and tags are errors, and what YAML 1.1 would silently change (`3e-4`
stays a string, `1:30` becomes 90, `no` becomes False) reaches the schema as its writer meant it. Then `--set` and
flags are laid over it, the shape is checked (schema.py), and last what hangs together: heads divide the width,
accumulation divides the batch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from babyllama.common.errors import ConfigError
from babyllama.common.files import write_text_atomic
from babyllama.schema import (
    CURRICULUM_DIFFICULTIES,
    Config,
    CurriculumConfig,
    DataConfig,
    DistillationConfig,
    LoggingConfig,
    ModelConfig,
    TrainingConfig,
)

SECTIONS: dict[str, Any] = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "logging": LoggingConfig,
    "distillation": DistillationConfig,
    "curriculum": CurriculumConfig,
}
OPTIONAL = {"distillation", "curriculum"}
TYPES = {"llama": "Llama", "gpt2": "GPT2", "gpt-2": "GPT2", "gptj": "GPTJ", "gpt-j": "GPTJ"}
OLD_OPTIMIZATION = {"weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"}
PATH_KEYS = (("data", "train_path"), ("data", "eval_path"), ("data", "tokenizer_path"), ("data", "cache_dir"))


class _Loader(yaml.SafeLoader):
    """Safe YAML without duplicate keys, tags and sexagesimal numbers."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(getattr(key_node, "value", key_node))
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}: keep one of the two", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refuse_tag(loader: Any, node: Any) -> None:
    raise yaml.constructor.ConstructorError(
        None, None, f"tag {node.tag!r} is not allowed: write plain values", node.start_mark
    )


_Loader.yaml_implicit_resolvers = {
    letter: [
        (tag, pattern) for tag, pattern in resolvers if tag not in {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
    ]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
_Loader.add_constructor(None, _refuse_tag)


def _flat_float(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:float", _flat_float)


def read_yaml(text: str, source: str) -> Any:
    """Parse YAML strictly.

    Raises:
        ConfigError: With file, line and column.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise ConfigError(f"{source}: {place}{problem}") from None


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Load a configuration.

    Args:
        path: A YAML file; None starts from the defaults, so that `model.type` must come from an override.
        overrides: `section.key=value`, the value in YAML.
        flags: `section.key` -> value, from the command line's own flags; they win.

    Raises:
        ConfigError: With every problem found.
    """
    raw: Any = {}
    source = "command line"
    if path is not None:
        source = str(path)
        raw = read_yaml(_read_file(Path(path)), source)
    return config_from_dict(raw, source, _parse_overrides(overrides) | dict(flags or {}))


def _read_file(path: Path) -> str:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("config")
        names = [p.name for p in folder.glob("*.yaml")] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; did you mean {folder / near[0]}?" if near else "; python main.py presets lists the presets"
        what = "a folder, not a YAML file" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}{hint}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    problems = []
    for item in overrides:
        key, sign, value = item.partition("=")
        if not sign or ("." not in key and key != "plugins"):
            problems.append(f"--set {item}: write --set section.key=value, for example --set training.lr=1e-3")
            continue
        parsed[key.strip()] = read_yaml(value, f"--set {item}")
    if problems:
        raise ConfigError(problems)
    return parsed


def config_from_dict(raw: Any, source: str = "config", overrides: Mapping[str, Any] | None = None) -> Config:
    """Check a parsed configuration and lay overrides over it.

    Args:
        raw: What the YAML held.
        source: Its name, for messages.
        overrides: `section.key` -> value.

    Raises:
        ConfigError: With every problem found, one line each.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: expected sections (data, model, training, logging), found {type(raw).__name__}")
    raw = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    overrides = dict(overrides or {})
    problems = _modernize(raw, source)
    problems += _lay_over(raw, overrides)
    problems += _unknown_keys(raw, source)
    notices = _adapt_to_overrides(raw, overrides)
    raw = {
        key: ({} if value is None and key in SECTIONS and key not in OPTIONAL else value) for key, value in raw.items()
    }
    config = None
    try:
        config = Config.model_validate(_numbers(raw))
    except ValidationError as error:
        problems += [line for line in (_problem(e, source, overrides) for e in error.errors()) if line]
    if config is not None:
        problems += _cross_checks(config, source)
    if problems or config is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    config._notices = notices
    return config


def _modernize(raw: dict[str, Any], source: str) -> list[str]:
    """Older layouts of this field: `optimization:` joins training, `student:` is the model."""
    problems = []
    old = raw.pop("optimization", None)
    if isinstance(old, dict):
        training = raw.setdefault("training", {})
        for key, value in old.items():
            if key in OLD_OPTIMIZATION:
                training.setdefault(key, value)
            else:
                problems.append(f"{source}: optimization.{key}: unknown key{_nearest(key, 'training')}")
    if "student" in raw and "model" not in raw:
        raw["model"] = raw.pop("student")
    model = raw.get("model")
    if isinstance(model, dict) and isinstance(model.get("type"), str):
        model["type"] = TYPES.get(model["type"].lower(), model["type"])
    return problems


def _lay_over(raw: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    problems = []
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if key == "plugins":
            raw["plugins"] = value
        elif section in SECTIONS and name in SECTIONS[section].model_fields:
            if not isinstance(raw.get(section), dict):
                raw[section] = {}
            raw[section][name] = TYPES.get(str(value).lower(), value) if key == "model.type" else value
        else:
            problems.append(f"--set {key}: unknown key{_nearest(name or section, section)}")
    return problems


def _unknown_keys(raw: dict[str, Any], source: str) -> list[str]:
    problems = []
    for section, value in list(raw.items()):
        if section not in Config.model_fields:
            near = difflib.get_close_matches(str(section), Config.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else _nearest(str(section), "")
            problems.append(f"{source}: {section}: unknown section{hint}")
            del raw[section]
        elif section in SECTIONS and isinstance(value, dict):
            for key in [k for k in value if k not in SECTIONS[section].model_fields]:
                problems.append(f"{source}: {section}.{key}: unknown key{_nearest(str(key), section)}")
                del value[key]
    return problems


def _nearest(key: str, section: str) -> str:
    """`; did you mean section.key?`, looking in the key's own section first."""
    order = [section, *SECTIONS] if section in SECTIONS else list(SECTIONS)
    for name in order:
        if key in SECTIONS[name].model_fields:
            return f"; did you mean {name}.{key}?"
    for name in order:
        near = difflib.get_close_matches(key, SECTIONS[name].model_fields, n=1, cutoff=0.7)
        if near:
            return f"; did you mean {name}.{near[0]}?"
    return f"; known keys: {', '.join(SECTIONS[section].model_fields)}" if section in SECTIONS else ""


def _numbers(value: Any) -> Any:
    """Numbers that YAML left as text (`3e-4`, `1_000`) become numbers; text stays text."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+", value.strip()):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return value


def _problem(error: Any, source: str, overrides: Mapping[str, Any]) -> str:
    location = [str(part) for part in error["loc"] if not str(part).startswith(("literal[", "function-", "bool"))]
    key = ".".join(location[:2]) if location and location[0] != "plugins" else "plugins"
    place = "--set " if key in overrides else f"{source}: "
    if error["type"] == "missing":
        return (
            f"{place}{key}: missing; set it to one of {', '.join(dict.fromkeys(TYPES.values()))}"
            if key == "model.type"
            else f"{place}{key}: missing"
        )
    allowed = error["msg"].removeprefix("Value error, ")
    allowed = allowed[:1].lower() + allowed[1:]
    return f"{place}{key}: {error['input']!r}: {allowed}"


def _adapt_to_overrides(raw: dict[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """Keys of a preset that no longer fit what the user overrode are worked out anew, with a line."""
    model = raw.get("model")
    notices: list[str] = []
    if not isinstance(model, dict):
        return notices
    width, heads = model.get("hidden_size"), model.get("n_head")
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


def _cross_checks(config: Config, source: str) -> list[str]:
    m, t, problems = config.model, config.training, []
    teaching = config.distillation
    if teaching and teaching.weights and len(teaching.weights) != len(teaching.teachers):
        problems.append(
            f"{source}: distillation.weights: {len(teaching.weights)} weights for {len(teaching.teachers)} teachers"
        )
    problems += _curriculum_checks(config)
    if not config.plugins and m.type not in TYPES.values():
        near = difflib.get_close_matches(m.type.lower(), TYPES, n=1)
        hint = f"did you mean {TYPES[near[0]]}? " if near else ""
        problems.append(
            f"model.type: {m.type!r}: {hint}known: {', '.join(dict.fromkeys(TYPES.values()))}, or a plugin's"
        )
    if m.name is not None and (m.name in {".", ".."} or any(c in m.name for c in "/\\")):
        problems.append(f"model.name: {m.name!r} is the name of one folder: no / or \\; logging.output_dir says where")
    if m.n_head is not None:
        if m.hidden_size % m.n_head:
            divisors = [n for n in range(1, 65) if m.hidden_size % n == 0 and (m.hidden_size // n) % 2 == 0]
            problems.append(
                f"model.n_head: {m.n_head} does not divide hidden_size {m.hidden_size}; these do: {divisors}"
            )
        elif m.type in {"Llama", "GPTJ"} and (m.hidden_size // m.n_head) % 2:
            problems.append(
                f"model.n_head: {m.n_head} gives heads of odd size {m.hidden_size // m.n_head}; rotary ones are even"
            )
        elif m.n_kv_head is not None and m.n_head % m.n_kv_head:
            problems.append(f"model.n_kv_head: {m.n_kv_head} does not divide n_head {m.n_head}")
    if t.batch_size % t.gradient_accumulation_steps:
        divisors = [n for n in range(1, t.batch_size + 1) if t.batch_size % n == 0]
        problems.append(
            f"training.gradient_accumulation_steps: {t.gradient_accumulation_steps} does not divide batch_size "
            f"{t.batch_size}; these do: {divisors}"
        )
    if t.fp16 is True and t.bf16 is True:
        problems.append("training.fp16, training.bf16: both true; choose one")
    if m.max_position_embeddings is not None and m.max_position_embeddings < config.data.seq_length:
        problems.append(
            f"model.max_position_embeddings: {m.max_position_embeddings} < " f"data.seq_length {config.data.seq_length}"
        )
    return [f"{source}: {problem}" for problem in problems]


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


def config_notices(config: Config) -> list[str]:
    """Lines about keys that were adapted when the configuration was loaded."""
    return list(config._notices)


def run_name(config: Config) -> str:
    """The run's name: `model.name`, else the architecture's; behind it the corpus's stem unless the name was given.

    A preset's name stands for its recipe, so a second command on another text gets another folder.
    """
    return config.model.name or config.model.type


def corpus_stem(train_path: str) -> str:
    """A short name for a corpus path: `../corpora/babylm_like/` -> `babylm_like`, `hf:org/Name:en` -> `Name-en`."""
    if train_path.startswith("hf:"):
        stem = train_path.removeprefix("hf:").split("/")[-1].replace(":", "-")
    else:
        path = Path(train_path)
        stem = path.parent.name if any(c in path.name for c in "*?[") else path.name
        stem = stem.split(".")[0] or path.resolve().name
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_") or "text"


def run_dir(config: Config) -> Path:
    """The run folder, absolute."""
    return (Path(config.logging.output_dir).expanduser() / run_name(config)).resolve()


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration as YAML that loads back to the same, paths absolute."""
    plain = config.model_dump(mode="json")
    for section, key in PATH_KEYS:
        plain[section][key] = _absolute(plain[section][key])
    plain["logging"]["output_dir"] = str(Path(config.logging.output_dir).expanduser().resolve())
    plain["plugins"] = [_absolute(path) for path in config.plugins]
    if config.model.init_from:
        plain["model"]["init_from"] = _absolute(config.model.init_from)
    if config.curriculum and config.curriculum.model:
        plain["curriculum"]["model"] = _absolute(config.curriculum.model)
    write_text_atomic(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def _absolute(path: str | None) -> str | None:
    if path is None or path == "synthetic" or path.startswith("hf:"):
        return path
    return str(Path(path).expanduser().absolute())


def json_schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "BabyLlama configuration"} | schema


def preset_paths() -> dict[str, Path]:
    """Name -> file of the presets beside the code."""
    folder = Path(__file__).resolve().parent.parent / "config"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
