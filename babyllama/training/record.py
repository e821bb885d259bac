"""training_metrics.json: the facts of a finished training, written once, read by the report, the model card and the
comparison of runs.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from babyllama.common.provenance import versions
from babyllama.config.schema import Config
from babyllama.models.shared_layers import copied_parameters, saved_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from babyllama.data.prepared import PreparedData
    from babyllama.training.trainer import BabyTrainer


def peak_memory_bytes(device: str) -> int:
    """Return peak of the GPU's allocated memory, or on CPU of the process's resident memory."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return _peak_working_set()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_working_set() -> int:
    """Windows' figure for resident memory: PROCESS_MEMORY_COUNTERS of psapi.h, two DWORDs and eight SIZE_Ts."""
    import ctypes

    others = [(f"other{number}", ctypes.c_size_t) for number in range(7)]

    class Counters(ctypes.Structure):
        _fields_ = (("cb", ctypes.c_uint32), ("faults", ctypes.c_uint32), ("peak", ctypes.c_size_t), *others)

    counters, kernel = Counters(), ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    found = kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), ctypes.sizeof(counters))
    return int(counters.peak) if found else 0


def training_metrics(
    config: Config, data: PreparedData, trainer: BabyTrainer, scored: dict[str, Any], command: str
) -> dict[str, Any]:
    """Assemble the record.

    Args:
        config: The run's configuration.
        data: PreparedData.
        trainer: After training.
        scored: `babyllama.evaluation.perplexity.summarize` over the held-out documents.
        command: The command line.
    """
    from babyllama.training.word_ledger import LEDGER, word_ledger

    source_bits = None
    if data.source_nats is not None:
        source_bits = data.source_nats / math.log(2) / scored["total_bytes"]
    copies = copied_parameters(trainer.model)
    parameters = saved_parameters(trainer.model)
    step = trainer.clock.median_step()
    epoch = trainer.state.epoch or 0.0
    mixture = _mixture(trainer)
    passes = max((row["passes"] for row in mixture.get("mix", {}).values()), default=None)
    return {
        # The score and what it cost.
        "schema_version": 1,
        "name": config.model.name,
        **held_out_figures(scored),
        "source_bits_per_byte": source_bits,
        "train_loss": final_train_loss(trainer.state.log_history),
        "train_tokens": round(epoch * trainer.epoch_tokens),
        "train_words": round(epoch * trainer.epoch_words),
        "train_seconds": round(trainer.clock.training_seconds(), 2),
        "page_seconds": page_seconds(trainer),
        "tokens_per_second": round(trainer.tokens_per_step / step, 1) if step else _logged_speed(trainer),
        "peak_memory_bytes": trainer.peak_bytes or peak_memory_bytes(trainer.runtime.device),
        # The model and the run's length.
        "num_parameters": parameters,
        **({"num_parameters_copied": copies} if copies else {}),
        "num_parameters_without_embeddings": parameters - embedding_parameters(trainer.model),
        "global_step": trainer.state.global_step,
        "total_steps": trainer.total_steps,
        "num_epochs": epoch,
        "best_step": trainer.best.best_step,
        "best_valid_loss": trainer.best.best_loss,
        "kept": config.training.keep,
        "early_end": early_end(trainer),
        "seed": config.training.seed,
        "versions": versions(),
        "held_out_in_training": data.held_out_in_training,
        # What text it saw, how it was computed, by which command.
        "data_fingerprint": data.fingerprint,
        "split_fingerprint": data.split_fingerprint,
        "document_rules": data.rules,
        **mixture,
        LEDGER: word_ledger(config, data, epoch, round(epoch * trainer.epoch_words), passes),
        "runtime": trainer.runtime.to_dict(),
        "command": command,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": True,
    }


def _mixture(trainer: BabyTrainer) -> dict[str, Any]:
    """What a mixture of domains has shown of each; nothing where the text was not mixed."""
    shown = getattr(trainer.train_dataset, "shown", None)
    chunks = trainer.state.global_step * trainer.training_config.batch_size
    return {} if shown is None else {"mix": shown(chunks)}


def early_end(trainer: BabyTrainer) -> dict[str, Any] | None:
    """Return where and why `training.patience` ended the run or began its decay; None where it did not."""
    end = trainer.patience.end if trainer.patience else None
    return {**asdict(end), "reason": end.sentence()} if end else None


def page_seconds(trainer: BabyTrainer) -> float:
    """Return what the page of the running training and the samples in it took in this process."""
    from babyllama.training.live.page import LivePage

    pages = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, LivePage)]
    return round(sum(page.seconds for page in pages), 3)


def _logged_speed(trainer: BabyTrainer) -> float | None:
    """Median of the log's speeds: where no step was timed in this process, since the training had ended before it."""
    logged = [entry["tokens_per_second"] for entry in trainer.state.log_history if "tokens_per_second" in entry]
    return statistics.median(logged) if logged else None


def held_out_figures(scored: dict[str, Any]) -> dict[str, Any]:
    """Return the held-out score under the names of training_metrics.json."""
    return {
        "eval_loss": scored["average_loss"],
        "eval_perplexity": scored["perplexity"],
        "eval_bits_per_byte": scored["bits_per_byte"],
        "eval_bits_per_byte_ci": scored.get("bits_per_byte_ci"),
        "eval_documents": scored["num_documents"],
        "eval_tokens": scored["total_tokens"],
        "eval_bytes": scored["total_bytes"],
        "eval_domains": scored["domains"],
        "held_out_fingerprint": scored.get("held_out_fingerprint"),
    }


def embedding_parameters(model: PreTrainedModel) -> int:
    """Return parameters of the input embeddings and of an untied head."""
    tables = {id(model.get_input_embeddings().weight): model.get_input_embeddings().weight.numel()}
    head = model.get_output_embeddings()
    if head is not None:
        tables[id(head.weight)] = head.weight.numel()
    return sum(tables.values())


def final_train_loss(log_history: list[dict[str, Any]]) -> float | None:
    """Return mean training loss per step over the whole run, resumed parts included.

    Each log entry holds the mean since the entry before it, so entries are weighted by the steps they cover.

    >>> final_train_loss([{"step": 10, "loss": 4.0}, {"step": 30, "loss": 1.0}])
    2.0
    """
    entries = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    if not entries:
        return None
    weighted, before = 0.0, 0
    for step, loss in entries:
        weighted += (step - before) * loss
        before = step
    return weighted / before
