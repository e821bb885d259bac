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
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from babyllama.common.errors import ConfigError
from babyllama.common.files import write_text_atomic
from babyllama.common.provenance import program
from babyllama.config.checks import adapt_to_overrides, cross_checks
from babyllama.config.run_layout import config_path, preset_paths
from babyllama.config.schema import (
    SECTIONS,
    TYPES,
    Config,
    TrainingConfig,
)
from babyllama.config.yaml_reader import read_yaml, write_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

OPTIONAL = {"distillation", "curriculum"}
OLD_OPTIMIZATION = {"weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"}
TEXT_KEYS = {
    section: frozenset(key for key, field in model.model_fields.items() if field.annotation in (str, str | None))
    for section, model in SECTIONS.items()
}
PATH_KEYS = tuple(
    ("data", key) for key in ("train_path", "eval_path", "tokenizer_path", "tokenizer_output", "cache_dir")
)


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Load a configuration.

    Args:
        path: A YAML file, or a preset's name; None starts from the defaults, so that `model.type` must come from an
            override.
        overrides: `section.key=value`, the value in YAML.
        flags: `section.key` -> value, from the command line's own flags; they win.

    Raises:
        ConfigError: With every problem found.
    """
    raw: object = {}
    source = "command line"
    if path is not None:
        source = str(path)
        raw = read_yaml(_read_file(config_path(path)), source)
    return config_from_dict(raw, source, _parse_overrides(overrides) | dict(flags or {}))


def _read_file(path: Path) -> str:
    if not path.is_file():
        hint = _hint(path)
        what = "a folder, not a YAML file" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}{hint}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None


def _hint(path: Path) -> str:
    """What may have been meant: a file beside it, or a preset."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
    if near:
        return f"; did you mean {path.parent / near[0]}?"
    near = difflib.get_close_matches(path.name.removesuffix(".yaml"), preset_paths(), n=1)
    return f"; did you mean the preset {near[0]}?" if near else f"; {program()} presets lists the presets"


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    problems = []
    for item in overrides:
        key, sign, value = item.partition("=")
        if not sign or ("." not in key and key != "plugins"):
            problems.append(f"--set {item}: write --set section.key=value, for example --set training.lr=1e-3")
            continue
        section, _, name = key.strip().partition(".")
        found = read_yaml(value, f"--set {item}")
        is_text = name in TEXT_KEYS.get(section, ()) and isinstance(found, int | float) and not isinstance(found, bool)
        parsed[key.strip()] = value.strip() if is_text else found  # a run may be called 1e3
    if problems:
        raise ConfigError(problems)
    return parsed


