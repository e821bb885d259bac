"""The rows: name, what computes it, how long it may take, what it needs. And what a row's child gets and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GROUPS = ("check", "faults", "speed", "train")
KINDS = ("Llama", "GPT2", "GPTJ")


@dataclass
class Spec:
    """What a row's child is told.

    Attributes:
        device: `cuda` or `cpu`.
        quick: Small sizes, few steps.
        out: Folder of the results; `out/references` keeps what the CPU computed for later commands.
        data: Folder of real text, checkpoints and evaluation sets (data/README.md), or None.
        options: The row's own.
        scratch: An empty folder that goes with the child.
    """

    device: str
    quick: bool
    out: Path
    data: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    scratch: Path = Path()

    @property
    def cuda(self) -> bool:
        """Whether a GPU computes."""
        return self.device.startswith("cuda")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        data = None if self.data is None else str(self.data)
        return {
            "device": self.device,
            "quick": self.quick,
            "out": str(self.out),
            "data": data,
            "options": dict(self.options),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Spec:
        """The inverse of `to_dict`."""
        data = plain["data"]
        return cls(**{**plain, "out": Path(plain["out"]), "data": None if data is None else Path(data)})


@dataclass
class Report:
    """What a row found.

    Attributes:
        figures: Measured numbers by name, for the table.
        problems: What is wrong; none where the row passes.
        notes: What a reader should know beside the figures.
        skipped: The reason where nothing was measured.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""

    def limit(self, name: str, value: float, largest: float) -> None:
        """Keep the largest value under a name; one above the limit (or NaN) is a problem.

        Args:
            name: The figure's name.
            value: What was measured.
            largest: What is allowed.
        """
        before = self.figures.get(name)
        if before is None or not value <= before:
            self.figures[name] = value
        if not value <= largest:
            self.problems.append(f"{name}: {value:.3g} is above {largest:g}")

    def expect(self, condition: bool, problem: str) -> None:
        """Note a problem where a condition does not hold."""
        if not condition:
            self.problems.append(problem)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: What the table calls it.
        group: One of GROUPS.
        function: `module:function` in tests.gpu; takes a Spec, gives a Report.
        expected: Seconds on a GPU; the planner fills `--minutes` with them.
        limit: Seconds after which the child is killed.
        options: For the function.
        needs: Any of `cuda`, `two` (GPUs), `data`, `compiler`.
        quick: Part of `--quick`.
    """

    name: str
    group: str
    function: str
    expected: float
    limit: float
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    quick: bool = True


REFERENCE_LIMIT = 600  # seconds: 240 were too few on 16 slow cores


def check_rows() -> list[Row]:
    """The arithmetic."""
    curve = "curves:curve"
    return [
        Row("head", "check", "heads:head", 60, 150),
        Row("head, compiled", "check", "heads:head", 70, 180, {"compiled": True}, ("compiler",), quick=False),
        *(Row(f"gradients, {kind}", "check", "gradients:gradients", 20, 90, {"kind": kind}) for kind in KINDS),
        *(
            Row(
                f"gradients, {kind}, compiled",
                *("check", "gradients:gradients", 40, 150),
                {"kind": kind, "compiled": True},
                ("compiler",),
                quick=False,
            )
            for kind in KINDS
        ),
        Row("optimizers", "check", "optimizers:optimizers", 15, 60),
        Row("curve, CPU float32 (reference)", "check", "curves:reference", 25, REFERENCE_LIMIT),
        Row("curve, fp32", "check", curve, 15, 90, {"precision": "fp32"}),
        Row("curve, bf16", "check", curve, 15, 90, {"precision": "bf16"}),
        Row("curve, fp16", "check", curve, 15, 90, {"precision": "fp16"}, ("cuda",)),
        Row("curve, distillation (reference)", "check", "curves:reference", 25, REFERENCE_LIMIT, {"teachers": True}),
        Row("curve, distillation", "check", curve, 15, 120, {"precision": "bf16", "teachers": True}),
        Row("curve, distillation, fp16", "check", curve, 15, 120, {"precision": "fp16", "teachers": True}, ("cuda",)),
        Row("reads in a step, bf16 AdamW", "check", "steps:reads", 15, 90, {"optimizer": "adamw"}),
        Row(
            "reads in a step, fp16 Muon",
            *("check", "steps:reads", 15, 90),
            {"optimizer": "muon", "precision": "fp16"},
            ("cuda",),
        ),
        *(
            Row(f"CUDA graph of a step, {kind}", "check", "graphs:graph", 25, 120, {"kind": kind}, ("cuda",))
            for kind in KINDS
        ),
        Row("recompiles", "check", "steps:recompiles", 30, 150, needs=("compiler",)),
        Row("fp16 loss scale", "check", "steps:loss_scale", 20, 90, needs=("cuda",)),
        Row("scores", "check", "scores:scores", 30, 180, quick=False),
        Row("scores after a training", "check", "scores:scores", 35, 180, {"after_training": True}),
    ]


def fault_rows() -> list[Row]:
    """Killed, out of memory, not finite, two GPUs."""
    kills = "kills:kills"
    return [
        Row("kill -9 x 4 and SIGTERM", "faults", kills, 70, 240, {"kills": 4, "terms": 1}),
        Row(
            "kill -9 x 2 and SIGTERM, 512 tokens, compiled",
            *("faults", kills, 80, 300),
            {"kills": 2, "terms": 1, "length": 512, "compiled": True},
            ("compiler",),
            quick=False,
        ),
        Row(
            "kill -9 x 2, deterministic",
            *("faults", kills, 50, 200),
            {"kills": 2, "deterministic": True},
            ("cuda",),
        ),
        Row("a weight becomes NaN", "faults", "kills:not_finite", 25, 120),
        Row("out of memory", "faults", "memory:out_of_memory", 40, 180, needs=("cuda",)),
        Row(
            "out of memory, by a memory fraction",
            *("faults", "memory:out_of_memory", 40, 180),
            {"fraction": True},
            ("cuda",),
        ),
        Row("two GPUs visible", "faults", "memory:two_gpus", 30, 120, needs=("cuda", "two")),
    ]


# preset, steps timed, seconds of one variant, variants, rounds
SPEEDS = (
    ("llama-10M", 300, 25, ("stock-eager-workers", "stock", "stock-workers", "ours-nograph", "ours", "ours-muon"), 2),
    ("llama-97M", 60, 45, ("stock-workers", "ours-nograph", "ours"), 2),
    ("llama-360M", 30, 70, ("stock-workers", "ours"), 1),
    ("llama-16M", 100, 35, ("stock-workers", "ours"), 1),
    ("gpt-97M", 60, 45, ("stock-workers", "ours"), 1),
    ("gpt-705M", 20, 90, ("stock-workers", "ours"), 1),
)


def speed_rows() -> list[Row]:
    """Tokens per second, variants in turn, then profiles."""
    rows = []
    for preset, steps, seconds, variants, rounds in SPEEDS:
        for number in range(1, rounds + 1):
            for variant in variants:
                options = {"config": preset, "steps": steps, "variant": variant}
                quick = number == 1 and preset == "llama-10M" and variant in ("stock", "ours")
                name = f"{preset}, {variant}, round {number}"
                needs = () if preset == "llama-10M" else ("cuda",)
                rows.append(Row(name, "speed", "speeds:speed", seconds, 5 * seconds, options, needs, quick))
        for variant in ("stock-workers", "ours") if preset in ("llama-10M", "llama-97M") else ():
            options = {"config": preset, "variant": variant}
            name = f"{preset}, {variant}, profile"
            rows.append(Row(name, "speed", "speeds:profile", 25, 120, options, ("cuda",)))
    rows.append(Row("BLiMP, whole command", "speed", "speeds:blimp", 30, 300, needs=("data",), quick=False))
    for piece in ("head_blocks", "muon_updates", "batches"):
        rows.append(Row(f"a step's pieces, {piece.replace('_', ' ')}", "speed", f"pieces:{piece}", 20, 120))
    rows.append(Row("generation", "speed", "speeds:generation", 25, 120))
    return rows


def train_rows() -> list[Row]:
    """Whole commands."""
    return [
        Row("llama-10M from text to report", "train", "trainings:from_text_to_report", 100, 420),
        *(
            Row(
                f"llama-97M, 2 epochs, lr {rate}",
                *("train", "trainings:first_97m", 60, 300),
                {"lr": rate},
                ("cuda", "data"),
            )
            for rate in ("5e-4", "1e-3")
        ),
    ]


def all_rows() -> list[Row]:
    """Every row, in the order in which they are worth their time."""
    return [*check_rows(), *fault_rows(), *speed_rows(), *train_rows()]
