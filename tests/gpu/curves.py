"""A hundred steps from the same seed: the losses of the device, in each precision, beside the CPU's in float32.

Single steps drift apart with rounding; the mean of each twenty must not. The CPU's curve is kept in OUT/references, so
that it can be made beforehand where the machine with the GPU is dear.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.gpu.rows import Report, Spec
from tests.gpu.runs import configuration, losses, means, precision_keys, trainer_of

LIMITS = {"fp32": 0.005, "bf16": 0.03, "fp16": 0.03}


def steps_of(spec: Spec) -> int:
    """Optimizer steps of a curve."""
    if spec.options.get("teachers"):
        return 6 if spec.quick else 20
    return 20 if spec.quick else 100


def curve_config(spec: Spec, precision: str) -> Any:
    """The configuration of a curve; all precisions share everything else."""
    training = precision_keys(precision) | {"max_steps": steps_of(spec), "tf32": False, "optimizer": "adamw"}
    config = configuration(spec, **training)
    if spec.options.get("teachers"):
        teacher = spec.out / "references" / f"teacher-{'quick' if spec.quick else 'full'}"
        config.model.name = "student"
        config.distillation = {"teachers": [str(teacher)]}
    return config


def reference(spec: Spec) -> Report:
    """The CPU's curve in float32, kept; with `options.teachers` also the teacher."""
    spec = replace(spec, device="cpu")
    path = reference_path(spec)
    if path.is_file():
        return Report({"steps": steps_of(spec)}, notes=["kept from an earlier command"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if spec.options.get("teachers"):
        make_teacher(spec)
    trainer = trainer_of(curve_config(spec, "fp32"))
    trainer.train()
    found = losses(trainer)
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return Report({"steps": len(found), "first loss": found[0], "last loss": found[-1]})


def make_teacher(spec: Spec) -> None:
    """A teacher: the run's own architecture after a few steps on the CPU."""
    folder = spec.out / "references" / f"teacher-{'quick' if spec.quick else 'full'}"
    if (folder / "model.safetensors").is_file():
        return
    config = configuration(spec, name="teacher", max_steps=10, bf16=False, seed=7)
    trainer = trainer_of(config)
    trainer.train()
    trainer.model.save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)


def reference_path(spec: Spec) -> Path:
    """Where the reference of these options lies: another recipe, another file."""
    plain = curve_config(replace(spec, device="cpu"), "fp32").model_dump(mode="json", exclude={"logging"})
    teachers = (plain.get("distillation") or {}).pop("teachers", None)
    key = hashlib.sha256(json.dumps([plain, bool(teachers)], sort_keys=True).encode()).hexdigest()[:12]
    return spec.out / "references" / f"curve-{key}.json"


def curve(spec: Spec) -> Report:
    """The device's curve in one precision, against the reference."""
    precision = spec.options["precision"]
    path = reference_path(spec)
    if not path.is_file():
        return Report(skipped="there is no reference: the row that makes it did not pass")
    wanted = json.loads(path.read_text(encoding="utf-8"))
    trainer = trainer_of(curve_config(spec, precision))
    used = trainer.runtime.precision
    trainer.train()
    found = losses(trainer)
    report = Report({"last loss": found[-1]}, notes=[trainer.runtime.line()])
    report.expect(used == precision, f"computed in {used}, not in {precision}")
    report.expect(len(found) == len(wanted), f"{len(found)} steps, the reference has {len(wanted)}")
    for ours, theirs in zip(means(found), means(wanted), strict=False):
        report.limit("largest difference of 20 steps' mean", abs(ours - theirs), LIMITS[precision])
    return report
