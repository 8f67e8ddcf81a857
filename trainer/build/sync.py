"""How the replicas of a run stay in sync, and what steps them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from trainer.build.allreduce import build_allreduce, build_ddp
from trainer.config import Config
from trainer.config.levels import LevelConfig, level_of, parse_levels
from trainer.config.optimization import OptimConfig
from trainer.nets import StageNetwork
from trainer.runtime.ranks import NAMING, Ranks
from trainer.runtime.spans import Spans
from trainer.sync import ClippedOptimizer, FlatParameters, Level, Meeting, Staged, Strategy, Wire
from trainer.sync.fused import FusedOptimizer
from trainer.sync.gossip import Gossip, exponential, ring
from trainer.sync.lean import lean
from trainer.sync.local_sgd import LocalSGD, Outer, node_wire
from trainer.sync.overlap import Delayed
from trainer.sync.server import AsyncServer, SyncServer
from trainer.sync.shared import SharedMemory, share
from trainer.sync.zero1 import ShardedOptimizer
from trainer.types import Compiler


def build_sync(
    config: Config,
    net: nn.Module,
    target_net: nn.Module,
    ranks: Ranks,
    spans: Spans,
    meeting: Meeting | None = None,
    compiler: Compiler | None = None,
) -> Strategy:
    """Put the networks into flat buffers and return the strategy that steps them.

    meeting: the groups of this rank if its networks are stages of larger ones; compiler: of the steps, if they are to
    be compiled and the strategy steps the whole buffer at once.
    """
    order = functools.partial(level_of, parse_levels(config.optim.levels))
    parts = {"zero1": ranks.world_size, "server": config.sync.servers}
    flat = FlatParameters(net, order, parts=parts.get(config.sync.kind, 1))
    target = FlatParameters(target_net, order)
    wire = Wire(ranks.rank, ranks.world_size, spans, shared=_shared(config, flat, ranks, meeting))
    levels = build_levels(config, flat)
    clipped = ClippedOptimizer(flat, levels)
    if compiler is not None and config.sync.kind in ("flat", "local_sgd", "gossip") and flat.data.device.type == "cpu":
        clipped = FusedOptimizer(flat, levels, max_norm=config.optim.max_grad_norm)
    if meeting is not None:
        assert isinstance(net, StageNetwork)
        return Staged(flat, target, clipped, meeting, net.begin)
    kinds: dict[str, Callable[[], Strategy]] = {
        "flat": lambda: build_allreduce(config, flat, target, clipped, wire),
        "ddp": lambda: build_ddp(config, flat, target, clipped, wire),
        "zero1": lambda: ShardedOptimizer(flat, target, ClippedOptimizer(flat, levels, flat.part(wire.rank)), wire),
        "overlap": lambda: Delayed(flat, target, levels, wire),
        "local_sgd": lambda: _local_sgd(config, flat, target, clipped, wire, ranks),
        "gossip": lambda: Gossip(flat, target, clipped, wire, _distances(config, ranks)),
        "server": lambda: _server(config, flat, target, levels, wire),
    }
    strategy = kinds[config.sync.kind]()
    if compiler is not None and isinstance(clipped, FusedOptimizer) and not strategy.alone:
        clipped.compile(compiler)
    return strategy


def _shared(config: Config, flat: FlatParameters, ranks: Ranks, meeting: Meeting | None) -> SharedMemory | None:
    """Return memory for exchanges of all ranks if they are on CPUs of one machine, else None. A collective."""
    together = 1 < ranks.world_size == ranks.local_world_size and ranks.device.type == "cpu" and meeting is None
    if not (together and config.sync.shared_memory):
        return None
    return share(flat.whole.nbytes, config.runtime.timeout + NAMING)


def _local_sgd(
    config: Config, flat: FlatParameters, target: FlatParameters, clipped: ClippedOptimizer, wire: Wire, ranks: Ranks
) -> LocalSGD:
    sync = config.sync
    plain = (sync.outer_lr, sync.outer_momentum) == (1, 0)  # such a step gives the mean itself, up to rounding
    return LocalSGD(
        flat,
        target,
        clipped,
        wire,
        period=sync.period,
        local_after=sync.local_after,
        outer=None if plain else Outer(flat.data.detach(), sync.outer_lr, sync.outer_momentum),
        node=node_wire(wire, ranks.local_world_size, config.runtime.timeout) if sync.hierarchical else None,
    )


def _distances(config: Config, ranks: Ranks) -> Sequence[int]:
    """Return how far ahead each rank's partners in gossip are, in turn."""
    return ring() if config.sync.topology == "ring" else exponential(ranks.world_size)


def _server(
    config: Config, flat: FlatParameters, target: FlatParameters, levels: Sequence[Level], wire: Wire
) -> Strategy:
    if config.sync.asynchronous:
        bound, timeout = config.sync.staleness, config.runtime.timeout
        return AsyncServer(flat, target, levels, wire, staleness=bound, timeout=timeout)
    return SyncServer(flat, target, ClippedOptimizer(flat, levels, flat.part(wire.rank)), wire)


def build_levels(config: Config, flat: FlatParameters) -> list[Level]:
    """Return the optimizers' stretches of the flat buffer: the levels that the user states, then the rest."""
    stated = parse_levels(config.optim.levels)
    rest = LevelConfig("rest" if stated else "all", config.optim.kind)
    bounds: dict[int, tuple[int, int]] = {}
    for name, begin, end in flat.names:  # parameters of a level are adjacent
        i = level_of(stated, name)
        bounds[i] = (bounds.get(i, (begin, end))[0], end)
    return [
        Level(
            level.prefix,
            *bounds[i],
            functools.partial(make_optimizer, replace(config.optim, kind=level.kind)),
            level.lr,
            level.every,
        )
        for i, level in enumerate([*stated, rest])
        if i in bounds
    ]


def make_optimizer(optim: OptimConfig, weights: nn.Parameter) -> torch.optim.Optimizer:
    """Make the optimizer of one stretch of weights."""
    if optim.kind == "adam":
        return lean(torch.optim.Adam)([weights], lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
    if optim.kind == "radam":
        return lean(torch.optim.RAdam)([weights], lr=optim.lr, betas=optim.betas, eps=optim.eps)
    if optim.kind == "sgd":
        return lean(torch.optim.SGD)([weights], lr=optim.lr, fused=True)
    if optim.kind == "adagrad":
        return lean(torch.optim.Adagrad)([weights], lr=optim.lr, eps=optim.eps)
    if optim.kind == "adadelta":
        return lean(torch.optim.Adadelta)([weights], lr=optim.lr, eps=optim.eps)
    return lean(torch.optim.RMSprop)(
        [weights], lr=optim.lr, alpha=optim.rms_decay, eps=optim.eps, momentum=optim.rms_momentum, centered=True
    )
