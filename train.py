"""Train one model: `python train.py --config config/llama-10M.yaml`.

The steps, in order: prepare the text and the tokenizer, look at the run folder, decide how to compute, build the model
(`create_model`), build HuggingFace's Trainer around it (`build_trainer`), train, save, score the saved checkpoint on
the held-out documents. `main.py` runs this and then evaluates and reports; here nothing but the training happens.

People import `create_model`, `build_trainer` and `train` from here; all three take the `Config` that
`babyllama.config.loading.load_config` gives. Started by `torchrun` or `accelerate launch`, every process
runs all of this; what prepares, decides or writes is rank 0's, and the others wait (docs/scaling.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common import distributed
from babyllama.common.command import run_command
from babyllama.common.console import is_main_process, say
from babyllama.common.errors import ConfigError
from babyllama.common.files import read_json, write_json
from babyllama.common.provenance import command_line
from babyllama.config.flags import add_config_flags, config_from_args
from babyllama.config.loading import save_config
from babyllama.config.run_layout import RUN_FINGERPRINT, TRAINING_CONFIG, TRAINING_LOG, TRAINING_METRICS
from babyllama.config.run_layout import run_dir as run_folder
from babyllama.config.schema import Config
from babyllama.data.packing import packed_datasets
from babyllama.models.compiled_layers import prepare_forward
from babyllama.training.run_folder import find_start

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from babyllama.data.prepared import PreparedData
    from babyllama.models.runtime import Runtime
    from babyllama.training.stop_signals import StopSignals
    from babyllama.training.trainer import BabyTrainer

CURVE_CHUNKS = 256  # held-out chunks of the curve unless data.eval_samples says otherwise


@dataclass
class TrainResult:
    """What a training leaves behind.

    Attributes:
        run_dir: The run folder.
        metrics: training_metrics.json.
        already_finished: The same run had been finished before; nothing was written.
    """

    run_dir: Path
    metrics: dict[str, Any]
    already_finished: bool = False


def train(
    config: Config, *, resume: str | bool | None = None, overwrite: bool = False, command: str | None = None
) -> TrainResult:
    """Train from raw text to a finished run folder.

    Args:
        config: Run configuration.
        resume: True to go on from the newest complete checkpoint, a path to go on from that one.
        overwrite: Replace what another run left in the folder.
        command: The command line to record; unset: this process's.

    Returns:
        The run folder and its metrics.

    Raises:
        ConfigError: The folder holds another run, or the resumed run differs.
        DataError: The text cannot be used.
        CheckpointError: Every checkpoint is damaged.
        NumericError: The loss is not finite.
        DiskError: The disk is full or read-only.
        Interrupted: A signal ended the training after its checkpoint.
        LostProcess: Another process of a distributed training is gone.
    """
    from babyllama.models.fsdp import check_sharding
    from babyllama.models.loading import quiet_libraries
    from babyllama.models.runtime import resolve_device
    from babyllama.plugins import load_plugins

    quiet_libraries()
    device = resolve_device(config.training.device)
    check_sharding(config, device, distributed.world_size())
    with distributed.team(device):
        with distributed.together():
            load_plugins(config.plugins)
        data = distributed.main_first(lambda: prepare_data(config))
        return _train_in_folder(config, data, resume, overwrite, command)


def _train_in_folder(
    config: Config, data: PreparedData, resume: str | bool | None, overwrite: bool, command: str | None
) -> TrainResult:
    from babyllama.training.folder_lock import run_lock
    from babyllama.training.run_folder import guard_run
    from babyllama.training.stop_signals import StopSignals

    run_dir = run_folder(config)
    fingerprint = fingerprint_of(config, data)
    with run_lock(run_dir), StopSignals() as signals:
        found = distributed.from_main(lambda: guard_run(run_dir, fingerprint, overwrite=overwrite, resume=bool(resume)))
        if found == "finished":
            metrics = distributed.from_main(lambda: read_json(run_dir / TRAINING_METRICS))
            return TrainResult(run_dir, metrics, already_finished=True)
        start = distributed.from_main(lambda: find_start(run_dir, resume, fingerprint))
        trainer = train_within_memory(config, data, run_dir, fingerprint, start, signals)
        metrics = finish(config, data, trainer, run_dir, command or command_line())
    return TrainResult(run_dir, metrics)


def prepare_data(config: Config) -> PreparedData:
    """Read, clean, tokenize (or find all that in the cache) and say what was found."""
    from data_utils import DataProcessor

    _speak_as_its_origin(config)
    data = DataProcessor(config.data).prepare()
    for note in data.notes:
        say(note)
    origin = "from the cache" if data.from_cache else "prepared"
    say(
        f"data: {len(data.train.tokens):,} training tokens, {len(data.valid.tokens):,} held out, "
        f"vocabulary {len(data.tokenizer):,}, {origin} in {data.seconds:.1f} s"
    )
    return data


def _speak_as_its_origin(config: Config) -> None:
    """A model that starts from a checkpoint, or learns from teachers, takes their tokenizer where none is set."""
    origins = [("model.init_from", config.model.init_from)] if config.model.init_from else []
    if config.distillation:
        origins += [("distillation.teachers", path) for path in config.distillation.teachers]
    for key, path in origins:
        if not Path(path).expanduser().is_dir():
            raise ConfigError(f"{key}: {path}: no such checkpoint folder")
        config.data.tokenizer_path = config.data.tokenizer_path or path


def fingerprint_of(config: Config, data: PreparedData) -> dict[str, Any]:
    """What makes this run this run: every key that changes the weights, the text, the tokenizer, the plugins."""
    from babyllama.config.fingerprint import training_fingerprint
    from babyllama.data.tokenizer import tokenizer_fingerprint
    from babyllama.plugins import plugin_hashes
    from babyllama.research.curriculum import curriculum_fingerprint

    found = training_fingerprint(config, data.fingerprint, tokenizer_fingerprint(data.tokenizer))
    if config.distillation:
        from babyllama.research.teachers import teacher_contents

        plain = config.distillation.model_dump(mode="json", exclude={"teachers"})
        found |= {f"distillation.{key}": value for key, value in plain.items()} | teacher_contents(config)
    return {**found, **curriculum_fingerprint(config), "plugins": plugin_hashes(config.plugins)}


def start_trainer(
    config: Config, data: PreparedData, run_dir: Path, fingerprint: dict[str, Any], runtime: Runtime | None
) -> BabyTrainer:
    """Model and Trainer, with the run folder opened for them. `runtime` is that of the checkpoint on a resume."""
    from babyllama.common import disk_space
    from babyllama.models import runtime as rt
    from babyllama.training.callbacks import CheckpointGuard
    from babyllama.training.wandb_log import WandbLog

    model = create_model(config, data.tokenizer)
    size = sum(parameter.numel() for parameter in model.parameters())
    needed = config.training.save_total_limit + 1
    if is_main_process():
        disk_space.check_writable(run_dir)
        disk_space.check_space(run_dir, needed * disk_space.checkpoint_bytes(size), "checkpoints")
    runtime = reuse_or_decide(config, data, runtime, size)
    say(f"model: {config.model.type}, {size:,} parameters")
    say(runtime.line())
    rt.apply(runtime)
    trainer = build_trainer(config, model, data, runtime, run_dir)
    extra = {"fingerprint": fingerprint, "runtime": runtime.to_dict()}
    trainer.add_callback(CheckpointGuard(trainer, run_dir, extra, config.training))
    if config.logging.wandb or "wandb" in config.logging.report_to:
        trainer.add_callback(WandbLog(config, run_dir))
    if is_main_process():
        write_json(run_dir / RUN_FINGERPRINT, fingerprint)
        save_config(config, run_dir / TRAINING_CONFIG)
        data.tokenizer.save_pretrained(run_dir)
    return trainer


def reuse_or_decide(config: Config, data: PreparedData, runtime: Runtime | None, size: int) -> Runtime:
    """The checkpoint's runtime where this machine can do it, else a new decision for the whole run."""
    from babyllama.models import runtime as rt
    from babyllama.training.arguments import plan_run

    train_set, _ = packed_datasets(config, data)
    plan = plan_run(config, len(train_set), distributed.world_size())
    decided = rt.decide(config, total_steps=plan.total_steps, num_parameters=size)
    if runtime is None or runtime == decided:
        return decided
    if runtime.processes != decided.processes:
        change = f"{runtime.processes} -> {decided.processes}"
        say(f"processes: {change}: sums are rounded otherwise, the resume is not bit-exact")
        runtime = replace(runtime, processes=decided.processes, threads=decided.threads)
    if rt.possible(runtime):
        return runtime
    say(f"this machine cannot compute as the checkpoint did ({runtime.line()}): the resume is not bit-exact")
    return decided


