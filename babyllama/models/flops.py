"""How much of the machine a training uses: model-FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B).

    FLOPs per token = 6 x (parameters that multiply: all but the input embedding, the head included)
                      + 12 x layers x width x length

6 = 2 forward (a product and a sum) + 4 backward; the second term is attention's two products over the whole length.
Utilisation is that times tokens/s over the device's peak rate. The peak is the data sheet's for a known GPU (dense, no
sparsity); a CPU has none worth naming: `tests/speed/train_speed.py` measures its matrix product in the same run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Dense 16-bit tensor-core rate (float32 sums) in FLOP/s by words of the device's name, from the makers' data sheets.
PEAKS_16_BIT = {
    "B300": 2250e12,
    "GB300": 2500e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "H200 NVL": 836e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 NVL": 836e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 5090": 210e12,
    "RTX 5080": 113e12,
    "RTX 4090": 165e12,
    "RTX 4080": 97e12,
    "RTX 3090": 71e12,
    "RTX A6000": 155e12,
}


def flops_per_token(model: PreTrainedModel, length: int) -> float:
    """Model FLOPs of one training token (forward and backward).

    Args:
        model: A causal language model.
        length: Tokens of a sequence.
    """
    config = model.config
    layers = getattr(config, "num_hidden_layers", 0)
    width = getattr(config, "hidden_size", 0)
    return 6.0 * multiplying_parameters(model) + 12.0 * layers * width * length


def multiplying_parameters(model: PreTrainedModel) -> int:
    """Parameters without the tables that are looked up (input and position embeddings), with the head, tied or not."""
    import torch

    from babyllama.models.shared_layers import copied_parameters

    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    looked_up = {id(weight): weight.numel() for weight in tables}
    if head is not None:
        looked_up.pop(id(head.weight), None)  # tied: the table is multiplied with, too
    shared = copied_parameters(model)  # layers that share matrices multiply with them once each
    return sum(parameter.numel() for parameter in model.parameters()) + shared - sum(looked_up.values())


def known_peak(device: str, precision: str) -> float | None:
    """Return peak FLOP/s of a GPU in 16 bits, None for other precisions and for devices that the table lacks."""
    import torch

    if not device.startswith("cuda") or precision not in {"bf16", "fp16"}:
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Peak 16-bit FLOP/s of a card by its name, None where the table lacks it.

    Names are compared by whole words, the longest first: an RTX A1000 is no A100, an L40 no L4, an H100 NVL no H100. A
    laptop's card of the same name is another one.

    >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("NVIDIA RTX A1000"), peak_of("NVIDIA GeForce RTX 4090 Laptop GPU")
    (989000000000000.0, None, None)
    """
    if "Laptop" in name:
        return None
    longest_first = sorted(PEAKS_16_BIT, key=len, reverse=True)
    found = next((part for part in longest_first if re.search(rf"(?<!\w){part}(?!\w)", name)), None)
    return None if found is None else PEAKS_16_BIT[found]
