"""Train one model: `python train.py --config config/llama-10M.yaml`.

`train` is the recipe of a run in seven steps: prepare the text and the tokenizer, look at the run folder, decide how to
compute, build the model (`create_model`), build HuggingFace's Trainer around it (`build_trainer`), train, then save and
score the saved checkpoint on the held-out documents. `main.py` runs this and then evaluates and reports.

People import `create_model`, `build_trainer` and `train` from here, with a `Config` of `babyllama.config.load_config`.
Under `torchrun` or `accelerate launch` every process runs this; rank 0 prepares, decides and writes (docs/scaling.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllama.common import distributed
from babyllama.common.command import Parser, run_command
from babyllama.common.console import say
from babyllama.common.files import read_json, write_json
from babyllama.common.provenance import command_line, program, quoted
from babyllama.config import run_layout
from babyllama.config.flags import add_config_flags, config_from_args
from babyllama.config.schema import Config
from data_utils import DataProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from babyllama.data.prepared import PreparedData
    from babyllama.models.runtime import Runtime
    from babyllama.training.start import Start
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
    from babyllama.models.gpu import pin_gpu, restored_settings
    from babyllama.models.loading import quiet_libraries
    from babyllama.models.runtime import resolve_device
    from babyllama.plugins import load_plugins
    from babyllama.training.folder_lock import run_lock
    from babyllama.training.out_of_memory import train_within_memory
    from babyllama.training.recipes.cooldown import trunk_folder
    from babyllama.training.replaced import replacing
    from babyllama.training.run_folder import guard_run, refuse_own_inputs
    from babyllama.training.start import choose_batch_size, choose_parts, find_start
    from babyllama.training.stop_signals import StopSignals

    quiet_libraries()
    if overwrite:
        refuse_own_inputs(run_layout.run_dir(config), config)
    if distributed.world_size() == 1:
        config.training.device = pin_gpu(config.training.device)
    device = resolve_device(config.training.device)
    check_sharding(config, device, distributed.world_size())
    with restored_settings(), distributed.process_group(device):
        with distributed.raise_on_all_ranks():
            load_plugins(config.plugins)

        # 1. Data: text, tokenizer and tokens. Rank 0 prepares them, the other ranks find them in the cache.
        data = distributed.rank_zero_first(lambda: prepare_data(config))

        # 2. Run folder: may this run write here, and from which checkpoint does it start?
        run_dir, words, training = run_layout.run_dir(config), len(data.tokenizer), config.training
        training.batch_size = distributed.on_rank_zero(lambda: choose_batch_size(config, device, run_dir, overwrite))
        parts = distributed.on_rank_zero(lambda: choose_parts(config, words, device, run_dir, overwrite))
        training.gradient_accumulation_steps = parts
        fingerprint = run_fingerprint(config, data)
        config_asked = config.model_copy(deep=True)  # the micro-batch may become smaller
        with run_lock(run_dir), StopSignals() as signals, replacing(run_dir):
            asked = {"overwrite": overwrite, "resume": bool(resume)}
            if distributed.on_rank_zero(lambda: guard_run(run_dir, fingerprint, **asked)) == "finished":
                metrics = distributed.on_rank_zero(lambda: read_json(run_dir / run_layout.TRAINING_METRICS))
                return TrainResult(run_dir, metrics, already_finished=True)
            start = distributed.on_rank_zero(lambda: find_start(run_dir, resume, fingerprint, trunk_folder(config)))
            start.config, start.fingerprint = config_asked, fingerprint
            config.training.gradient_accumulation_steps = start.accumulation_for(config.training)

            # 3. to 6. How to compute, model, Trainer, training; again in smaller parts where a GPU's memory ends.
            def attempt(start: Start) -> BabyTrainer:
                return train_once(config, data, run_dir, start, signals)

            trainer = train_within_memory(config.training, run_dir, start, attempt)

            # 7. Save the model, score it as a user will load it, write the record last.
            metrics = save_and_score(config, data, trainer, run_dir, command or command_line())
    return TrainResult(run_dir, metrics)


def train_once(config: Config, data: PreparedData, run_dir: Path, start: Start, signals: StopSignals) -> BabyTrainer:
    """Build model and Trainer and train to the end, or until something ends the training by its own error.

    Args:
        config: Run configuration.
        data: The prepared text.
        run_dir: The run folder, locked.
        start: The checkpoint to go on from and its runtime; gets this attempt's runtime.
        signals: Noted while the block of `train` runs; the first asks for a checkpoint at the end of the step.

    Returns:
        The Trainer after its last step.
    """
    from babyllama.models import runtime as rt
    from babyllama.training.running import run_training
    from babyllama.training.start import check_disk, choose_runtime, open_run_folder, taken_by

    with distributed.raise_on_all_ranks():
        # Model: random weights from the seed, or those of model.init_from.
        model = create_model(config, data.tokenizer)
        size = sum(parameter.numel() for parameter in model.parameters())
        check_disk(config, model, run_dir)
        say(f"model: {config.model.type}, {size:,} parameters")

        # How to compute: device, precision, attention, compiling, threads; one decision for the whole run.
        chosen = choose_runtime(config, data, size, start.runtime)
        start.runtime = taken_by(model, chosen, config.training)
        say(start.runtime.line())
        rt.apply(start.runtime)

        # Trainer: HuggingFace's, with our forward pass, optimizer and callbacks. The folder now says what it is.
        trainer = build_trainer(config, model, data, start.runtime, run_dir, start)
        start.total_steps = trainer.total_steps
        open_run_folder(trainer, start, data, run_dir)

    # Train.
    run_training(trainer, start, signals)
    return trainer


def prepare_data(config: Config) -> PreparedData:
    """Read, clean, tokenize (or find all that in the cache) and say what was found."""
    from babyllama.training.start import follow_origins, tell_other_tokenizer

    follow_origins(config)
    data = DataProcessor(config.data).prepare()
    for note in data.notes:
        say(note)
    if config.model.init_from:
        tell_other_tokenizer(config, data.tokenizer)
    if seen := data.held_out_in_training:
        say(f"{seen:,} held-out documents stand word for word in the training text: their score is partly memory")
    say(
        f"data: {len(data.train.tokens):,} training tokens, {len(data.valid.tokens):,} held out, "
        f"vocabulary {len(data.tokenizer):,}, {data.origin} in {data.seconds:.1f} s"
    )
    return data


def run_fingerprint(config: Config, data: PreparedData) -> dict[str, Any]:
    """Return what makes this run this run: every key that changes the weights, the text, the tokenizer, the plugins."""
    from babyllama.config.fingerprint import training_fingerprint
    from babyllama.data.tokenizer import tokenizer_fingerprint
    from babyllama.evaluation.score_cache import checkpoint_content
    from babyllama.plugins import plugin_hashes
    from babyllama.research.curriculum import curriculum_fingerprint
    from babyllama.training.recipes.cooldown import cooldown_fingerprint

    found = training_fingerprint(config, data.fingerprint, tokenizer_fingerprint(data.tokenizer))
    if config.distillation:
        from babyllama.research.teachers import teacher_contents

        plain = config.distillation.model_dump(mode="json", exclude={"teachers"})
        found |= {f"distillation.{key}": value for key, value in plain.items()} | teacher_contents(config)
    if config.model.init_from:
        found["model.init_from weights"] = checkpoint_content(Path(config.model.init_from).expanduser())
    found |= curriculum_fingerprint(config) | cooldown_fingerprint(config)
    return {**found, "plugins": plugin_hashes(config.plugins)}


def create_model(config: Config, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Build the model that the config names, with random weights from `training.seed` or from `model.init_from`.

    Args:
        config: Run configuration; `model.type` picks one of the three architectures or a plugin's.
        tokenizer: Tokenizer whose vocabulary and special tokens the model gets.

    Returns:
        A causal language model in float32 on the CPU, in training mode.

    Raises:
        ConfigError: The type is unknown, or `init_from` has another vocabulary.
    """
    from transformers import set_seed

    from babyllama.models.architectures import build_model, ignored_dropouts
    from babyllama.models.loading import load_origin
    from babyllama.models.structure import require_causal
    from babyllama.plugins import ARCHITECTURES, build_own_model

    set_seed(config.training.seed)
    if config.model.init_from:
        return load_origin(config, tokenizer).train()
    if config.model.type in ARCHITECTURES:
        return require_causal(build_own_model(config.model.type, config, tokenizer)).train()
    if ignored := ignored_dropouts(config):
        say(f"{', '.join(ignored)}: {config.model.type} has no such dropout, ignored")
    return build_model(config, tokenizer).train()