def create_model(config: Config, tokenizer: Any) -> PreTrainedModel:
    """Build the model that the config names, with random weights from `training.seed` or from `model.init_from`.

    Args:
        config: Run configuration; `model.type` picks one of the three architectures or a plugin's.
        tokenizer: Gives the size of the vocabulary and the special tokens.

    Returns:
        A causal language model in float32 on the CPU, in training mode.

    Raises:
        ConfigError: The type is unknown, or `init_from` has another vocabulary.
    """
    from transformers import set_seed

    from babyllama.models.architectures import build_model, ignored_dropouts
    from babyllama.plugins import ARCHITECTURES, build_own_model

    set_seed(config.training.seed)
    if config.model.init_from:
        return _from_checkpoint(config, tokenizer).train()
    if config.model.type in ARCHITECTURES:
        return build_own_model(config.model.type, config, tokenizer).train()
    ignored = ignored_dropouts(config)
    if ignored:
        say(f"{', '.join(ignored)}: {config.model.type} has no such dropout, ignored")
    return build_model(config, tokenizer).train()


def _from_checkpoint(config: Config, tokenizer: Any) -> PreTrainedModel:
    from babyllama.models.loading import load_model

    model = load_model(Path(config.model.init_from))
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise ConfigError(
            f"model.init_from: {config.model.init_from} has {rows:,} embeddings, the tokenizer {len(tokenizer):,} "
            "tokens. Use that checkpoint's own tokenizer: data.tokenizer_path."
        )
    return model


