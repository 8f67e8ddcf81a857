"""Run under torchrun by test_allreduce: updates on this rank's slice of known batches; rank 0 stores the outcome."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

from trainer.build import build_net, build_optimizer
from trainer.config import Config, NetConfig, OptimConfig, RuntimeConfig
from trainer.envs import EnvSpec
from trainer.learner import Learner
from trainer.losses import dqn
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.runtime.spans import Spans
from trainer.sync import AllReduce, FlatParameters
from trainer.types import Batch, Rates

CPU = torch.device("cpu")
BATCH, UPDATES = 32, 20
OPTIMS = {
    "adam": OptimConfig(lr=1e-3, eps=1e-4),
    "clipped": OptimConfig(lr=1e-3, eps=1e-4, max_grad_norm=0.2),
    "rmsprop": OptimConfig(kind="rmsprop", lr=1e-3, eps=0.01),
}


def joined(update: int) -> Batch:
    g = torch.Generator().manual_seed(update)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    action = torch.randint(0, 3, (BATCH,), generator=g)
    return Batch(normal(BATCH, 6), action, normal(BATCH), normal(BATCH).abs(), normal(BATCH, 6), torch.arange(BATCH))


def learn(kind: str, optim: OptimConfig, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Every rank starts from a net of its own: rank 0's must win."""
    config = Config(seed=ranks.rank, optim=optim, net=NetConfig(hidden=(9, 5)), runtime=RuntimeConfig(dtype="float64"))
    spec = EnvSpec("toy", (6,), torch.float32, 3, 1, "repeat", True)
    net, target = build_net(config, spec, CPU), build_net(config, spec, CPU).requires_grad_(False)
    flat, flat_target = FlatParameters(net), FlatParameters(target)
    sync = AllReduce(flat, flat_target, build_optimizer(config, flat), ranks, Spans(), overlap=kind == "ddp")
    loss = functools.partial(dqn, double=True, kind="huber")
    learner = Learner(sync.prepare(net), target, loss, sync, max_grad_norm=optim.max_grad_norm)
    each = BATCH // ranks.world_size
    mine = slice(ranks.rank * each, (ranks.rank + 1) * each)
    for update in range(UPDATES):
        learner.update(joined(update).map(lambda field: field[mine]), Rates(lr=optim.lr))
        if update % 7 == 6:
            sync.refresh(0.5)
    assert int(sync.diverged()) == 0, sync.blame()
    everyone = ranks.gather([p.detach().clone() for p in (flat.data, flat_target.data)])
    assert all(torch.equal(a, b) for other in everyone for a, b in zip(other, everyone[0], strict=True)), "bitwise"
    norms = torch.tensor(learner.drain()["grad_norm"], dtype=torch.float64)
    return {"net": everyone[0][0], "target": everyone[0][1], "norms": norms}


def outcomes(ranks: Ranks) -> dict[str, dict[str, torch.Tensor]]:
    return {f"{kind}-{name}": learn(kind, optim, ranks) for kind in ("flat", "ddp") for name, optim in OPTIMS.items()}


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        found = outcomes(group)
        if group.rank == 0:
            torch.save(found, Path(sys.argv[1]))
