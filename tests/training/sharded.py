"""`fully_shard` with our fused head and both optimizers, on two CPU processes: the script that the test starts.

    torchrun --nproc-per-node 2 -m tests.training.sharded OUT

Each process trains a tiny model unsharded on the whole batch and sharded on its half of it, and compares. The groups
are cut as accelerate cuts them (one a layer, the embeddings, final norm with head, the rest), and as one of our own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard

from babyllama.common.files import write_json
from babyllama.config.schema import Config, TrainingConfig
from babyllama.models import fsdp
from babyllama.models.architectures import build_model
from babyllama.models.fused_loss import install_fused_loss
from babyllama.models.structure import decoder_layers
from babyllama.training.optim import build_optimizer

STEPS = 6
RECIPES = {
    "adamw": TrainingConfig(lr=3e-3, optimizer="adamw"),
    "muon": TrainingConfig(lr=1e-2, muon_adamw_lr=3e-3, optimizer="muon"),
}


class Words:
    """As much of a tokenizer as a model's configuration asks for."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self) -> int:
        return 301  # odd: a shard of the head is larger than the other


def model_of(kind: str, tied: bool) -> Any:
    torch.manual_seed(0)
    sizes = {"type": kind, "hidden_size": 32, "intermediate_size": 48, "n_layer": 2, "n_head": 2}
    model = build_model(Config(model={**sizes, "tie_word_embeddings": tied}, data={"seq_length": 16}), Words()).train()
    install_fused_loss(model)
    return model


def shard(model: Any, like: str) -> None:
    """Cut the model into FSDP groups."""
    for layer in decoder_layers(model):
        fully_shard(layer)
    if like == "accelerate":
        embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
        norm = getattr(model.base_model, "norm", None) or model.base_model.ln_f
        tied = embeddings.weight is head.weight
        if not tied:
            fully_shard(embeddings)
        fully_shard([norm, embeddings, head] if tied else [norm, head], reshard_after_forward=False)
    fully_shard(model)


def batch(step: int) -> torch.Tensor:
    return torch.randint(3, 300, (4, 16), generator=torch.Generator().manual_seed(step))


def step_of(model: Any, optimizer: torch.optim.Optimizer, ids: torch.Tensor, scale: float) -> float:
    """One step; the loss is the sum over tokens divided by those of the whole batch."""
    loss = model(input_ids=ids, labels=ids, num_items_in_batch=4 * 15).loss
    (loss * scale).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def compare(kind: str, tied: bool, like: str, recipe: TrainingConfig) -> dict[str, float]:
    """Relative differences between sharded and not: largest of the losses, in norm of the weights."""
    rank, size = dist.get_rank(), dist.get_world_size()
    plain, model = model_of(kind, tied), model_of(kind, tied)
    plain_optimizer = build_optimizer(plain, recipe)
    shard(model, like)
    optimizer = build_optimizer(model, recipe)
    worst = 0.0
    for step in range(STEPS):
        if step == STEPS // 2:
            optimizer = restored(model, optimizer, recipe)
        ids = batch(step)
        expected = step_of(plain, plain_optimizer, ids, 1.0)
        found = torch.tensor(step_of(model, optimizer, ids.chunk(size)[rank], size))  # FSDP takes the mean
        dist.all_reduce(found)
        worst = max(worst, abs(float(found) - expected) / expected)
    with torch.no_grad():
        ids = batch(99)
        held_out = [float(m(input_ids=ids, labels=ids).loss) for m in (plain, model)]
    whole = fsdp.whole_weights(model)
    pairs = [(whole[n].double(), p.double()) for n, p in plain.state_dict().items() if n in whole]
    apart = sum(float(((a - b) ** 2).sum()) for a, b in pairs) / max(sum(float((b**2).sum()) for _, b in pairs), 1e-9)
    return {
        "loss": worst,
        "held_out": abs(held_out[0] - held_out[1]) / held_out[0],
        "weights": apart**0.5,
        "compared": len(pairs),
        "unchanged": reloaded(model, whole),
    }


def restored(model: Any, optimizer: Any, recipe: TrainingConfig) -> Any:
    """A new optimizer with the old one's state, through the calls that accelerate makes for a checkpoint."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True)
    state = get_optimizer_state_dict(model, optimizer, options=options)
    again = build_optimizer(model, recipe)
    set_optimizer_state_dict(model, again, state, options=options)
    return again


def reloaded(model: Any, whole: dict[str, torch.Tensor]) -> float:
    """Largest change of the weights when they are taken out whole and put back."""
    box = [whole]
    dist.broadcast_object_list(box, src=0)
    before = [p.to_local().detach().clone() for p in model.parameters()]
    fsdp.put_weights(model, box[0])
    after = [p.to_local().detach() for p in model.parameters()]
    return max(float((p - q).abs().max()) if q.numel() else 0.0 for p, q in zip(after, before, strict=True))


def main() -> None:
    """Write the table of differences."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {}
    for kind, tied in (("Llama", False), ("Llama", True), ("GPT2", True), ("GPTJ", False)):
        for like in ("accelerate", "plain"):
            for name, recipe in RECIPES.items():
                found[f"{kind} {'tied' if tied else 'untied'} {like} {name}"] = compare(kind, tied, like, recipe)
    if dist.get_rank() == 0:
        write_json(Path(sys.argv[1]), found)
    dist.destroy_process_group()
    # In about one of 12 launches torch 2.13 aborts after this, when the interpreter takes its libraries down
    # ("terminate called without an active exception"). All is done and written by then; 22 DDP trainings ended without.
    os._exit(0)


if __name__ == "__main__":
    main()
