"""Pieces of a step, timed one by one, where a choice was made by measuring: the head's blocks, Muon, the batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch

from tests.gpu.rows import Report, Spec
from tests.gpu.runs import configuration


def milliseconds(function: Callable[[], object], spec: Spec, times: int = 20) -> float:
    """Median milliseconds of a call, waited for, after three that are not timed."""
    found = []
    for number in range(3 + (2 if spec.quick else times)):
        if spec.cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if spec.cuda:
            torch.cuda.synchronize()
        if number >= 3:
            found.append(1e3 * (time.perf_counter() - started))
    return statistics.median(found)


def head_blocks(spec: Spec) -> Report:
    """Head and loss, forward and backward, by rows of a block."""
    from babyllama.models import fused_loss

    rows, vocabulary = (256, 400) if spec.quick else (16_384, 16_000)
    report = Report()
    for width in (32,) if spec.quick else (192, 768):
        hidden = torch.randn(rows, width, device=spec.device, requires_grad=True)
        weight = torch.randn(vocabulary, width, device=spec.device, requires_grad=True)
        labels = torch.randint(vocabulary, (rows,), device=spec.device)
        for block in (64, 256) if spec.quick else (1024, 4096, 16_384):
            with patch.object(fused_loss, "block_rows", lambda *_, block=block: block):

                def once(given: tuple[torch.Tensor, ...] = (hidden, weight, labels)) -> None:
                    with torch.autocast(spec.device.split(":")[0], torch.bfloat16):
                        loss = fused_loss.fused_linear_cross_entropy(*given, compiled=not spec.quick)
                    loss.backward()

                report.figures[f"ms, width {width}, blocks of {block:,}"] = milliseconds(once, spec)
            torch.compiler.reset()
            fused_loss.FusedBlock._compiled = None
    return report


def muon_updates(spec: Spec) -> Report:
    """Muon's step on the matrices of llama-10M and llama-97M: as it is, and its iterations compiled."""
    from babyllama.training import optim

    report = Report()
    shapes = {"quick": ((32, 96, 2),)} if spec.quick else {"10M": ((192, 768, 6),), "97M": ((768, 2048, 12),)}
    for name, ((width, inner, layers),) in shapes.items():
        parameters = [
            torch.nn.Parameter(torch.randn(*size, device=spec.device))
            for _ in range(layers)
            for size in [(width, width)] * 4 + [(inner, width)] * 2 + [(width, inner)]
        ]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        muon = optim.BatchedMuon(parameters, lr=1e-3, momentum=0.95, nesterov=True, ns_steps=optim.NEWTON_SCHULZ_STEPS)
        report.figures[f"ms, {name}"] = milliseconds(muon.step, spec)
        if not spec.quick:
            with patch.object(optim, "orthogonalize", torch.compile(optim.orthogonalize, dynamic=False)):
                report.figures[f"ms, {name}, iterations compiled"] = milliseconds(muon.step, spec)
    return report


def batches(spec: Spec) -> Report:
    """A batch from our loader's gathering, copied to the device, beside a gather from tokens that lie there."""
    from babyllama.data.packing import packed_datasets
    from babyllama.training.trainer import collate_for_training
    from train import prepare_data

    config = configuration(spec)
    data = prepare_data(config)
    chunks, _ = packed_datasets(config, data)
    length = config.data.seq_length
    tokens = torch.randint(100, (length * len(chunks) + 1,), device=spec.device, dtype=torch.int32)
    columns = torch.arange(length, device=spec.device)
    report = Report()
    for rows in (4,) if spec.quick else (32, 128):
        places = [number % len(chunks) for number in range(rows)]

        def gathered(places: list[int] = places) -> None:
            batch = collate_for_training(chunks.__getitems__(places))
            for tensor in batch.values():
                (tensor.pin_memory() if spec.cuda else tensor).to(spec.device, non_blocking=True)

        def on_device(places: list[int] = places) -> None:
            starts = torch.tensor(places).to(spec.device, non_blocking=True) * length
            ids = tokens[starts.unsqueeze(1) + columns].long()
            labels = ids.clone()
            labels[:, 0] = -100

        report.figures[f"ms, {rows} x {length}, from memory"] = milliseconds(gathered, spec)
        report.figures[f"ms, {rows} x {length}, on the device"] = milliseconds(on_device, spec)
    return report
