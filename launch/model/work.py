"""What a run asks of a rank: the work in an update and in a step, and how long it takes on a cluster, alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from launch.model.cluster import Cluster

OTHER = 0.05
"""Log, polls and schedules, relative to the rest: benchmarks/results/step.jsonl has 0.01-0.05 on CartPole to Atari."""
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Counts:
    """Counts taken on the network and the losses themselves; independent of the machine, except for `env`.

    operations: on tensors, each a kernel on a GPU. update: including sampling the batch; step: acting and storing.
    flops: of one sample of a batch, or of one environment's observation.
    """

    shapes: tuple[tuple[int, ...], ...]  # of the parameters
    update_operations: int
    update_flops: float
    step_operations: int
    step_flops: float
    env: float  # of one env step on one core [s]
    parallel: bool  # environments step in threads or processes, while the device learns
    gathers: int = 0  # small collectives in an update besides the exchange

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Bytes of the gradient."""
        return FLOAT * self.parameters

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Counts:
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**known | {"shapes": tuple(tuple(shape) for shape in values["shapes"])})


@dataclass(frozen=True)
class Load:
    """What a config asks for, of all ranks together; weak: of every rank."""

    total_env_steps: int
    num_envs: int
    batch: int  # samples per update
    updates_per_env_step: float
    target_every: float  # env steps
    weak: bool = False

    def on(self, ranks: int) -> RankLoad:
        """Return one rank's part."""
        parts = 1 if self.weak else ranks
        updates = self.updates_per_env_step * self.num_envs
        return RankLoad(self.num_envs / parts, self.batch / parts, updates, self.num_envs * (ranks if self.weak else 1))

    def divides(self, ranks: int) -> bool:
        """Whether `ranks` ranks can share the environments and the batch."""
        return self.weak or (self.num_envs % ranks == 0 and self.batch % ranks == 0)

    def weakly(self) -> Load:
        return replace(self, weak=True)


class RankLoad(NamedTuple):
    """One rank's part of a step, and what all do in it."""

    envs: float
    batch: float
    updates: float  # per step
    env_steps: int  # per step, of all ranks


class Alone(NamedTuple):
    """How long one rank computes for one update, including its share of the steps between updates [s]."""

    act: float
    env: float
    learn: float

    @property
    def total(self) -> float:
        return self.act + self.env + self.learn


def alone(load: Load, counts: Counts, cluster: Cluster, ranks: int) -> Alone:
    """Return the computing time of one of `ranks` ranks, ignoring the others except for the cores they share."""
    mine = load.on(ranks)
    crowd = 1.0 if cluster.host_cores is None else max(1.0, ranks * cluster.cores / cluster.host_cores)
    learn = _device(cluster, counts.update_operations, counts.update_flops * mine.batch) * crowd
    act = _device(cluster, counts.step_operations, counts.step_flops * mine.envs) * crowd / mine.updates
    env = counts.env * cluster.env * mine.envs / mine.updates * crowd
    if counts.parallel:  # in threads, and while the device learns
        env = max(0.0, env / cluster.cores - learn)
    return Alone(act, env, learn)


def _device(cluster: Cluster, operations: int, flops: float) -> float:
    """Return how long the operations take: the host launches them, and where it runs ahead the device overlaps."""
    launching, computing = operations * cluster.launch, flops / cluster.flops
    return max(launching, computing) if cluster.asynchronous else launching + computing


def free_batch(counts: Counts, cluster: Cluster) -> int:
    """Return the batch per rank up to which an update takes no longer, as the host is busy launching; a power of 2."""
    if not cluster.asynchronous or counts.update_flops == 0:
        return 1
    samples = counts.update_operations * cluster.launch * cluster.flops / counts.update_flops
    return 1 << math.floor(math.log2(max(samples, 1)))