def config_from_dict(raw: object, source: str = "config", overrides: Mapping[str, Any] | None = None) -> Config:
    """Check a parsed configuration and lay overrides over it.

    Args:
        raw: What the YAML held.
        source: Name of the file, for messages.
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
    # Older layouts, then the overrides over the file.
    problems = _modernize(raw, source)
    problems += _take_quick_start(raw, source, overrides)
    problems += _lay_over(raw, overrides)
    problems += _unknown_keys(raw, source)
    notices = adapt_to_overrides(raw, overrides)
    raw = {
        key: ({} if value is None and key in SECTIONS and key not in OPTIONAL else value) for key, value in raw.items()
    }
    # The shape by the schema, then what hangs together; all problems are told at once.
    config = None
    try:
        config = Config.model_validate(
            {name: _numbers(section, TEXT_KEYS.get(name, frozenset())) for name, section in raw.items()}
        )
    except ValidationError as error:
        problems += [line for line in (_problem(e, source, overrides) for e in error.errors()) if line]
    if config is not None:
        problems += cross_checks(config, source)
    if problems or config is None:
        raise ConfigError(list(dict.fromkeys(problems)))
    config._notices = notices
    return config


def _modernize(raw: dict[str, Any], source: str) -> list[str]:
    """Older layouts of this field: `optimization:` joins training, `student:` is the model."""
    problems = []
    # `optimization:` joins `training:`.
    old = raw.pop("optimization", None)
    if old is not None and not isinstance(old, dict):
        problems.append(f"{source}: optimization: expected keys and values, found {old!r}")
    if isinstance(old, dict):
        if raw.get("training") is None:
            raw["training"] = {}
        training = raw["training"] if isinstance(raw["training"], dict) else {}
        for key, value in old.items():
            if key in OLD_OPTIMIZATION:
                training.setdefault(key, value)
            else:
                problems.append(f"{source}: optimization.{key}: unknown key{_nearest(key, 'training')}")
    # `student:` is the model, and a recipe under `distillation:` the training's.
    if "student" in raw and "model" not in raw:
        raw["model"] = raw.pop("student")
        if isinstance(raw["model"], dict):
            raw["model"].setdefault("type", "Llama")
    teaching = raw.get("distillation")
    if isinstance(teaching, dict):  # the recipe stood there: lr, batch_size, num_epochs ...
        moved = TrainingConfig.model_fields.keys() & teaching.keys()
        if moved and not isinstance(raw.get("training"), dict):
            raw["training"] = {}
        for key in sorted(moved):
            raw["training"].setdefault(key, teaching.pop(key))
    model = raw.get("model")
    if isinstance(model, dict) and isinstance(model.get("type"), str):
        model["type"] = TYPES.get(model["type"].lower(), model["type"])
    return problems


def _take_quick_start(raw: dict[str, Any], source: str, overrides: Mapping[str, Any]) -> list[str]:
    """Lay `training.quick_start` over the section where the text is the embedded corpus, and drop it elsewhere."""
    training, data = raw.get("training"), raw.get("data")
    if not isinstance(training, dict) or training.get("quick_start") is None:
        return []
    short = training.pop("quick_start")
    if not isinstance(short, dict):
        return [f"{source}: training.quick_start: expected keys of training and their values, found {short!r}"]
    text = overrides.get("data.train_path", data.get("train_path") if isinstance(data, dict) else None)
    if text in (None, "synthetic"):
        training.update(short)
    return []


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
            if key == "training.batch_size":  # who names a size gets it on every machine
                raw[section].pop("slow_batch_size", None)
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


def _numbers(value: object, texts: frozenset[str] = frozenset()) -> Any:  # noqa: ANN401 - YAML
    """Turn numbers that YAML left as text (`3e-4`, `1_000`) into numbers; text, and the keys `texts`, stay text."""
    if isinstance(value, dict):
        return {key: item if key in texts else _numbers(item) for key, item in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+", value.strip()):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return value


def _problem(error: ErrorDetails, source: str, overrides: Mapping[str, Any]) -> str:
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


def config_notices(config: Config) -> list[str]:
    """Return lines about keys that were adapted when the configuration was loaded."""
    return list(config._notices)


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration as YAML that loads back to the same, paths absolute."""
    plain = config.model_dump(mode="json")
    for section, key in PATH_KEYS:
        plain[section][key] = _absolute(plain[section][key])
    plain["logging"]["output_dir"] = str(Path(config.logging.output_dir).expanduser().resolve())
    plain["plugins"] = [_absolute(path) for path in config.plugins]
    if config.model.init_from:
        plain["model"]["init_from"] = _absolute(config.model.init_from)
    plain["training"]["decay_from"] = _absolute(config.training.decay_from)
    if config.distillation:
        plain["distillation"]["teachers"] = [_absolute(path) for path in config.distillation.teachers]
    if config.curriculum and config.curriculum.model:
        plain["curriculum"]["model"] = _absolute(config.curriculum.model)
    write_text_atomic(path, write_yaml(plain))


def _absolute(path: str | None) -> str | None:
    if path is None or path == "synthetic" or path.startswith("hf:"):
        return path
    return str(Path(path).expanduser().absolute())


def json_schema() -> dict[str, Any]:
    """Return JSON Schema of a configuration file, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "BabyLlama configuration"} | schema
