"""Cost per update of each way to keep replicas together: seconds in which nothing computes, bytes, and waiting."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from launch.model import fabric
from launch.model.cluster import Cluster
from launch.model.stragglers import SEED, slowest
from launch.model.work import FLOAT, Alone, Counts

BUCKET, FIRST_BUCKET = 25 * 2**20, 2**20
"""Bytes of DistributedDataParallel's buckets."""
BACKWARD = 0.5
"""Share of an update that is the backward pass."""
OPERATIONS = {"none": 0, "fp16": 10, "bf16": 10, "int8": 40, "topk": 10, "powersgd": 4}
"""Tensor operations that a compression adds to an update, besides one for each rank (topk) or those below."""
POWERSGD_EACH = 10
"""For each matrix."""


@dataclass(frozen=True)
class Strategy:
    """The fields of the trainer's sync section that cost or save time."""

    kind: str = "flat"
    period: int = 16
    hierarchical: bool = False
    servers: int = 1
    asynchronous: bool = False
    compress: str = "none"
    compress_rank: int = 4
    compress_share: float = 0.01

    @classmethod
    def read(cls, sync: Mapping[str, Any]) -> Strategy:
        return cls(**{name: sync[name] for name in cls.__dataclass_fields__})

    @property
    def name(self) -> str:
        """Short name, in the words of the flags."""
        more = {
            "local_sgd": f" {self.period}" + (" hierarchical" if self.hierarchical else ""),
            "server": " asynchronous" if self.asynchronous else "",
        }.get(self.kind, "")
        return self.kind + more + ("" if self.compress == "none" else f" {self.compress}")

    @property
    def flags(self) -> str:
        """The command line that selects it."""
        said = {"kind": self.kind}
        if self.kind == "local_sgd":
            said |= {"period": str(self.period)} | ({"hierarchical": "True"} if self.hierarchical else {})
        if self.kind == "server" and self.asynchronous:
            said |= {"asynchronous": "True"}
        if self.compress != "none":
            said |= {"compress": self.compress}
        return " ".join(f"--sync.{name} {value}" for name, value in said.items())


class Exchange(NamedTuple):
    """Per update. seconds: not hidden by computing; wait: for slower ranks, over the computing time."""

    seconds: float
    sent: float  # bytes that a rank puts on the wire
    wait: float
    operations: float = 0.0  # that the host launches in addition


class Setting(NamedTuple):
    """Where a strategy is put to work."""

    cluster: Cluster
    ranks: int
    counts: Counts
    alone: Alone


def exchange(strategy: Strategy, setting: Setting) -> Exchange:
    """Return the cost of keeping replicas together for one update; nothing on a single rank."""
    if setting.ranks == 1:
        return Exchange(0.0, 0.0, 0.0)
    return KINDS[strategy.kind](strategy, setting)


def _flat(strategy: Strategy, setting: Setting) -> Exchange:
    seconds, sent, operations = _reduced(strategy, setting)
    return Exchange(seconds, sent, _everyone(setting), operations)


