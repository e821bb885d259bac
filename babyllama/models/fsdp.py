"""FSDP2 (`training.fsdp: true`): weights, gradients and optimizer state shared out over GPUs.

The work is torch's `fully_shard`, driven by accelerate under HuggingFace's Trainer; here stand only what is passed to
them, what they would do silently wrong, and the ways in and out for whole weights. accelerate builds plain DDP where
FSDP2 is asked for on a CPU, so that is refused (docs/scaling.md says what was tested).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from babyllama.common.errors import ConfigError
from babyllama.config.schema import Config, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import Trainer


def sharding_arguments(training: TrainingConfig) -> dict[str, Any]:
    """For HF TrainingArguments: one group a layer (the model's own `_no_split_modules`), whole state in checkpoints."""
    if not training.fsdp:
        return {}
    settings = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
    return {"fsdp": True, "fsdp_config": {**settings, "reshard_after_forward": True}}


def check_sharding(config: Config, device: str, processes: int) -> None:
    """Refuse FSDP where it would not be what its name says.

    Raises:
        ConfigError: On a CPU or Apple GPU, with one process, or with teachers.
    """
    if not config.training.fsdp:
        return
    if not device.startswith("cuda"):
        raise ConfigError(
            f"training.fsdp: needs CUDA GPUs, this run is on {device} (accelerate would train without it and not say "
            "so). Use --set training.fsdp=false."
        )
    if processes == 1:
        raise ConfigError(
            "training.fsdp: needs several processes: torchrun --nproc-per-node 2 main.py ... (or -m babyllama ...)"
        )
    if config.distillation:
        raise ConfigError("training.fsdp: not with a distillation: the teachers' loss reads whole weights")


def reduce_in_float32(trainer: Trainer) -> None:
    """Sum gradients over processes in float32 and keep the loss float32; accelerate would take bf16 for both."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    policy = getattr(plugin, "mixed_precision_policy", None)
    if policy is None:
        return
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=policy.param_dtype, reduce_dtype=torch.float32)


def is_sharded(model: nn.Module) -> bool:
    """Return whether `fully_shard` was applied to the model."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole weights on rank 0's CPU, nothing on the others; every process must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a sharded model whole weights that each process holds; tied ones may be named once."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=False))
