"""For tests of sync strategies: a learner as `build` assembles it, on this rank's slice of known batches."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from trainer.build import build_sync
from trainer.build.stages import build_share, meet_stages
from trainer.config import Config, NetConfig, OptimConfig, RuntimeConfig, SyncConfig
from trainer.envs import EnvSpec
from trainer.learner import Learner
from trainer.losses import dqn
from trainer.runtime.ranks import Ranks
from trainer.runtime.spans import Spans
from trainer.sync import Strategy
from trainer.types import Batch, Rates

CPU = torch.device("cpu")
BATCH = 32
SGD = OptimConfig(kind="sgd", lr=1e-2)
ADAM = OptimConfig(lr=1e-3, eps=1e-4)
RMSPROP = OptimConfig(kind="rmsprop", lr=1e-3, eps=0.01)


class World:
    """One rank's learner, in float64; every rank starts from its own net, so that rank 0's must win."""

    def __init__(
        self, ranks: Ranks, sync: SyncConfig, optim: OptimConfig = ADAM, hidden: tuple[int, ...] = (9, 5)
    ) -> None:
        self.ranks, self.optim = ranks, optim
        self.config = Config(
            seed=ranks.rank // sync.stages,
            optim=optim,
            sync=sync,
            net=NetConfig(hidden=hidden),
            runtime=RuntimeConfig(dtype="float64"),
        )
        spec = EnvSpec("toy", (6,), torch.float32, 3, 1, "repeat", True)
        spans = Spans()
        meeting = meet_stages(self.config, ranks, spans)
        self.net = build_share(self.config, spec, CPU, meeting)
        self.target_net = build_share(self.config, spec, CPU, meeting).requires_grad_(False)
        self.sync: Strategy = build_sync(self.config, self.net, self.target_net, ranks, spans, meeting)
        loss = functools.partial(dqn, double=True, kind="huber")
        called = self.sync.prepare(self.net)
        self.learner = Learner(called, self.target_net, loss, self.sync, max_grad_norm=optim.max_grad_norm)

    def update(self, number: int, refresh_every: int = 7) -> None:
        """Learn from this rank's slice of batch `number`; refresh the target as a run would."""
        batch = mine(joined(number), self.ranks, self.config.sync.stages)
        self.learner.update(batch, Rates(lr=self.optim.lr))
        if number % refresh_every == refresh_every - 1:
            self.sync.refresh(0.5)

    def run(self, updates: int, first: int = 0) -> World:
        for number in range(first, first + updates):
            self.update(number)
        return self

    @property
    def weights(self) -> Tensor:
        return self.sync.flat.data.detach().clone()

    @property
    def everyones(self) -> Tensor:
        """The weights of all ranks, [ranks, P]. A collective."""
        return torch.stack(self.ranks.gather(self.weights))


def joined(number: int) -> Batch:
    """The batch of all ranks together, the same on every rank."""
    g = torch.Generator().manual_seed(number)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    action = torch.randint(0, 3, (BATCH,), generator=g)
    return Batch(normal(BATCH, 6), action, normal(BATCH), normal(BATCH).abs(), normal(BATCH, 6), torch.arange(BATCH))


def mine(batch: Batch, ranks: Ranks, stages: int = 1) -> Batch:
    """This rank's slice of a joined batch, or its replica's of `stages` neighbours."""
    each, place = BATCH * stages // ranks.world_size, ranks.rank // stages
    return batch.map(lambda field: field[place * each : (place + 1) * each])


def clipped(optim: OptimConfig, norm: float = 0.2) -> OptimConfig:
    return replace(optim, max_grad_norm=norm)