def _ddp(strategy: Strategy, setting: Setting) -> Exchange:
    """Buckets travel while the backward pass goes on; the last has nothing to hide behind. Hooks cost the host."""
    hooks = 2 * len(setting.counts.shapes)
    if strategy.compress != "none":
        seconds, sent, operations = _reduced(strategy, setting)
        return Exchange(seconds, sent, _everyone(setting), operations + hooks)
    cluster, ranks, size = setting.cluster, setting.ranks, setting.counts.size
    later = max(0, size - FIRST_BUCKET)
    buckets = [min(size, FIRST_BUCKET), *[BUCKET] * (later // BUCKET), later % BUCKET]
    took = [cluster.call + fabric.all_reduce(cluster, ranks, bucket) for bucket in buckets if bucket]
    hidden = BACKWARD * setting.alone.learn * (len(took) - 1) / len(took)
    return Exchange(max(took[-1], sum(took) - hidden), _ring(2 * size, ranks), _everyone(setting), hooks)


def _zero1(strategy: Strategy, setting: Setting) -> Exchange:
    cluster, ranks, size = setting.cluster, setting.ranks, setting.counts.size
    norm = cluster.call + fabric.all_reduce(cluster, ranks, FLOAT)
    seconds = 2 * (cluster.call + fabric.half(cluster, ranks, size)) + norm
    return Exchange(seconds, _ring(2 * size, ranks), _everyone(setting))


def _overlap(strategy: Strategy, setting: Setting) -> Exchange:
    """A whole update of computing hides the exchange, except for the call."""
    seconds, sent, operations = _reduced(strategy, setting)
    call = setting.cluster.call
    return Exchange(call + max(0.0, seconds - call - setting.alone.total), sent, _everyone(setting), operations + 1)


def _local_sgd(strategy: Strategy, setting: Setting) -> Exchange:
    cluster, ranks, size = setting.cluster, setting.ranks, setting.counts.size
    seconds = (cluster.call + fabric.all_reduce(cluster, ranks, size)) / strategy.period
    sent = _ring(2 * size, ranks) / strategy.period
    wait = slowest(ranks, cluster.spread, strategy.period) - 1
    per_node, nodes = fabric.shape(cluster, ranks)
    if not strategy.hierarchical or per_node == 1 or nodes == 1:
        return Exchange(seconds, sent, wait)
    within = cluster.call + fabric.all_reduce(cluster, per_node, size)
    wait = max(wait, slowest(per_node, cluster.spread) - 1)
    return Exchange(seconds + within, sent + _ring(2 * size, per_node), wait)


def _gossip(strategy: Strategy, setting: Setting) -> Exchange:
    cluster, ranks, size = setting.cluster, setting.ranks, setting.counts.size
    seconds = cluster.call + fabric.p2p(cluster, ranks, size + FLOAT)
    return Exchange(seconds, size + FLOAT, neighbours(min(ranks, 64), cluster.spread) - 1, operations=8)


def _server(strategy: Strategy, setting: Setting) -> Exchange:
    """Every rank sends its gradient and fetches weights; all traffic shares the links of the servers."""
    cluster, ranks, size = setting.cluster, setting.ranks, setting.counts.size
    there_and_back = 2 * (cluster.call + fabric.p2p(cluster, ranks, size))
    across = fabric.shape(cluster, ranks)[1] > 1
    busy = 2 * (ranks - 1) * size / strategy.servers / (cluster.inter if across else cluster.intra)
    if strategy.asynchronous:
        return Exchange(max(there_and_back, busy - setting.alone.total), 2 * size, 0.0)
    return Exchange(there_and_back + busy, 2 * size, _everyone(setting))


KINDS: dict[str, Callable[[Strategy, Setting], Exchange]] = {
    "flat": _flat,
    "ddp": _ddp,
    "zero1": _zero1,
    "overlap": _overlap,
    "local_sgd": _local_sgd,
    "gossip": _gossip,
    "server": _server,
}


def _reduced(strategy: Strategy, setting: Setting) -> tuple[float, float, float]:
    """Return seconds, bytes sent by a rank, and operations of averaging the gradient in one go."""
    cluster, ranks, counts = setting.cluster, setting.ranks, setting.counts
    operations = float(OPERATIONS[strategy.compress])
    if strategy.compress == "none":
        return cluster.call + fabric.all_reduce(cluster, ranks, counts.size), _ring(2 * counts.size, ranks), operations
    if strategy.compress == "topk":
        chosen = FLOAT * max(1, round(strategy.compress_share * counts.parameters))
        seconds = 2 * (cluster.call + fabric.half(cluster, ranks, ranks * chosen))
        return seconds, 2 * (ranks - 1) * chosen, operations + ranks
    if strategy.compress == "powersgd":
        first, second, matrices = factors(counts, strategy.compress_rank)
        seconds = sum(cluster.call + fabric.all_reduce(cluster, ranks, part) for part in (first, second))
        return seconds, _ring(2 * (first + second), ranks), operations + POWERSGD_EACH * matrices
    narrow = counts.size * {"fp16": 2, "bf16": 2, "int8": 1 + 4 / 256}[strategy.compress] / FLOAT
    return 2 * (cluster.call + fabric.half(cluster, ranks, narrow)), _ring(2 * narrow, ranks), operations


def factors(counts: Counts, rank: int) -> tuple[float, float, int]:
    """Return the bytes of PowerSGD's two messages, and how many matrices have factors (Vogels et al. 2019)."""
    first = second = matrices = 0
    for shape in counts.shapes:
        elements = math.prod(shape)
        short, long = sorted((shape[0] if shape else 1, elements // (shape[0] if shape else 1)))
        r = min(rank, short)
        if len(shape) > 1 and r * (short + long) < elements:
            first, second, matrices = first + r * short, second + r * long, matrices + 1
        else:
            first += elements
    return FLOAT * first, FLOAT * second, matrices


def _ring(size: float, ranks: int) -> float:
    """Bytes that each rank sends in a ring through which `size` bytes go."""
    return size * (ranks - 1) / ranks


def _everyone(setting: Setting) -> float:
    return slowest(setting.ranks, setting.cluster.spread) - 1


@functools.cache
def neighbours(ranks: int, spread: float, updates: int = 400) -> float:
    """Return the pace if every rank waits for one neighbour per update, in mean update times; by simulation.

    The neighbour is at distance 1, 2, 4, ... in turn; delays propagate, so the pace is above the expected maximum of
    two, and below that of all.
    """
    if spread == 0:
        return 1.0
    generator, shape = random.Random(SEED), 1 / spread**2
    distances = [2**k for k in range((ranks - 1).bit_length())]
    clock = [0.0] * ranks
    for update in range(updates):
        distance = distances[update % len(distances)]
        clock = [max(clock[i], clock[i - distance]) + generator.gammavariate(shape, 1 / shape) for i in range(ranks)]
    return sum(clock) / ranks / updates