def build_trainer(
    config: Config, model: PreTrainedModel, data: PreparedData, runtime: Runtime, run_dir: Path
) -> BabyTrainer:
    """Build HuggingFace's Trainer with our hot path inside the model's forward.

    Args:
        config: Run configuration.
        model: From `create_model`; its forward and layers are changed in place.
        data: From `DataProcessor.prepare`.
        runtime: From `babyllama.models.runtime.decide`.
        run_dir: Where checkpoints and logs go.

    Returns:
        A Trainer that is ready for `.train()`.
    """
    from babyllama.plugins import own_callbacks
    from babyllama.research.curriculum import arrange
    from babyllama.research.milestones import add_milestones
    from babyllama.training.arguments import plan_run, training_arguments
    from babyllama.training.callbacks import BestKeeper, EpochSetter, LogFile, Terminal
    from babyllama.training.trainer import BabyTrainer

    train_set, valid_set = packed_datasets(config, data)
    plan = plan_run(config, len(train_set), distributed.world_size())
    for note in plan.notes:
        say(note)
    train_set = arrange(config, data, train_set, plan.total_steps, run_dir)
    prepare_forward(model, runtime)
    sums = None
    if config.distillation:
        from babyllama.research.teachers import teach

        sums = teach(model, config, data.tokenizer, runtime)
    trainer = BabyTrainer(
        model=model,
        args=training_arguments(config, plan, runtime, run_dir),
        train_dataset=train_set,
        eval_dataset=valid_set,
        processing_class=data.tokenizer,
        config=config,
        data=data,
        runtime=runtime,
        curve_chunks=config.data.eval_samples or CURVE_CHUNKS,
        total_steps=plan.total_steps,
        distillation=sums,
    )
    trainer.add_callback(EpochSetter(train_set))
    trainer.add_callback(LogFile(run_dir / TRAINING_LOG))
    trainer.add_callback(Terminal(trainer.clock, trainer.tokens_per_step))
    trainer.best = BestKeeper(save=config.training.keep == "best")
    trainer.add_callback(trainer.best)
    for callback in own_callbacks(config):
        trainer.add_callback(callback)
    add_milestones(trainer, config, data, run_dir, plan.total_steps)
    return trainer


