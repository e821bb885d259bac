"""The lengths of a run: epochs to steps, automatic intervals to counts, and HuggingFace's arguments made of them."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from babyllama.common.console import say
from babyllama.common.distributed import world_size as world_size
from babyllama.common.errors import ConfigError
from babyllama.common.units import human_bytes
from babyllama.config.schema import Config, TrainingConfig
from babyllama.models.architectures import TABLE
from babyllama.models.fsdp import sharding_arguments
from babyllama.models.runtime import Runtime
from babyllama.training.optim import schedule_arguments, warmup_length

if TYPE_CHECKING:
    from transformers import TrainingArguments

MIN_EVAL_STEPS, MIN_SAVE_STEPS = 25, 25  # a short run should train, not evaluate and save

PREFETCHED = 2  # batches a worker has ready, torch's default
SHARED_AT_LEAST = 8_000_000  # bytes beside the batches


@dataclass
class StepCounts:
    """Lengths of a run in optimizer steps, and the lines to print where the recipe had to be adapted."""

    total_steps: int
    steps_per_epoch: int
    logging_steps: int
    eval_steps: int
    save_steps: int
    micro_batch: int
    notes: list[str] = field(default_factory=list)


def count_steps(config: Config, chunks: int, world_size: int = 1) -> StepCounts:
    """Turn epochs into steps and automatic intervals into counts.

    Args:
        config: Run configuration.
        chunks: Training chunks of one epoch, a multiple of batch_size.
        world_size: Number of processes.

    Raises:
        ConfigError: batch_size does not divide over accumulation and devices; names what does.
    """
    training = config.training
    parts = training.parts * world_size
    if training.batch_size % parts:
        divisors = [n for n in range(1, training.batch_size + 1) if training.batch_size % n == 0]
        raise ConfigError(
            f"training.batch_size: {training.batch_size} does not divide into gradient_accumulation_steps "
            f"{training.parts} x {world_size} processes; it divides by {divisors}"
        )
    per_epoch = chunks // training.batch_size
    total = training.max_steps or math.ceil(training.num_epochs * per_epoch)
    logging = min(training.logging_steps or max(1, total // 100), total)
    notes = [note for note in [warmup_length(training, total)[1]] if note]
    evaluate = training.eval_steps or max(MIN_EVAL_STEPS, round(total / 20))
    save = _multiple_of(training.save_steps or max(MIN_SAVE_STEPS, math.ceil(total / 10)), logging)
    if training.save_steps and save != training.save_steps:
        notes.append(
            f"save_steps {training.save_steps} -> {save}: a multiple of logging_steps, so that a resume logs alike"
        )
    return StepCounts(total, per_epoch, logging, evaluate, save, training.batch_size // parts, notes)


def _multiple_of(value: int, base: int) -> int:
    return max(1, math.ceil(value / base)) * base


def loader_workers(training: TrainingConfig, length: int, micro_batch: int) -> int:
    """Return the loader's processes: none, with a line, where the shared memory does not hold their batches.

    A worker that finds no room there dies by a signal, and the training would wait for it for ever.

    Args:
        training: The recipe.
        length: Tokens of a chunk.
        micro_batch: Chunks of a batch.
    """
    workers, shared = training.dataloader_num_workers, Path("/dev/shm")
    if not workers or not shared.is_dir():
        return workers
    batches = workers * (PREFETCHED + 1)
    needed = SHARED_AT_LEAST + 2 * batches * micro_batch * length * 2 * 8  # ids and labels, int64
    free = shutil.disk_usage(shared).free
    if free >= needed:
        return workers
    say(
        f"dataloader_num_workers: 0 instead of {workers}: {human_bytes(free)} of shared memory in {shared}, "
        f"{human_bytes(needed)} are needed (docker run --shm-size)"
    )
    return 0


def training_arguments(config: Config, plan: StepCounts, runtime: Runtime, run_dir: Path) -> TrainingArguments:
    """HF TrainingArguments for this run. Rotation, best model and NaN filter are off: those are ours."""
    from transformers import TrainingArguments

    training, ours = config.training, config.model.type in TABLE
    on_gpu = runtime.device.startswith("cuda")
    arguments = TrainingArguments(
        output_dir=str(run_dir),
        per_device_train_batch_size=plan.micro_batch,
        per_device_eval_batch_size=plan.micro_batch,
        gradient_accumulation_steps=training.parts,
        num_train_epochs=training.num_epochs,
        max_steps=training.max_steps or -1,
        learning_rate=training.lr,
        max_grad_norm=training.max_grad_norm,
        bf16=runtime.precision == "bf16",
        fp16=runtime.precision == "fp16",
        use_cpu=runtime.device == "cpu",
        seed=training.seed,
        data_seed=training.seed,
        logging_steps=plan.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=plan.eval_steps,
        save_strategy="steps",
        save_steps=plan.save_steps,
        save_total_limit=None,
        dataloader_num_workers=loader_workers(training, config.data.seq_length, plan.micro_batch),
        dataloader_pin_memory=on_gpu,
        # A blocking copy waits for the GPU twice a micro-batch, and the next batch is gathered while the GPU idles.
        accelerator_config={"non_blocking": True} if on_gpu else None,
        remove_unused_columns=False,
        average_tokens_across_devices=True,  # the mean over the tokens of the whole batch, as in one process
        # Looking for unused parameters keeps DDP from cutting its buckets anew after the first step: with three or more
        # processes the cut decides the order of the sums, and a resume of three was not bit-exact without this.
        ddp_find_unused_parameters=runtime.processes > 2 or not ours,
        report_to=[name for name in config.logging.report_to if name not in {"none", "wandb"}] or "none",
        disable_tqdm=True,
        **schedule_arguments(training, plan.total_steps),
        **sharding_arguments(training),
    )
    if runtime.processes == 1 and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else every visible GPU takes a batch by DataParallel: other steps than were planned
    return arguments
