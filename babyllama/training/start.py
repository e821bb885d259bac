"""Where a training starts: from which checkpoint, computed how, in which folder.

A resume must give the weights that the unbroken run would have given, so the way of computing (`Runtime`) is taken from
the checkpoint where this machine can compute like that. The run folder gets its configuration, fingerprint and
tokenizer before the first step, so that whatever ends the run, the folder says what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common import distributed
from babyllama.common.console import say
from babyllama.common.distributed import is_main_process
from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json, write_json
from babyllama.common.units import human_bytes
from babyllama.config.loading import save_config
from babyllama.config.run_layout import RUN_FINGERPRINT, TRAINING_CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from babyllama.config.schema import Config, TrainingConfig
    from babyllama.data.prepared import PreparedData
    from babyllama.models.runtime import Runtime
    from babyllama.training.trainer import BabyTrainer


@dataclass
class Start:
    """Where a training starts.

    Attributes:
        checkpoint: The checkpoint to go on from; None at step 0.
        runtime: How that checkpoint's run computed, later how this one does; None before it is decided.
        accumulation: Parts that a step of the checkpoint's run was computed in; None at step 0.
        config: The configuration as it was asked for; what runs may have smaller micro-batches.
        fingerprint: What makes this run this run, of that configuration.
        total_steps: Number of steps that this run was given before; None where a time budget is asked (anew).
    """

    checkpoint: Path | None = None
    runtime: Runtime | None = None
    accumulation: int | None = None
    config: Config | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    total_steps: int | None = None

    def accumulation_for(self, training: TrainingConfig) -> int:
        """Return the parts to compute a step in: the checkpoint's, where its run had to make them smaller."""
        parts = self.accumulation or 0
        if parts <= training.parts or training.batch_size % parts:
            return training.parts
        micro = training.batch_size // parts
        say(f"micro-batches of {micro}, as the checkpoint's run came to after running out of memory")
        return parts


def find_start(
    run_dir: Path, resume: str | bool | None, fingerprint: dict[str, Any], trunk: Path | None = None
) -> Start:
    """Find the checkpoint to go on from and how it was computed.

    Args:
        run_dir: The run folder, whose lock is held.
        resume: True for the newest complete checkpoint, a path for that one; None or False for step 0.
        fingerprint: What makes this run this run; a checkpoint of another run is refused.
        trunk: Checkpoint that a cooldown begins with where the run has none of its own (`training.decay_from`).

    Raises:
        CheckpointError: The named checkpoint, or every one, is damaged.
        ConfigError: It belongs to another training; names what differs.
    """
    from babyllama.config.fingerprint import LENGTH, check_resume
    from babyllama.models.runtime import Runtime
    from babyllama.training import checkpoints
    from babyllama.training.recipes.cooldown import check_trunk

    checkpoints.clean_leftovers(run_dir)
    checkpoint = checkpoints.resolve_resume(run_dir, resume) if resume else None
    if checkpoint is None and trunk is not None:
        check_trunk(trunk, fingerprint)
        say(f"cooldown from {trunk.name} of {trunk.parent.name}")
        return Start(trunk, Runtime(**checkpoints.manifest_extra(trunk)["runtime"]))
    if checkpoint is None:
        return Start()
    extra = checkpoints.manifest_extra(checkpoint)
    for notice in check_resume(extra["fingerprint"], fingerprint):
        say(notice)
    say(f"resuming from {checkpoint.name}")
    start = Start(checkpoint, Runtime(**extra["runtime"]), extra.get("accumulation"))
    if all(extra["fingerprint"].get(key) == fingerprint.get(key) for key in LENGTH):
        start.total_steps = extra.get("total_steps")
    return start


def follow_origins(config: Config) -> None:
    """Take the tokenizer of the checkpoint that a model starts from, or of its teachers, where none is set.

    The configuration then says the checkpoint's type and sizes, for these are what is trained.

    Raises:
        ConfigError: A checkpoint is not there.
    """
    from babyllama.models.loading import describe_origin

    origins = [("model.init_from", config.model.init_from)] if config.model.init_from else []
    if config.distillation:
        origins += [("distillation.teachers", path) for path in config.distillation.teachers]
    for key, path in origins:
        if not Path(path).expanduser().is_dir():
            raise ConfigError(f"{key}: {path}: no such checkpoint folder")
        config.data.tokenizer_path = config.data.tokenizer_path or path
    if config.model.init_from:
        describe_origin(config)


