"""All-reduce as the config asks for it: how gradients travel, and what is measured on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainer.config import Config
from trainer.sync import AllReduce, ClippedOptimizer, FlatParameters, Overlapped, Wire
from trainer.sync.compress import Cast, Compression, Hook, Int8, Narrow, PowerSGD, TopK
from trainer.sync.noise import NoiseScale


def build_allreduce(
    config: Config, flat: FlatParameters, target: FlatParameters, clipped: ClippedOptimizer, wire: Wire
) -> AllReduce:
    """Return `--sync.kind flat`."""
    sync, grad = config.sync, flat.grad
    methods: dict[str, Callable[[], Compression | None]] = {
        "none": lambda: None,
        "fp16": lambda: Narrow(grad, wire, Cast("fp16", torch.float16)),
        "bf16": lambda: Narrow(grad, wire, Cast("bf16", torch.bfloat16)),
        "int8": lambda: Narrow(grad, wire, Int8()),
        "topk": lambda: TopK(grad, wire, sync.compress_share),
        "powersgd": lambda: PowerSGD(flat, wire, sync.compress_rank),
    }
    noise = NoiseScale(wire, config.replay.batch_size, grad.device) if sync.noise_scale else None
    return AllReduce(flat, target, clipped, wire, methods[sync.compress](), noise)


def build_ddp(
    config: Config, flat: FlatParameters, target: FlatParameters, clipped: ClippedOptimizer, wire: Wire
) -> Overlapped:
    """Return `--sync.kind ddp`."""
    method = config.sync.compress
    assert method != "topk", "refused before"
    assert method != "int8", "refused before"
    return Overlapped(flat, target, clipped, wire, Hook(method, config.sync.compress_rank, flat))