def build_trainer(
    config: Config,
    model: PreTrainedModel,
    data: PreparedData,
    runtime: Runtime,
    run_dir: Path,
    start: Start | None = None,
) -> BabyTrainer:
    """Build HuggingFace's Trainer with our hot path inside the model's forward.

    Args:
        config: Run configuration.
        model: Result of `create_model`; its forward and layers are changed in place.
        data: Result of `DataProcessor.prepare`.
        runtime: Result of `babyllama.models.runtime.decide`.
        run_dir: Where checkpoints and logs go.
        start: The checkpoint to go on from and the run's number of steps, which a time budget is not asked for twice.

    Returns:
        A Trainer that is ready for `.train()`.
    """
    from babyllama.data.packing import packed_datasets
    from babyllama.models import compiled_layers, residual_dropout
    from babyllama.plugins import own_callbacks
    from babyllama.research.curriculum import apply_curriculum
    from babyllama.research.milestones import add_milestones
    from babyllama.training.arguments import count_steps, training_arguments
    from babyllama.training.callbacks import BestKeeper, EpochSetter, LogFile, Terminal
    from babyllama.training.recipes import averages, patience
    from babyllama.training.recipes.time_budget import fix_length
    from babyllama.training.trainer import BabyTrainer

    # The forward pass, with the teachers' beside it in a distillation.
    train_set, valid_set = packed_datasets(config, data)
    residual_dropout.add_residual_dropout(model, config.model.resid_pdrop, runtime)
    compiled_layers.prepare_forward(model, runtime)
    sums = None
    if config.distillation:
        from babyllama.research.teachers import add_distillation

        sums = add_distillation(model, config, data.tokenizer, runtime)

    # The run's length: steps, intervals, and the order of the chunks, which may depend on it.
    curve = config.data.eval_samples or CURVE_CHUNKS
    measured = fix_length(model, config, runtime, (train_set, valid_set), curve, start)
    if sums is not None:
        sums.read()  # of the timed steps
    plan = count_steps(measured, len(train_set), distributed.world_size())
    for note in [*plan.notes, *getattr(train_set, "lines", list)()]:
        say(note)
    train_set = apply_curriculum(config, data, train_set, plan.total_steps, run_dir)

    # HuggingFace's Trainer and what watches it.
    trainer = BabyTrainer(
        model=model,
        args=training_arguments(measured, plan, runtime, run_dir),
        train_dataset=train_set,
        eval_dataset=valid_set,
        processing_class=data.tokenizer,
        config=config,
        data=data,
        runtime=runtime,
        curve_chunks=curve,
        total_steps=plan.total_steps,
        distillation=sums,
    )
    trainer.best = BestKeeper(save=config.training.keep == "best")
    shown = Terminal(trainer.clock, trainer.tokens_per_step), trainer.best
    for callback in (EpochSetter(train_set), LogFile(run_dir / run_layout.TRAINING_LOG), *shown):
        trainer.add_callback(callback)
    averages.add_averages(trainer, config, plan.steps_per_epoch)
    patience.add_patience(trainer, config, plan.total_steps)
    for callback in own_callbacks(config):
        trainer.add_callback(callback)
    add_milestones(trainer, config, data, run_dir, plan.total_steps)
    return trainer


