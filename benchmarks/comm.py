"""What two ranks pay for staying together: the gradient exchange beside a bare all-reduce of the same bytes.

    python -m benchmarks.comm [--ranks 2] [--repeats N] [--calls N]

Starts gloo ranks on this machine, one thread each, and measures on rank 0, interleaved:

- `bare`: `dist.all_reduce` of a tensor as long as the gradient.
- `exchange`: `Sync.step` of kind flat with nothing behind the exchange, neither clip nor optimizer. The limit holds
  exchange / bare.
- `alone`, `flat`, `ddp`: a whole update (losses, backward, exchange, Adam) without exchange and with either kind. The
  faster of the two is what `--sync.kind` should be.

Networks: MLP 120-84 on CartPole vectors with batch 128, Nature CNN on 84x84x4 frames with batch 32, over all ranks.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.harness import interleaved, median, table, timed
from benchmarks.rows import write_rows
from trainer.build import build_net, build_sync
from trainer.config import Config, NetConfig, SyncConfig
from trainer.envs import EnvSpec
from trainer.learner import Learner
from trainer.losses import dqn
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.runtime.spans import Spans
from trainer.types import Batch, Rates

LIMIT = 1.3
"""The most that exchange / bare may be."""
DEADLINE = 300.0
"""After this the ranks are killed [s]."""
NETS: dict[str, tuple[EnvSpec, tuple[int, ...], int, int]] = {  # spec, hidden, batch over all ranks, calls
    "mlp": (EnvSpec("sync", (4,), torch.float32, 2, 1, "repeat", True), (120, 84), 128, 200),
    "nature": (EnvSpec("ale", (4, 84, 84), torch.uint8, 4, 4, "zero", True), (512,), 32, 10),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calls", type=int, help="calls in one measurement")
    parser.add_argument("--net", choices=tuple(NETS), help="only this one")
    options = parser.parse_args(argv)
    names = [options.net] if options.net else list(NETS)
    rows = [measure(name, options.ranks, options.repeats, options.calls or NETS[name][3]) for name in names]
    print(report(rows))
    print(f"rows: {write_rows('comm', rows).name}")
    return 0 if all(row["pass"] for row in rows) else 1


def measure(net: str, ranks: int, repeats: int, calls: int) -> dict[str, Any]:
    """Start the ranks, wait for them under a deadline, and return the row of rank 0."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as taken:
        taken.bind(("localhost", 0))
        port = taken.getsockname()[1]
        taken.close()
        out = Path(folder) / "row.json"
        group = mp.start_processes(_rank, (ranks, port, net, repeats, calls, out), ranks, join=False)
        ends = time.monotonic() + DEADLINE
        try:
            while not group.join(timeout=1.0):
                if time.monotonic() > ends:
                    raise TimeoutError(f"the ranks took more than {DEADLINE:.0f} s")
        finally:
            for process in group.processes:
                process.kill()
        return dict(json.loads(out.read_text()))


def _rank(rank: int, world_size: int, port: int, net: str, repeats: int, calls: int, out: Path) -> None:
    """Be one rank: every rank measures, rank 0 writes."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    with process_group(torch.device("cpu"), Launch.read(), 60.0) as ranks:
        row = _measure_here(ranks, net, repeats, calls)
    if rank == 0:
        out.write_text(json.dumps(row))


def _measure_here(ranks: Ranks, net: str, repeats: int, calls: int) -> dict[str, Any]:
    _, _, batch_size, _ = NETS[net]
    alone = replace(ranks, world_size=1)
    updates = {
        "alone": Update(net, alone, "flat"),
        "flat": Update(net, ranks, "flat"),
        "ddp": Update(net, ranks, "ddp"),
    }
    flat = updates["flat"]
    bare = torch.zeros_like(flat.parameters.grad)

    def all_reduce() -> None:
        for _ in range(calls):
            dist.all_reduce(bare)

    def update(kind: str) -> float:
        return timed(functools.partial(updates[kind].run, calls))

    works: dict[str, Callable[[], float]] = {
        "bare": lambda: timed(all_reduce),
        "exchange": lambda: timed(functools.partial(flat.exchange, calls)),
        **{kind: functools.partial(update, kind) for kind in updates},
    }
    interleaved(works, 1)  # the first calls allocate
    took = interleaved(works, repeats)
    us = {name: 1e6 * median(values) / calls for name, values in took.items()}
    ratios = [mine / least for mine, least in zip(took["exchange"], took["bare"], strict=True)]
    return {
        "net": net,
        "ranks": ranks.world_size,
        "backend": "gloo",
        "batch": batch_size,
        "bytes": bare.numel() * bare.element_size(),
        "calls": calls,
        "repeats": repeats,
        "us": us,
        "ddp_exchange_us": us["ddp"] - us["alone"],
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "limit": LIMIT,
        "pass": median(ratios) <= LIMIT,
        "faster": min(("flat", "ddp"), key=us.__getitem__),
    }


class Update:
    """A learner of one kind of synchronisation, and a batch to repeat."""

    def __init__(self, net: str, ranks: Ranks, kind: Literal["flat", "ddp"]) -> None:
        spec, hidden, batch_size, _ = NETS[net]
        config = Config(net=NetConfig(hidden=hidden), sync=SyncConfig(kind=kind))
        online, target = build_net(config, spec, ranks.device), build_net(config, spec, ranks.device)
        self.sync = build_sync(config, online, target.requires_grad_(False), ranks, Spans())
        self.parameters = self.sync.flat
        loss = functools.partial(dqn, double=False, kind="mse")
        self.learner = Learner(self.sync.prepare(online), target, loss, self.sync, max_grad_norm=math.inf)
        count = batch_size // dist.get_world_size()
        generator = torch.Generator().manual_seed(ranks.rank)
        obs = (torch.rand(2, count, *spec.obs_shape, generator=generator) * 255).to(spec.obs_dtype)
        action = torch.randint(spec.num_actions, (count,), generator=generator)
        self.batch = Batch(obs[0], action, torch.rand(count), torch.full((count,), 0.99), obs[1], action)

    def run(self, calls: int) -> None:
        for _ in range(calls):
            self.learner.update(self.batch, Rates(lr=1e-4))
        self.learner.drain()

    def exchange(self, calls: int) -> None:
        """Only meet: the step that follows the exchange is taken out for as long."""
        held = self.sync.clipped.step
        self.sync.clipped.step = _no_step  # type: ignore[method-assign]
        for _ in range(calls):
            self.sync.step(math.inf)
        self.sync.clipped.step = held  # type: ignore[method-assign]


_NORM = torch.zeros(())


def _no_step(max_norm: float) -> Tensor:
    return _NORM


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows in words."""
    kinds = ("bare", "exchange", "alone", "flat", "ddp")
    lines = [
        (
            row["net"],
            f"{row['bytes']:,}",
            *(f"{row['us'][kind]:,.0f}" for kind in kinds),
            f"{row['ratio']:.2f} ({row['ratio_spread'][0]:.2f}-{row['ratio_spread'][1]:.2f})",
            "pass" if row["pass"] else "FAIL",
            row["faster"],
        )
        for row in rows
    ]
    header = ("us per call", "bytes", *kinds, "exchange / bare", f"limit {LIMIT}", "faster")
    return table(header, lines)


if __name__ == "__main__":
    raise SystemExit(main())
