"""How the replicas of a run are kept together, and what steps them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from trainer.config import Config
from trainer.config.optimization import OptimConfig
from trainer.runtime.ranks import Ranks
from trainer.runtime.spans import Spans
from trainer.sync import AllReduce, ClippedOptimizer, FlatParameters, Level, Overlapped, Strategy, Wire


def build_sync(config: Config, net: nn.Module, target_net: nn.Module, ranks: Ranks, spans: Spans) -> Strategy:
    """Put the networks into flat buffers and return the strategy that steps them."""
    flat, target = FlatParameters(net), FlatParameters(target_net)
    wire = Wire(ranks.rank, ranks.world_size, spans)
    clipped = ClippedOptimizer(flat, build_levels(config, flat))
    kinds: dict[str, Callable[[], Strategy]] = {
        "flat": lambda: AllReduce(flat, target, clipped, wire),
        "ddp": lambda: Overlapped(flat, target, clipped, wire),
    }
    return kinds[config.sync.kind]()


def build_levels(config: Config, flat: FlatParameters) -> list[Level]:
    """Return who steps which stretch of the flat buffer."""
    return [Level("all", 0, flat.data.numel(), functools.partial(make_optimizer, config.optim))]


def make_optimizer(optim: OptimConfig, weights: nn.Parameter) -> torch.optim.Optimizer:
    """Make the optimizer of one stretch of weights."""
    if optim.kind == "adam":
        return torch.optim.Adam([weights], lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
    if optim.kind == "radam":
        return torch.optim.RAdam([weights], lr=optim.lr, betas=optim.betas, eps=optim.eps)
    if optim.kind == "sgd":
        return torch.optim.SGD([weights], lr=optim.lr, fused=True)
    if optim.kind == "adagrad":
        return torch.optim.Adagrad([weights], lr=optim.lr, eps=optim.eps)
    if optim.kind == "adadelta":
        return torch.optim.Adadelta([weights], lr=optim.lr, eps=optim.eps)
    return torch.optim.RMSprop(
        [weights], lr=optim.lr, alpha=optim.rms_decay, eps=optim.eps, momentum=optim.rms_momentum, centered=True
    )
