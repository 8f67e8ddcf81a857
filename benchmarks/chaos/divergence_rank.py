"""`torchrun divergence_rank.py REPORT train ...`: measure, at every refresh, what the check of replicas adds to it.

Without it every rank would copy its own weights, which are equal anyway: that is measured as well. Ranks meet before a
refresh, and that time is left out, because waiting for each other is not a cost of the check.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch.distributed as dist

from trainer.commands import train as command
from trainer.sync.replicas import Replicas

REFRESH, TRAIN = Replicas.refresh, command.train
checked: list[float] = []
plain: list[float] = []
away = [0.0]
lasted = [0.0]


def refresh(self: Replicas, tau: float) -> None:
    arrived = time.perf_counter()
    dist.barrier()
    began = time.perf_counter()
    REFRESH(self, tau)
    checked.append(time.perf_counter() - began)
    began = time.perf_counter()
    self.target.data.data.copy_(self.online.data.data)  # the same values once more, as tau is 1
    plain.append(time.perf_counter() - began)
    away[0] += time.perf_counter() - arrived - checked[-1]


def train(run: object) -> None:
    began = time.perf_counter()
    TRAIN(run)  # type: ignore[arg-type]
    lasted[0] = time.perf_counter() - began - away[0]


def main() -> int:
    from trainer.__main__ import main as lockstep

    Replicas.refresh = refresh  # type: ignore[method-assign]
    command.train = train
    code = lockstep(sys.argv[2:])
    if os.environ["RANK"] == "0":
        each = statistics.median(one - other for one, other in zip(checked, plain, strict=True))
        cost = 100 * each * len(checked) / lasted[0]
        Path(sys.argv[1]).write_text(json.dumps({"cost": cost, "refreshes": len(checked), "each": each}))
    return code


if __name__ == "__main__":
    sys.exit(main())
