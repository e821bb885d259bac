"""Gradients of whole models on the device against float64 on the CPU, parameter by parameter, as a run computes them.

The reference is the model's own forward and loss in float64; what is measured is our forward (fused head, the runtime's
attention, compiled or not) under autocast. Attention implementations are compared with each other as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.gpu.heads import distance
from tests.gpu.rows import Report, Spec

LIMITS = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FP16_SCALE = 2.0**12  # of the mean loss, as GradScaler's after a few halvings


def gradients(spec: Spec) -> Report:
    """One architecture (`options.kind`) in three precisions, compiled or not."""
    import transformers

    kind, compiled = spec.options["kind"], bool(spec.options.get("compiled"))
    report = Report(notes=[f"transformers {transformers.__version__}"])
    ids = torch.randint(3, sizes(spec)["vocabulary"], (4, sizes(spec)["length"]), generator=seeded(1))
    exact = reference(kind, spec, ids)
    attentions = attention_names(kind, spec.device)
    for precision in LIMITS if spec.cuda else ("fp32", "bf16"):
        found = {}
        for attention in attentions[:1] if compiled else attentions:
            loss, grads = ours(kind, spec, ids, precision, attention, compiled)
            report.limit(f"{precision} loss", abs(loss / exact[0] - 1), LIMITS[precision])
            for name, grad in grads.items():
                report.limit(f"{precision} worst gradient", distance(grad, exact[1][name]), LIMITS[precision])
            found[attention] = loss
        if len(found) > 1:
            spread = max(found.values()) - min(found.values())
            report.limit(f"{precision} loss between {', '.join(found)}", spread, 10 * LIMITS[precision])
    return report


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def sizes(spec: Spec) -> dict[str, int]:
    """Sizes of the model and of the batch."""
    if spec.quick:
        return {"vocabulary": 349, "length": 24, "width": 32, "layers": 2, "heads": 2}
    return {"vocabulary": 16_000, "length": 128, "width": 256, "layers": 4, "heads": 4}


def attention_names(kind: str, device: str) -> list[str]:
    """The attention of a run on that device first, then the others that must agree with it."""
    from transformers import AttentionInterface

    import babyllama.models.attention  # noqa: F401 - registers ours

    ours = [name for name in ("causal",) if name in AttentionInterface()] if kind != "GPTJ" else []
    return [*ours, "sdpa", "eager"] if device.startswith("cuda") else ["eager", "sdpa", *ours, "plain"]


def build(kind: str, spec: Spec) -> Any:
    """A model with random weights of seed 0, the same on every device."""
    from transformers import AutoModelForCausalLM

    from babyllama.config.schema import Config
    from babyllama.models.architectures import build_model_config

    size = sizes(spec)
    model = {"type": kind, "hidden_size": size["width"], "n_layer": size["layers"], "n_head": size["heads"]}
    config = Config(model=model, data={"seq_length": size["length"]})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(build_model_config(config, size["vocabulary"])).train()


def reference(kind: str, spec: Spec, ids: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the model's own forward in float64 on the CPU."""
    model = build(kind, spec).double()
    model.set_attn_implementation("eager")
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def ours(
    kind: str, spec: Spec, ids: Tensor, precision: str, attention: str, compiled: bool
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a run's forward on the device."""
    from babyllama.models.compiled_layers import prepare_layers
    from babyllama.models.fused_loss import install_fused_loss
    from babyllama.models.runtime import Runtime

    torch._dynamo.reset()
    torch._functorch.config.enable_autograd_cache = False  # before torch 2.13 fp16 finds the code of bf16 there
    compiling = "layers" if compiled else "off"
    model = build(kind, spec)
    prepare_layers(model, Runtime(spec.device, precision, attention, compiling, torch.get_num_threads()))
    taken = model.config._attn_implementation  # a GPT-J may keep its own
    assert kind == "GPTJ" or taken == attention, f"asked for {attention} attention, the model computes by {taken}"
    install_fused_loss(model, compiled=compiled)
    model.to(spec.device)
    scale = FP16_SCALE if precision == "fp16" else 1.0
    with torch.autocast(torch.device(spec.device).type, DTYPES.get(precision), enabled=precision in DTYPES):
        loss = model(input_ids=ids.to(spec.device), labels=ids.to(spec.device)).loss
    (loss * scale).backward()
    return loss.item(), {name: parameter.grad / scale for name, parameter in model.named_parameters()}
