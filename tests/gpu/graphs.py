"""A training whose steps are replayed as a CUDA graph, beside the same one without: losses and weights."""

from __future__ import annotations

import torch

from tests.gpu.rows import Report, Spec
from tests.gpu.runs import configuration, losses, precision_keys, trainer_of

STEPS = 40


def graph(spec: Spec) -> Report:
    """The same run with and without recording, with dropout where the architecture has it; both must be one curve."""
    curves, weights = [], []
    for recorded in (True, False):
        training = precision_keys("bf16") | {"max_steps": STEPS, "eval_steps": 15, "cuda_graphs": recorded}
        training |= {"deterministic": True, "optimizer": "muon"}
        config = configuration(spec, name=f"recorded-{recorded}", kind=spec.options["kind"], **training)
        trainer = trainer_of(config)
        trainer.train()
        curves.append(losses(trainer))
        weights.append(torch.cat([p.detach().float().flatten().cpu() for p in trainer.model.parameters()]))
        if recorded:
            done = trainer.step_graph
            report = Report({"shapes recorded": len(done.recorded)}, notes=[trainer.runtime.line()])
            if done.failed and not getattr(trainer.model, "_supports_attention_backend", False):
                report.notes.append("this transformers' model copies from the CPU in its forward: not recorded")
                continue
            report.expect(not done.failed and len(done.recorded) == 1, "the step was not recorded")
    difference = max(abs(a - b) for a, b in zip(*curves, strict=True))
    report.limit("largest difference of a step's loss", difference, 1e-3)
    report.figures["weights equal"] = bool(torch.equal(*weights))
    report.limit("weights apart, norm over norm", float((weights[0] - weights[1]).norm() / weights[1].norm()), 1e-2)
    report.expect(curves[0][-1] < curves[0][0], f"the loss did not fall: {curves[0][:1]} ... {curves[0][-1:]}")
    return report