def train_within_memory(
    config: Config,
    data: PreparedData,
    run_dir: Path,
    fingerprint: dict[str, Any],
    start: tuple[Path | None, Runtime | None],
    signals: StopSignals,
) -> BabyTrainer:
    """Train; a micro-batch that does not fit into a GPU's memory is halved, the accumulation doubled.

    Raises:
        OutOfMemory: On a CPU, or where one sequence does not fit; says what to set.
    """
    from babyllama.training import out_of_memory
    from babyllama.training.checkpoints import newest_complete
    from babyllama.training.trainer import run_training

    checkpoint, runtime = start
    processes = distributed.world_size()
    while True:
        with distributed.together():
            trainer = start_trainer(config, data, run_dir, fingerprint, runtime)
        try:
            run_training(trainer, checkpoint, signals)
            return trainer
        except Exception as error:
            if not out_of_memory.is_out_of_memory(error):
                raise
            advice = out_of_memory.advice(config.training, processes)
            parts = out_of_memory.smaller_parts(config.training, processes)
            if parts is None or not out_of_memory.halves_by_itself(trainer.runtime):
                raise out_of_memory.OutOfMemory(f"out of memory on {trainer.runtime.device}: {advice}") from error
        say(f"out of memory on {trainer.runtime.device}: going on with {advice}")
        config.training.gradient_accumulation_steps = parts
        fingerprint = fingerprint_of(config, data)
        runtime, checkpoint = trainer.runtime, newest_complete(run_dir)
        del trainer
        out_of_memory.free_gpu_memory()


def finish(config: Config, data: PreparedData, trainer: BabyTrainer, run_dir: Path, command: str) -> dict[str, Any]:
    """Save the model, score the saved files as a user will load them, write training_metrics.json last.

    Of several processes rank 0 does it; the others wait for its figures.
    """
    from babyllama.models import fsdp

    trainer.restore_best_if_asked(run_dir)
    weights = fsdp.whole_weights(trainer.model) if fsdp.is_sharded(trainer.model) else None
    return distributed.from_main(lambda: _finish(config, data, trainer, run_dir, command, weights))


def _finish(
    config: Config, data: PreparedData, trainer: BabyTrainer, run_dir: Path, command: str, weights: Any
) -> dict[str, Any]:
    from babyllama.evaluation.perplexity import score_held_out
    from babyllama.models.loading import load_model
    from babyllama.pages.model_card import write_model_card
    from babyllama.training.record import training_metrics
    from data_utils import DataProcessor

    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    model.save_pretrained(run_dir, state_dict=weights)
    data.tokenizer.save_pretrained(run_dir)
    say("scoring the saved model on the held-out documents")
    documents = DataProcessor(config.data).held_out_documents()
    scored = score_held_out(config, data.tokenizer, documents, load_model(run_dir))
    metrics = training_metrics(config, data, trainer, scored, command)
    if config.distillation:
        metrics["teachers"] = [
            {
                "path": path,
                "eval_bits_per_byte": score_held_out(config, data.tokenizer, documents, load_model(path))[
                    "bits_per_byte"
                ],
            }
            for path in config.distillation.teachers
        ]
    write_json(run_dir / TRAINING_METRICS, metrics)
    write_model_card(run_dir)
    for callback in trainer.callback_handler.callbacks:
        if hasattr(callback, "finish"):
            callback.finish(metrics)
    return metrics


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: trains only."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train one model from a YAML config.")
    add_config_flags(parser)
    args = parser.parse_args(argv)
    result = train(config_from_args(args), resume=args.resume_from_checkpoint, overwrite=args.overwrite)
    if result.already_finished:
        say(f"this run is finished: {result.run_dir} (nothing was written; --overwrite trains it anew)")
    else:
        say(f"saved: {result.run_dir}   next: python evaluate.py {result.run_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
