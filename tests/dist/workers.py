"""One process that plays p workers by hand: the oracle for strategies whose replicas differ.

Nothing of trainer/sync is used: plain networks, torch's optimizers, and means written as sums.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from strategy_world import BATCH, CPU, joined
from torch import Tensor, nn

from trainer.build import build_net
from trainer.config import Config, NetConfig, OptimConfig, RuntimeConfig
from trainer.envs import EnvSpec
from trainer.losses import dqn
from trainer.types import Rates


class Workers:
    """p networks that begin equal, each with its own optimizer; one target network."""

    def __init__(self, count: int, optim: OptimConfig) -> None:
        config = Config(optim=optim, net=NetConfig(hidden=(9, 5)), runtime=RuntimeConfig(dtype="float64"))
        spec = EnvSpec("toy", (6,), torch.float32, 3, 1, "repeat", True)
        self.nets = [build_net(replace(config, seed=0), spec, CPU) for _ in range(count)]
        self.target = build_net(replace(config, seed=0), spec, CPU).requires_grad_(False)
        make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optim.kind]
        options = {} if optim.kind == "sgd" else {"eps": optim.eps, "betas": optim.betas}
        self.optimizers = [make(net.parameters(), lr=optim.lr, **options) for net in self.nets]
        self.clip = optim.max_grad_norm

    @property
    def weights(self) -> Tensor:
        """[p, P]"""
        return torch.stack([flat(net) for net in self.nets])

    def put(self, weights: Tensor) -> None:
        for net, row in zip(self.nets, weights, strict=True):
            nn.utils.vector_to_parameters(row.clone(), net.parameters())

    def update(self, number: int, among: int) -> None:
        """Step every worker by the mean gradient of its group of `among` neighbours."""
        batch, each = joined(number), BATCH // len(self.nets)
        gradients = []
        for worker, net in enumerate(self.nets):
            net.zero_grad()
            mine = batch.map(lambda field, k=worker: field[k * each : (k + 1) * each])
            dqn(net, self.target, mine, Rates(), double=True, kind="huber").loss.mean().backward()
            gradients.append([p.grad.clone() for p in net.parameters()])
        for worker, (net, optimizer) in enumerate(zip(self.nets, self.optimizers, strict=True)):
            first = worker // among * among
            for i, parameter in enumerate(net.parameters()):
                parameter.grad = sum(gradients[k][i] for k in range(first, first + among)) / among
            norm = torch.sqrt(sum((p.grad**2).sum() for p in net.parameters()))
            for parameter in net.parameters():
                parameter.grad *= min(1.0, self.clip / (norm + 1e-6))
            optimizer.step()

    def refresh(self, number: int, consensus: Tensor) -> None:
        """Move the target as `strategy_world.World.update` does."""
        if number % 7 == 6:
            nn.utils.vector_to_parameters(flat(self.target).lerp(consensus, 0.5), self.target.parameters())


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])
