"""How much of the machine a training uses: model-FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B).

    FLOPs per token = 6 x (parameters that multiply: all but the input embedding, the head included)
                      + 12 x layers x width x length

6 = 2 forward (a product and a sum) + 4 backward; the second term is attention's two products over the whole length.
Utilisation is that times tokens/s over the device's peak rate. The peak is the data sheet's for a known GPU (dense, no
sparsity); a CPU has none worth naming: `tests/speed/train_speed.py` measures its matrix product in the same run.
"""

from __future__ import annotations

from typing import Any

# Dense 16-bit tensor-core rate in FLOP/s by a part of the device's name, from the makers' data sheets.
PEAKS_16_BIT = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def flops_per_token(model: Any, length: int) -> float:
    """Model FLOPs of one training token (forward and backward).

    Args:
        model: A causal language model.
        length: Tokens of a sequence.
    """
    config = model.config
    layers = getattr(config, "num_hidden_layers", 0)
    width = getattr(config, "hidden_size", 0)
    return 6.0 * multiplying_parameters(model) + 12.0 * layers * width * length


def multiplying_parameters(model: Any) -> int:
    """Parameters without the tables that are looked up (input and position embeddings), with the head, tied or not."""
    import torch

    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    looked_up = {id(weight): weight.numel() for weight in tables}
    if head is not None:
        looked_up.pop(id(head.weight), None)  # tied: the table is multiplied with, too
    return sum(parameter.numel() for parameter in model.parameters()) - sum(looked_up.values())


def known_peak(device: str, precision: str) -> float | None:
    """Return peak FLOP/s of a GPU in 16 bits, None for other precisions and for devices that the table lacks."""
    import torch

    if not device.startswith("cuda") or precision not in {"bf16", "fp16"}:
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in PEAKS_16_BIT.items() if part in name), None)