def save_and_score(
    config: Config, data: PreparedData, trainer: BabyTrainer, run_dir: Path, command: str
) -> dict[str, Any]:
    """Save the model, score the saved files on the held-out documents, write card and record.

    Of several processes rank 0 does it; the others help to gather sharded weights and wait for its figures.

    Returns:
        The content of training_metrics.json.
    """
    from babyllama.models import fsdp
    from babyllama.training.recipes.averages import save_averages, score_averages
    from babyllama.training.trainer import packed_loss

    trainer.restore_best_if_asked(run_dir)
    averages = save_averages(trainer, data.tokenizer, run_dir, lambda: packed_loss(trainer, trainer.curve_chunks))
    weights = fsdp.whole_weights(trainer.model) if fsdp.is_sharded(trainer.model) else None

    def on_rank_zero() -> dict[str, Any]:
        from babyllama.evaluation.perplexity import score_checkpoint
        from babyllama.models.older_readers import write_old_names
        from babyllama.pages.model_card import write_model_card
        from babyllama.training.record import training_metrics

        # The model as users load it.
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        model.save_pretrained(run_dir, state_dict=weights)
        data.tokenizer.save_pretrained(run_dir)
        write_old_names(run_dir)

        # Its score, and the teachers' beside it, by the definition of evaluate.py.
        say("scoring the saved model on the held-out documents")
        trainer.leave_gpu()
        documents, device = data.held_out_documents, trainer.runtime.device
        score = partial(score_checkpoint, config, data.tokenizer, documents, device=device)
        metrics = training_metrics(config, data, trainer, score(run_dir), command)
        metrics |= score_averages(averages, score, run_dir)
        if config.distillation:
            paths = config.distillation.teachers
            metrics["teachers"] = [{"path": path, "eval_bits_per_byte": score(path)["bits_per_byte"]} for path in paths]

        # The record last: a folder without it is an unfinished run.
        write_json(run_dir / run_layout.TRAINING_METRICS, metrics)
        write_model_card(run_dir)
        for callback in trainer.callback_handler.callbacks:
            if hasattr(callback, "finish"):
                callback.finish(metrics)
        return metrics

    return distributed.on_rank_zero(on_rank_zero)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a training."""
    add_config_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Train one model and score it on its held-out documents."""
    result = train(config_from_args(args), resume=args.resume_from_checkpoint, overwrite=args.overwrite)
    if result.already_finished:
        say(f"this run is finished: {result.run_dir} (nothing was written; --overwrite trains it anew)")
    else:
        say(f"saved: {result.run_dir}   next: {program()} evaluate {quoted(str(result.run_dir))}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and train."""
    parser = Parser(prog="train.py", description="Train one model from a YAML config.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
