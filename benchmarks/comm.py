"""What two ranks pay for staying in sync: the gradient exchange against a bare all-reduce of the same bytes.

    python -m benchmarks.comm [--ranks 2] [--repeats N] [--calls N] [--strategies all]

Starts gloo ranks on this machine, one thread each, and measures on rank 0, interleaved:

- `bare`: `dist.all_reduce` of a tensor as long as the gradient.
- `exchange`: `Sync.step` of kind flat with nothing after the exchange, neither clip nor optimizer. The limit is on
  exchange / bare. It goes through shared memory, the bare one and `sockets` over the loopback.
- `alone`, `flat`, `ddp`: a whole update (losses, backward, exchange, Adam) without exchange and with either kind. The
  faster of the two is what `--sync.kind` should be.

With `--strategies`, also a whole update by each of them: its time less that of `alone`, against the bare all-reduce,
and its bytes on the wire, all ranks together, as the trainer counts them, by formula, and on the loopback device
(comm_bytes.py). The trainer's count has to equal the formula's.

Networks: MLP 120-84 on CartPole vectors with batch 128, Nature CNN on 84x84x4 frames with batch 32, over all ranks.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.comm_bytes import FORMULAS, Shape, enter, loopback, private_loopback
from benchmarks.harness import interleaved, median, table, timed
from benchmarks.ports import free_port
from benchmarks.rows import write_rows
from benchmarks.scaling_cases import STRATEGIES, chosen
from trainer.build import build_net, build_sync
from trainer.cli import parse_train
from trainer.config import Config, NetConfig
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
    parser.add_argument("--strategies", nargs="+", default=[], help=f"all, or some of {', '.join(STRATEGIES)}")
    parser.add_argument("--out", type=Path, help="folder for the rows; default: benchmarks/results")
    options = parser.parse_args(argv)
    names = [options.net] if options.net else list(NETS)
    strategies = chosen(options.strategies, parser)
    rows = [judged(measure(n, options.ranks, options.repeats, options.calls or NETS[n][3], strategies)) for n in names]
    print(report(rows))
    for row in rows:
        if row["strategies"]:
            print(report_strategies(row))
    print(f"rows: {write_rows('comm', rows, options.out).name}")
    return 0 if all(row["pass"] for row in rows) else 1


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with its verdict: the exchange must cost little, and the bytes must equal the formulas'."""
    exact = all(one["counted"] == one["formula"] for one in row["strategies"].values())
    return row | {"limit": LIMIT, "pass": row["ratio"] <= LIMIT and exact}


def measure(net: str, ranks: int, repeats: int, calls: int, strategies: Sequence[str] = ()) -> dict[str, Any]:
    """Start the ranks, wait for them under a deadline, and return the row of rank 0."""
    with tempfile.TemporaryDirectory() as folder, private_loopback() as namespace:
        out = Path(folder) / "row.json"
        asked = Asked(net, repeats, calls, tuple(strategies), namespace, out)
        group = mp.start_processes(_rank, (ranks, free_port(), asked), ranks, join=False)
        ends = time.monotonic() + DEADLINE
        try:
            while not group.join(timeout=1.0):
                if time.monotonic() > ends:
                    raise TimeoutError(f"the ranks took more than {DEADLINE:.0f} s")
        finally:
            for process in group.processes:
                process.kill()
        return dict(json.loads(out.read_text()))


class Asked(NamedTuple):
    """What the ranks are to measure. namespace: whose loopback device they talk over; None: the machine's."""

    net: str
    repeats: int
    calls: int
    strategies: tuple[str, ...]
    namespace: str | None
    out: Path


def _rank(rank: int, world_size: int, port: int, asked: Asked) -> None:
    """Run as one rank: every rank measures, rank 0 writes."""
    if asked.namespace is not None:
        enter(asked.namespace)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    with process_group(torch.device("cpu"), Launch.read(), 60.0) as ranks:
        row = _measure_here(ranks, asked)
    if rank == 0:
        asked.out.write_text(json.dumps(row))


