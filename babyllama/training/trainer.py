"""HuggingFace's Trainer with our optimizer, our held-out curve and our log line; the loop itself is theirs.

What is replaced, and why:
* `create_optimizer`: the Trainer has no Muon.
* `evaluate`: its `eval_loss` is a mean of batch means; ours is a sum over tokens divided by their number, over packed
  held-out chunks, and is called valid_loss (the final score over whole documents is eval_loss).
* `training_step`: a loss that is not finite stops the run before anything is saved (on CPU within the step, on a GPU
  at the next log line, because reading the flag would make the GPU wait). On a GPU it may be a CUDA graph (step_graph).
* Several processes (`torchrun`): the curve's chunks are shared out and their sums gathered; a loss that is not finite
  or a signal at one process stops all of them at the same step (`babyllama.common.distributed`).
* `_save_checkpoint`: looks once whether loss and weights are finite, on every device.
* `log`: every entry also says tokens, words and seconds, which is what curves are compared by.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerState

from babyllama.common import distributed
from babyllama.common.console import say
from babyllama.common.errors import NumericError
from babyllama.config.run_layout import TRAINER_STATE, WEIGHTS
from babyllama.config.schema import Config
from babyllama.data.epoch_order import EpochSampler
from babyllama.data.packing import PackedDataset
from babyllama.models import fsdp
from babyllama.models.flops import flops_per_token, known_peak
from babyllama.models.fused_loss import IGNORE, shift_labels
from babyllama.models.gpu import free_gpu_memory, synchronizer
from babyllama.models.runtime import Runtime, dtype_of
from babyllama.models.structure import spare_the_walks, weights_are_finite
from babyllama.training.callbacks import BestKeeper, CollectSeldom, MpsRandomState
from babyllama.training.optim import build_optimizer
from babyllama.training.recipes.short_start import cut_chunks, short_steps
from babyllama.training.timing.clock import SlowSteps, StepClock, WidenIntervals
from babyllama.training.timing.short_spins import WatchSpins
from babyllama.training.timing.step_graph import StepGraph

if TYPE_CHECKING:
    from babyllama.data.epoch_order import ChunkSet
    from babyllama.data.prepared import PreparedData
    from babyllama.research.teachers import DistillationSums
    from babyllama.training.recipes.patience import Patience

MOST_SKIPPED = 50  # steps that fp16 may skip one after the other
SMALLEST_SCALE = 2.0 ** (16 - MOST_SKIPPED)  # GradScaler begins at 2^16 and halves at each


def collate_for_training(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a packed batch whose first label is -100.

    No token precedes the first of a chunk, so it is never predicted; saying so here makes every version of the
    Trainer count the same number of predicted tokens (some count position 0 for GPT-2, some do not).
    """
    labels = batch["labels"].clone()
    labels[:, 0] = IGNORE
    return {"input_ids": batch["input_ids"], "labels": labels}