def tell_other_tokenizer(config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say where the model's embeddings stand for the tokens of another tokenizer than the one it is trained with."""
    from babyllama.data.tokenizer import load_tokenizer, tokenizer_fingerprint

    origin, given = config.model.init_from, config.data.tokenizer_path
    try:
        own = load_tokenizer(Path(origin).expanduser())
    except ConfigError:
        say(f"model.init_from: {origin} has no tokenizer that can be read: its embeddings may stand for other tokens")
        return
    if tokenizer_fingerprint(own) != tokenizer_fingerprint(tokenizer):
        say(
            f"model.init_from: {origin} was trained with another tokenizer than data.tokenizer_path ({given}): "
            "its embeddings stand for other tokens. Leave data.tokenizer_path out to train on with its own."
        )


FULL = 0.85  # share of the free memory that an estimated step may take; what it misses, halving mends


def _begun_with(key: str, run_dir: Path) -> int | str | None:
    """Return a key's value in the fingerprint that the run's first start left, None where there is none."""
    record = run_dir / RUN_FINGERPRINT
    return read_json(record).get(key) if record.is_file() else None


def choose_batch_size(config: Config, device: str, run_dir: Path, overwrite: bool = False) -> int:
    """Choose between `batch_size` and, on a CPU that computes in float32, `slow_batch_size`, with a line.

    Where a step takes seconds a short training has few of them, and twice as many of half the size teach more in the
    same time: the quick start in 4 minutes of float32 ends 11.7% above the entropy instead of 13.2%
    (docs/experiments.md). A run that has begun keeps its number on any machine.

    Args:
        config: Run configuration.
        device: Where it will be computed.
        run_dir: The run folder, perhaps with the fingerprint of an earlier start.
        overwrite: Whether what is in the folder is trained anew.
    """
    from babyllama.models.runtime import cpu_has_bf16

    training = config.training
    usual, slow = training.batch_size, training.slow_batch_size
    if slow is None:
        return usual
    earlier = None if overwrite else _begun_with("training.batch_size", run_dir)
    if isinstance(earlier, int) and earlier in (usual, slow):
        return earlier
    in_float32 = training.bf16 is False or (training.bf16 == "auto" and not cpu_has_bf16())
    if device != "cpu" or not in_float32:
        return usual
    say(f"batch_size: {slow} instead of {usual}: in float32 on a CPU more and smaller steps (training.slow_batch_size)")
    return slow


def choose_parts(config: Config, vocab_size: int, device: str, run_dir: Path, overwrite: bool = False) -> int:
    """Choose in how many parts a step is computed where `gradient_accumulation_steps` is `auto`, with a line.

    The fewest whose estimate fits: each part costs its own kernel launches and its own cast of all weights (2.2 GB at
    360M). A run that has begun keeps its number, because the sums would be rounded otherwise.

    Args:
        config: Run configuration.
        vocab_size: Tokens in the vocabulary.
        device: Where it will be computed.
        run_dir: The run folder, perhaps with the fingerprint of an earlier start.
        overwrite: Whether what is in the folder is trained anew.

    Returns:
        A divisor of batch_size over the number of processes, or the configured number.
    """
    from babyllama.models.architectures import TABLE, count_parameters, step_bytes
    from babyllama.models.gpu import free_bytes
    from babyllama.models.runtime import compiler_missing

    training, processes = config.training, distributed.world_size()
    if training.gradient_accumulation_steps != "auto":
        return training.parts
    # A run that began keeps what it began with.
    earlier = None if overwrite else _begun_with("training.gradient_accumulation_steps", run_dir)
    if isinstance(earlier, int) and training.batch_size % (earlier * processes) == 0:
        say(f"gradient_accumulation_steps: {earlier}, as this run began")
        return earlier
    # Else the fewest parts whose estimate fits into the free memory.
    free = free_bytes(device)
    most = training.batch_size // processes
    fitting = [n for n in range(1, most + 1) if training.batch_size % (n * processes) == 0]
    if free is None or config.model.type not in TABLE:
        return fitting[0]
    parameters = count_parameters(config, vocab_size)
    compiled = training.torch_compile is not False and compiler_missing(device) is None
    how = {"gpu": device.startswith("cuda"), "compiled": compiled}
    bytes_of = {n: step_bytes(config, vocab_size, parameters, n * processes, **how) for n in fitting}
    parts = next((n for n in fitting if bytes_of[n] <= FULL * free), fitting[-1])
    say(f"gradient_accumulation_steps: {parts} (about {human_bytes(bytes_of[parts])} of {human_bytes(free)} free)")
    return parts


def choose_runtime(config: Config, data: PreparedData, size: int, earlier: Runtime | None) -> Runtime:
    """Choose how to compute: as the checkpoint did where this machine can, else anew for the whole run.

    Args:
        config: Run configuration.
        data: The prepared text; its length decides whether compiling pays.
        size: Parameters of the model.
        earlier: The checkpoint's runtime; None at step 0.
    """
    from babyllama.data.packing import packed_datasets
    from babyllama.models import runtime as rt
    from babyllama.training.arguments import count_steps

    train_set, _ = packed_datasets(config, data)
    counts = count_steps(config, len(train_set), distributed.world_size())
    decided = rt.decide(config, total_steps=counts.total_steps, num_parameters=size)
    return rt.reuse(earlier, decided, config.training)


def taken_by(model: PreTrainedModel, chosen: Runtime, training: TrainingConfig) -> Runtime:
    """Return a decision as a model takes it: GPT-J of an older transformers has no attention to choose.

    Only with attention `causal` no mask is made on the GPU, which cannot be recorded: with another, steps are recorded
    where the recipe asks for it and not where it says `auto`. A recording that fails costs more than its speed: with
    torch 2.11 dropout's random numbers are lost to the process.
    """
    from babyllama.models.compiled_layers import set_attention

    attention = set_attention(model, chosen.attention)
    graphs = chosen.graphs and (attention == "causal" or training.cuda_graphs is True)
    if chosen.graphs and not graphs:
        say(f"attention {attention}: steps are not recorded as CUDA graphs (training.cuda_graphs: true tries it)")
    return replace(chosen, attention=attention, graphs=graphs)


def check_disk(config: Config, model: PreTrainedModel, run_dir: Path) -> None:
    """Check on rank 0, before anything is computed, that the run folder takes the model's checkpoints.

    Raises:
        DiskError: The folder cannot be written, or there is too little room.
    """
    from babyllama.common import disk_space
    from babyllama.training.checkpoints import checkpoint_bytes

    if is_main_process():
        needed = (config.training.save_total_limit + 1) * checkpoint_bytes(model, config.training)
        disk_space.check_writable(run_dir)
        disk_space.check_space(run_dir, needed, "checkpoints")


def open_run_folder(
    trainer: BabyTrainer,
    start: Start,
    data: PreparedData,
    run_dir: Path,
) -> None:
    """Write what the run is and what it holds out into its folder; add what guards checkpoints, logs and shows the run.

    Args:
        trainer: Trainer that gets the callbacks.
        start: Start with the configuration that was asked for and its fingerprint.
        data: The prepared text.
        run_dir: The run folder, locked.
    """
    from babyllama.data.held_out.kept import keep_text
    from babyllama.training.callbacks import CheckpointGuard
    from babyllama.training.live.page import LivePage
    from babyllama.training.live.wandb_log import WandbLog

    config, fingerprint = start.config, start.fingerprint
    accumulation = trainer.args.gradient_accumulation_steps
    extra = {"fingerprint": fingerprint, "runtime": trainer.runtime.to_dict(), "accumulation": accumulation}
    extra["total_steps"] = trainer.total_steps
    trainer.add_callback(CheckpointGuard(trainer, run_dir, extra, config.training))
    if config.logging.wandb or "wandb" in config.logging.report_to:
        trainer.add_callback(WandbLog(config, run_dir))
    if is_main_process():
        write_json(run_dir / RUN_FINGERPRINT, fingerprint)
        save_config(config, run_dir / TRAINING_CONFIG)
        data.tokenizer.save_pretrained(run_dir)
        keep_text(run_dir, data)
        if config.logging.live_page:
            trainer.add_callback(LivePage(trainer, config, run_dir, data.held_out_documents))
