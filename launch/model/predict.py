"""Speed, efficiency and cost of a run on a number of ranks: the model put together."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from launch.model import fabric
from launch.model.cluster import Cluster, Protocol
from launch.model.strategies import Setting, Strategy, exchange
from launch.model.work import FLOAT, OTHER, Counts, Load, alone

PARTS = ("act", "env", "learn", "sync", "wait", "other")
COMM_FACTOR = 2.0
"""Published all-reduce times lie within this factor of the model, all but one: benchmarks/simulate/published.py."""


class Prediction(NamedTuple):
    """What to expect; parts: seconds per update."""

    ranks: int
    parts: dict[str, float]
    env_steps_per_update: float
    efficiency: float  # env steps/s per rank, over those of a single rank with the same settings
    sent: float  # bytes that a rank puts on the wire, per update
    total_env_steps: int
    price: float

    @property
    def seconds_per_update(self) -> float:
        return sum(self.parts.values())

    @property
    def env_steps_per_s(self) -> float:
        return self.env_steps_per_update / self.seconds_per_update

    @property
    def hours(self) -> float:
        return self.total_env_steps / self.env_steps_per_s / 3600

    @property
    def rank_hours(self) -> float:
        return self.hours * self.ranks

    @property
    def cost(self) -> float:
        return self.rank_hours * self.price

    def share(self, part: str) -> float:
        return self.parts[part] / self.seconds_per_update


class Range(NamedTuple):
    """A prediction, and the same if everything is as fast, or as slow, as the assumptions allow."""

    expected: Prediction
    fast: Prediction
    slow: Prediction


def predict(load: Load, counts: Counts, cluster: Cluster, ranks: int, strategy: Strategy) -> Prediction:
    """Predict a run on `ranks` ranks."""
    parts, sent = _parts(load, counts, cluster, ranks, strategy)
    single, _ = _parts(load, counts, cluster, 1, strategy)
    on, base = load.on(ranks), load.on(1)
    env_steps = on.env_steps / on.updates
    rate, base_rate = env_steps / sum(parts.values()), base.env_steps / base.updates / sum(single.values())
    efficiency = rate / (ranks * base_rate)
    return Prediction(ranks, parts, env_steps, efficiency, sent, load.total_env_steps, cluster.price)


def _parts(
    load: Load, counts: Counts, cluster: Cluster, ranks: int, strategy: Strategy
) -> tuple[dict[str, float], float]:
    """Return the seconds per update of each part, and the bytes that a rank sends."""
    computing = alone(load, counts, cluster, ranks)
    cost = exchange(strategy, Setting(cluster, ranks, counts, computing))
    sync, sent = cost.seconds + cost.operations * cluster.launch, cost.sent
    if ranks > 1:
        on = load.on(ranks)
        refreshes = on.env_steps / on.updates / max(load.target_every, on.env_steps)
        sync += refreshes * (cluster.call + fabric.broadcast(cluster, ranks, counts.size))
        sync += counts.gathers * (cluster.call + fabric.half(cluster, ranks, 3 * FLOAT * ranks))
        sent += refreshes * counts.size * (ranks - 1) / ranks
    wait, other = cost.wait * computing.total, OTHER * computing.total
    parts = (computing.act, computing.env, computing.learn, sync, wait, other)
    return dict(zip(PARTS, parts, strict=True)), sent


def predict_range(load: Load, counts: Counts, cluster: Cluster, ranks: int, strategy: Strategy) -> Range:
    """Predict, and how far off it may be."""
    clusters = (
        cluster,
        faster(cluster, cluster.factor, COMM_FACTOR),
        faster(cluster, 1 / cluster.factor, 1 / COMM_FACTOR),
    )
    return Range(*(predict(load, counts, each, ranks, strategy) for each in clusters))


def faster(cluster: Cluster, compute: float, comm: float) -> Cluster:
    """Return the cluster with computing and communication faster by these factors."""
    protocols = tuple(
        Protocol(p.start / comm, p.intra / comm, p.inter / comm, p.share, p.trees) for p in cluster.protocols
    )
    return replace(
        cluster,
        intra=cluster.intra * comm,
        inter=cluster.inter * comm,
        protocols=protocols,
        call=cluster.call / comm,
        launch=cluster.launch / compute,
        flops=cluster.flops * compute,
        env=cluster.env / compute,
    )