class BabyTrainer(Trainer):
    """The Trainer that `train.build_trainer` builds.

    Args:
        config: The run's configuration.
        data: PreparedData: its token and word counts scale the log.
        runtime: How the run is computed.
        curve_chunks: Held-out chunks of the curve's points.
        total_steps: Optimizer steps of the whole run.
        distillation: Running sums of a distillation's two losses (`babyllama.research.teachers`), logged apart.
        **kwargs: Arguments of `transformers.Trainer`.
    """

    best: BestKeeper

    def __init__(
        self,
        *,
        config: Config,
        data: PreparedData,
        runtime: Runtime,
        curve_chunks: int,
        total_steps: int,
        distillation: DistillationSums | None = None,
        **kwargs: Any,
    ) -> None:
        # What the run is.
        self.total_steps = total_steps
        self.distillation = distillation
        self.training_config = config.training
        self.short_steps, self.short_length = short_steps(config.data, total_steps), config.data.start_length
        self.runtime = runtime
        self.valid: PackedDataset = kwargs["eval_dataset"]
        self.curve_chunks = min(curve_chunks, len(self.valid))
        # What a step and an epoch are worth, for logs and record.
        mixed = kwargs["train_dataset"]  # a mixture shows other text in an epoch than there is
        self.epoch_tokens = getattr(mixed, "epoch_tokens", len(data.train.tokens))
        self.epoch_words = getattr(mixed, "epoch_words", int(data.train.words.sum()))
        self.tokens_per_step = config.training.batch_size * config.data.seq_length
        self.valid_tokens_per_byte = len(data.valid.tokens) / max(int(data.valid.bytes.sum()), 1)
        self.last_good_checkpoint: Path | None = None
        self.patience: Patience | None = None  # where the recipe asks for it
        self.not_finite = False
        self.peak_bytes: int | None = None  # of the GPU, once it is left
        on_gpu = runtime.device.startswith("cuda")
        self.clock = StepClock(synchronizer(runtime.device))
        self.flops_per_token = flops_per_token(kwargs["model"], config.data.seq_length)
        peak = known_peak(runtime.device, runtime.precision)
        self.peak = peak * runtime.processes if peak else None
        # The Trainer, its own printing replaced by ours.
        super().__init__(data_collator=collate_for_training, **kwargs)
        fsdp.reduce_in_float32(self)
        for default in (PrinterCallback, ProgressCallback):
            self.remove_callback(default)
        self.add_callback(self.clock)
        self.add_callback(SlowSteps(self.clock))
        if runtime.device == "mps":
            self.add_callback(MpsRandomState(lambda: self.last_good_checkpoint))
        if runtime.device == "cpu" and runtime.processes == 1:
            self.add_callback(WatchSpins(runtime.threads))
        spare_the_walks(self.model)
        trained = (parameter for parameter in self.model.parameters() if parameter.requires_grad)
        self.step_graph = StepGraph(trained) if runtime.graphs else None
        self.intervals = WidenIntervals(self.clock, self.training_config, self.args.logging_steps)
        if on_gpu:
            self.add_callback(CollectSeldom())
        if on_gpu and runtime.processes == 1:  # several would each measure something else, and wait for each other
            self.add_callback(self.intervals)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW or Muon as the recipe says."""
        if self.optimizer is None:
            muon = self.runtime.muon_precision
            precision = dtype_of(muon) if muon else None
            self.optimizer = build_optimizer(self.model if model is None else model, self.training_config, precision)
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | int | None]:
        """Return the batches of a step; in the part of the run that `data.start_length` lasts, in shorter chunks."""
        if self.state.global_step < self.short_steps:
            epoch_iterator = map(partial(cut_chunks, length=self.short_length), epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _get_train_sampler(self, train_dataset: ChunkSet | None = None) -> EpochSampler:
        """Return the order that seed and epoch decide (babyllama/data/epoch_order.py); milestones count ahead by it."""
        return EpochSampler(self.train_dataset if train_dataset is None else train_dataset, self.args.data_seed)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Return one forward and backward pass; stops on a loss that is not finite where looking costs nothing (CPU).

        With several processes they stop together, before the weights change (StopOnSignal).
        """
        if self.step_graph is not None and self.current_gradient_accumulation_steps == 1:
            return self.step_graph(partial(super().training_step, model), inputs, num_items_in_batch)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            self.not_finite = True
            if not distributed.is_initialized():
                self.stop_not_finite(loss.item())
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count nothing: the Trainer's count walks over all parameters each micro-batch, ours is in models/flops.py."""
        return 0

    def check_finite(self) -> None:
        """Stop before a save where the loss since the last log line, or a weight, is not finite.

        On a GPU the loss is looked at only where it is logged, and a signal, a milestone or `keep: best` saves in
        between. The Trainer's running sum keeps a NaN once it is in it; weights are looked at because the step that
        spoils them may be the one that is saved. All processes come here together and stop together.

        Raises:
            NumericError: Something is not finite; nothing is saved.
        """
        running = getattr(self, "_tr_loss", None)
        loss = 0.0 if running is None else float(running)
        broken = not math.isfinite(loss) or not weights_are_finite(self.model)
        if distributed.all_reduce_max(int(broken))[0]:
            self.stop_not_finite(float("nan") if math.isfinite(loss) else loss, self.state.global_step)

    def _save_checkpoint(self, model: torch.nn.Module, trial: dict[str, Any] | None) -> None:
        """Write a checkpoint of what is finite."""
        self.check_finite()
        self.intervals.saving()
        super()._save_checkpoint(model, trial)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Take over the checkpoint's fp16 loss scale where this run has one: elsewhere the Trainer asks None for it."""
        if getattr(self.accelerator, "scaler", None) is not None:
            super()._load_scaler(checkpoint)

    def stop_not_finite(self, value: float, step: int | None = None) -> None:
        """End the training; name the last good checkpoint.

        Args:
            value: Loss that is not finite, NaN where a weight is.
            step: Step at which it was seen; None for the one that is being computed.

        Raises:
            NumericError: Always.
        """
        good = self.last_good_checkpoint
        last = f"the last good checkpoint is {good}" if good else "no checkpoint had been written"
        step = self.state.global_step + 1 if step is None else step
        raise NumericError(
            f"the loss became {value} at step {step:,}: training stopped before that step was saved; {last}. "
            "Try a lower training.lr or a longer training.warmup_steps."
        )

    def check_loss_scale(self) -> None:
        """Stop where fp16's loss scale has been halved fifty times: every step is skipped, and nothing is learned.

        Raises:
            NumericError: The scale is that low.
        """
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and scaler.get_scale() <= SMALLEST_SCALE:
            raise NumericError(
                f"the fp16 loss scale fell to {scaler.get_scale():.3g} at step {self.state.global_step:,}: "
                f"about {MOST_SKIPPED} steps in a row overflowed and were skipped. Use training.bf16: true, or both "
                "precisions false."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log under our names, with tokens, words and seconds beside each entry."""
        if "train_loss" in logs:  # the Trainer's own summary: covers only the part since a resume, ours is in train.py
            return
        if not math.isfinite(logs.get("loss", 0.0)):
            self.stop_not_finite(logs["loss"])
        if "loss" in logs:
            self.clock.read()
            self.check_loss_scale()
        epoch = self.state.epoch or 0.0
        logs["tokens"] = round(epoch * self.epoch_tokens)
        logs["words"] = round(epoch * self.epoch_words)
        logs["seconds"] = round(self.clock.training_seconds(), 3)
        if "loss" in logs and self.clock.recent:
            logs["tokens_per_second"] = round(self.tokens_per_step / statistics.median(self.clock.recent), 1)
            self.clock.recent.clear()
            if self.peak:
                logs["mfu"] = round(logs["tokens_per_second"] * self.flops_per_token / self.peak, 4)
        if "loss" in logs and self.distillation is not None:
            logs.update({name: round(value, 6) for name, value in self.distillation.read().items()})
        super().log(logs)

    def take_finished(self, checkpoint: Path) -> bool:
        """Take over a checkpoint that is the run's last: the process ended after it and before the model was saved.

        The Trainer would train one more step from it.

        Args:
            checkpoint: A verified one.

        Returns:
            Whether it was the last; model and state are then as at the end of the training.
        """
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))
        early = self.patience.decision(state.log_history) if self.patience else None
        if state.global_step < (early.total_steps if early else self.total_steps):
            return False
        self._take_weights(checkpoint)
        self.state = state
        for event in ("on_train_begin", "on_train_end"):
            getattr(self.callback_handler, event)(self.args, self.state, self.control)
        say(f"{checkpoint.name} is the last one of this run: nothing is left to train")
        return True

    def _take_weights(self, checkpoint: Path) -> None:
        weights = load_file(checkpoint / WEIGHTS)
        if fsdp.is_sharded(self.model):
            fsdp.put_weights(self.model, weights)
            return
        self.model.load_state_dict(weights, strict=False)
        self.model.tie_weights()

    def restore_best_if_asked(self, run_dir: Path) -> None:
        """With `keep: best`, load the weights of the best point of the held-out curve."""
        folder = run_dir / f"checkpoint-{self.best.best_step}"
        if self.training_config.keep == "best" and self.best.best_step != self.state.global_step and folder.is_dir():
            self._take_weights(folder)
            say(f"kept the weights of step {self.best.best_step:,}, the best on the held-out curve")

    def leave_gpu(self) -> None:
        """Free the GPU for the scores after the training: weights to the CPU, optimizer and graphs gone."""
        if not self.runtime.device.startswith("cuda") or fsdp.is_sharded(self.model):
            return
        self.peak_bytes = int(torch.cuda.max_memory_allocated())
        self.step_graph = None
        self.model.to("cpu")
        self.optimizer = self.lr_scheduler = None
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        self.accelerator.free_memory()
        free_gpu_memory()

    @torch.no_grad()
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the held-out curve's next point.

        Returns:
            valid_loss (nats per token, over packed chunks), valid_perplexity, valid_bits_per_byte.
        """
        if self.clock.wait is not None:
            self.clock.wait()  # what is queued is training
        started = time.perf_counter()
        loss = packed_loss(self, self.curve_chunks)
        self.intervals.evaluated(time.perf_counter() - started)
        bits = loss * self.valid_tokens_per_byte / math.log(2)
        metrics = {"valid_loss": loss, "valid_perplexity": math.exp(min(loss, 700)), "valid_bits_per_byte": bits}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.clock.disturb()
        return metrics


@torch.no_grad()
def packed_loss(trainer: BabyTrainer, chunks: int) -> float:
    """Return mean negative log-likelihood per predicted token over evenly spaced chunks, in the training's precision.

    Evenly spaced, because held-out files stand one after another: the first 256 chunks of seven domains were all of one
    domain, and the curve said 1.43 bits per byte where the whole set has 1.91.

    Several processes take turns with the batches, and their sums are added in float64. Each makes as many forward
    passes as the others (FSDP's are collective): one without a batch of its own repeats the last and does not count it.

    Compiled layers run eagerly here: evaluation has other guards (no gradients), and a second compile would cost more
    than it saves.
    """
    model, size = trainer.model, trainer.args.per_device_train_batch_size
    starts = range(0, chunks, size)
    processes = distributed.world_size() if distributed.is_initialized() else 1
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.compiler.set_stance("force_eager"), trainer.compute_loss_context_manager():
        for turn in range(math.ceil(len(starts) / processes)):
            number = turn * processes + (distributed.rank() if processes > 1 else 0)
            start = starts[min(number, len(starts) - 1)]
            chosen = [i * len(trainer.valid) // chunks for i in range(start, min(start + size, chunks))]
            batch = collate_for_training(trainer.valid.__getitems__(chosen))
            on_device = {name: tensor.to(trainer.args.device) for name, tensor in batch.items()}
            loss = model(**on_device, num_items_in_batch=1).loss
            if number < len(starts):
                total += float(loss)
                count += int((shift_labels(batch["labels"]) != IGNORE).sum())
    model.train(was_training)
    total, tokens = distributed.all_reduce_sum(total, count)
    return total / max(tokens, 1)
