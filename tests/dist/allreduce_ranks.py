"""Run under torchrun by test_allreduce: updates on this rank's slice of known batches; rank 0 stores the outcome."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from strategy_world import ADAM, CPU, RMSPROP, World, clipped

from trainer.config import OptimConfig, SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group

UPDATES = 20
OPTIMS = {"adam": ADAM, "clipped": clipped(ADAM), "rmsprop": RMSPROP}


def learn(kind: Any, optim: OptimConfig, ranks: Ranks) -> dict[str, torch.Tensor]:
    world = World(ranks, SyncConfig(kind=kind), optim).run(UPDATES)
    sync = world.sync
    assert int(sync.diverged()) == 0, sync.blame()
    everyone = ranks.gather([p.detach().clone() for p in (sync.flat.data, sync.target.data)])
    assert all(torch.equal(a, b) for other in everyone for a, b in zip(other, everyone[0], strict=True)), "bitwise"
    norms = torch.tensor(world.learner.drain()["grad_norm"], dtype=torch.float64)
    return {"net": everyone[0][0], "target": everyone[0][1], "norms": norms}


def outcomes(ranks: Ranks) -> dict[str, dict[str, torch.Tensor]]:
    return {f"{kind}-{name}": learn(kind, optim, ranks) for kind in ("flat", "ddp") for name, optim in OPTIMS.items()}


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        found = outcomes(group)
        if group.rank == 0:
            torch.save(found, Path(sys.argv[1]))