def _measure_here(ranks: Ranks, asked: Asked) -> dict[str, Any]:
    _, _, batch_size, _ = NETS[asked.net]
    calls = asked.calls
    plain = ["flat", "ddp", *(name for name in asked.strategies if name not in ("flat", "ddp"))]
    updates = {"alone": Update(asked.net, replace(ranks, world_size=1), "flat")}
    updates |= {name: Update(asked.net, ranks, name) for name in plain}
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
    took = interleaved(works, asked.repeats)
    us = {name: 1e6 * median(values) / calls for name, values in took.items()}
    ratios = [mine / least for mine, least in zip(took["exchange"], took["bare"], strict=True)]
    sent = {name: _bytes(updates[name], name, ranks, calls) for name in asked.strategies}
    told = {name: one | {"exchange_us": us[name] - us["alone"]} for name, one in sent.items()}
    return {
        "net": asked.net,
        "ranks": ranks.world_size,
        "backend": "gloo",
        "batch": batch_size,
        "bytes": bare.numel() * bare.element_size(),
        "calls": calls,
        "repeats": asked.repeats,
        "us": us,
        "ddp_exchange_us": us["ddp"] - us["alone"],
        "ratio": median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "faster": min(("flat", "ddp"), key=us.__getitem__),
        "strategies": told,
        "own_loopback": asked.namespace is not None,
    }


def _bytes(update: Update, name: str, ranks: Ranks, calls: int) -> dict[str, Any]:
    """Return the bytes of one update, all ranks together, in three ways. A collective."""
    sync = update.sync
    calls = -(-calls // 16) * 16  # whole periods of local SGD
    shared, sync.wire.shared = sync.wire.shared, None  # so that the loopback sees it
    with sync.agreed():
        pass
    update.run(16)
    ranks.gather(None)  # nothing is in flight
    sync.report()
    ranks.gather(None)
    before = loopback()
    ranks.gather(None)
    update.run(calls)
    ranks.gather(None)
    carried = loopback() - before
    told = sum(ranks.gather(sync.report()["megabytes_sent"]))
    with sync.agreed():  # an asynchronous server's threads end here
        pass
    sync.wire.shared = shared
    words, formula = FORMULAS[name]
    shape = Shape([tuple(p.shape) for p in update.net.parameters()], ranks.world_size)
    return {
        "counted": round(1e6 * told / calls),
        "formula": round(formula(shape)),
        "formula_words": words,
        "loopback": round(carried / calls),
    }


class Update:
    """A learner of one kind of synchronisation, and a batch to repeat."""

    def __init__(self, net: str, ranks: Ranks, strategy: str) -> None:
        spec, hidden, batch_size, _ = NETS[net]
        chosen_sync = parse_train(["debug", *STRATEGIES[strategy]]).config.sync
        config = Config(net=NetConfig(hidden=hidden), sync=chosen_sync)
        online, target = build_net(config, spec, ranks.device), build_net(config, spec, ranks.device)
        self.sync = build_sync(config, online, target.requires_grad_(False), ranks, Spans())
        self.parameters, self.net = self.sync.flat, online
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
        """Only exchange: the optimizer step that follows is taken out meanwhile."""
        held = self.sync.clipped.step
        self.sync.clipped.step = _no_step  # type: ignore[method-assign]
        for _ in range(calls):
            self.sync.step(math.inf)
        self.sync.clipped.step = held  # type: ignore[method-assign]


_NORM = torch.zeros(())


def _no_step(max_norm: float, norm: Tensor | None = None) -> Tensor:
    return _NORM


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
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


def report_strategies(row: dict[str, Any]) -> str:
    """Return what each strategy sends, and how long that takes, as text."""
    lines = []
    for name, one in row["strategies"].items():
        verdict = "" if one["counted"] == one["formula"] else "  NOT THE FORMULA"
        lines.append(
            (
                f"{name}: {one['formula_words']}",
                f"{one['formula']:,}",
                f"{one['counted']:,}{verdict}",
                f"{one['loopback']:,}",
                f"{one['loopback'] / max(1, one['formula']):.2f}",
                f"{one['exchange_us']:,.0f}",
                f"{one['exchange_us'] / row['us']['bare']:.2f}",
            )
        )
    where = "a loopback of their own" if row["own_loopback"] else "the machine's loopback, others' bytes included"
    header = ("bytes of an update, all ranks", "formula", "counted", "loopback", "/ formula", "us", "/ bare")
    return f"{row['net']}, {row['ranks']} ranks, {row['bytes']:,} bytes of gradient, {where}\n{table(header, lines)}"


if __name__ == "__main__":
    raise SystemExit(main())
