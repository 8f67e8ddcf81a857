"""A worker of an asynchronous parameter server, started by test_server_lost without any agent; one of them is lost.

python server_lost_ranks.py '{"victim": RANK, "signal": NUMBER, "servers": COUNT}' FOLDER. Each survivor stores its
final state; the last meeting needs no process group of all ranks, which is broken by then.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from server_ranks import LR, asynchronous, server_of
from strategy_world import CPU, World, joined, mine

from trainer.config import SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group
from trainer.sync.server import asynchronous as module
from trainer.sync.server.link import connect

UPDATES, LOST_AT, PATIENCE = 30, 10, 6.0

if __name__ == "__main__":
    told, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    module.connect = lambda wire, servers, timeout: connect(wire, servers, PATIENCE)
    with process_group(CPU, Launch.read(), 60.0) as ranks:
        World(ranks, SyncConfig()).run(1)  # loads what torch loads in an optimizer's first step, which takes seconds
        world = asynchronous(ranks, told["servers"], staleness=1)
        for number in range(UPDATES):
            if (ranks.rank, number) == (told["victim"], LOST_AT):
                world.learner.net(torch.zeros(1, 6, dtype=torch.float64))  # it owes a gradient that others wait for
                os.kill(os.getpid(), told["signal"])
            world.learner.update(mine(joined(number), ranks), LR)
        with world.sync.agreed():
            service = server_of(world).service
            counts = None if service is None else (service.lost, service.ages.version, max(service.ages.seen))
            torch.save({"weights": world.weights, "service": counts}, folder / f"rank-{ranks.rank}.pt")
