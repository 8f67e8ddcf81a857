"""Run under torchrun by test_compress: every compression method, on this rank's slice of known batches."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from strategy_world import ADAM, CPU, World
from tapped import tapped
from torch import Tensor, nn

from trainer.build.allreduce import build_allreduce
from trainer.config import Config, SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.runtime.spans import Spans
from trainer.sync import AllReduce, ClippedOptimizer, FlatParameters, Level, Wire

UPDATES = 12
SYNCS: dict[str, SyncConfig] = {
    "none": SyncConfig(),
    "fp16": SyncConfig(compress="fp16"),
    "bf16": SyncConfig(compress="bf16"),
    "int8": SyncConfig(compress="int8"),
    "topk": SyncConfig(compress="topk", compress_share=0.1),
    "powersgd": SyncConfig(compress="powersgd", compress_rank=1),
    "topk of all": SyncConfig(compress="topk", compress_share=1.0),
    "powersgd of full rank": SyncConfig(compress="powersgd", compress_rank=9),
    "ddp fp16": SyncConfig(kind="ddp", compress="fp16"),
    "ddp powersgd": SyncConfig(kind="ddp", compress="powersgd", compress_rank=1),
}
OWING = ("int8", "topk", "powersgd")
LAYERS = ((100, 64), (64, 30))
"""Of the network whose bytes are counted; the last of its 8,414 elements is in the last rank's share."""


def learn(sync: SyncConfig, ranks: Ranks) -> Tensor:
    """Return the weights that all ranks end with; check that they are equal, and what was counted meanwhile."""
    world = World(ranks, sync, ADAM)
    before = world.sync.wire.sent
    with tapped() as tap:
        world.run(UPDATES)
    assert world.sync.wire.sent - before == tap.bytes > 0, (world.sync.wire.sent - before, tap.bytes, tap.calls)
    everyones = world.everyones.view(torch.int64)
    assert (everyones == everyones[0]).all(), "bitwise"
    assert int(world.sync.diverged()) == 0, world.sync.blame()
    return world.weights


def sent(name: str, ranks: Ranks) -> dict[str, float]:
    """Return the bytes of one exchange of a float32 gradient, as counted and as tapped."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(*sizes) for sizes in LAYERS))
    flat, wire = FlatParameters(net), Wire(ranks.rank, ranks.world_size, Spans())
    levels = [Level("all", 0, flat.data.numel(), lambda weights: torch.optim.SGD([weights], lr=0.1))]
    sync = replace(SYNCS[name], compress_rank=4) if name == "powersgd" else SYNCS[name]
    strategy = build_allreduce(Config(sync=sync), flat, flat, ClippedOptimizer(flat, levels), wire)
    flat.grad.copy_(torch.randn(flat.grad.shape, generator=torch.Generator().manual_seed(ranks.rank)))
    with tapped() as tap:
        strategy.step(math.inf)
    return {"counted": wire.sent, "tapped": tap.bytes, "reported": strategy.report()["megabytes_sent"]}


def resumed_equals_uninterrupted(name: str, ranks: Ranks) -> None:
    old, new = World(ranks, SYNCS[name], ADAM).run(6), World(ranks, SYNCS[name], ADAM)
    parts = [(world.net, world.target_net, world.sync) for world in (old, new)]
    own = copy.deepcopy(old.sync.own_state())
    assert (own != {}) == (name in OWING)
    states = copy.deepcopy([part.state_dict() for part in parts[0]])
    for part, state in zip(parts[1], states, strict=True):
        part.load_state_dict(state)
    new.sync.load_own_state(own)
    assert torch.equal(old.run(5, first=6).weights, new.run(5, first=6).weights), name


def another_method_starts_anew(ranks: Ranks) -> None:
    """What one method owes is not taken over by another method or setting."""
    own = World(ranks, SYNCS["topk"], ADAM).run(3).sync.own_state()
    for other in (SYNCS["powersgd"], replace(SYNCS["topk"], compress_share=0.2), SYNCS["none"]):
        world = World(ranks, other, ADAM)
        before = copy.deepcopy(world.sync.own_state())
        world.sync.load_own_state(own)
        after = world.sync.own_state()
        assert str(before) == str(after)


def noise_scale_is_that_of_the_gradients(ranks: Ranks) -> dict[str, float]:
    """Compare with the estimators written out, averaged with the weights of the running average."""
    world = World(ranks, SyncConfig(noise_scale=True), ADAM)
    assert isinstance(world.sync, AllReduce)
    assert set(world.sync.report()) == {"megabytes_sent"}, "nothing yet"
    mean_, squares = world.sync.compression.mean_, []

    def listen(grad: Tensor) -> None:
        local = float(grad @ grad)
        mean_(grad)
        squares.append((local, float(grad @ grad)))

    world.sync.compression.mean_ = listen  # type: ignore[method-assign]
    world.run(UPDATES)
    with tapped() as tap:
        report = world.sync.report()
    assert len(tap.calls) == 1, tap.calls
    everyones = torch.tensor(ranks.gather(squares), dtype=torch.float64)  # [ranks, updates, 2]
    assert (everyones[:, :, 1] == everyones[0, :, 1]).all()
    weights = 0.999 ** torch.arange(UPDATES - 1, -1, -1, dtype=torch.float64)
    small, big = (everyones.mean(0) * weights[:, None] / weights.sum()).sum(0).tolist()
    many, few = world.config.replay.batch_size, world.config.replay.batch_size / ranks.world_size
    square, variance = (many * big - few * small) / (many - few), (small - big) / (1 / few - 1 / many)
    assert math.isclose(report["gradient_squared"], square, rel_tol=1e-9)
    assert math.isclose(report["gradient_variance"], variance, rel_tol=1e-9)
    assert math.isclose(report["noise_scale"], variance / square, rel_tol=1e-9)
    assert torch.equal(world.weights, World(ranks, SYNCS["none"], ADAM).run(UPDATES).weights), (
        "measuring changes nothing"
    )
    return report


def drift_is_found(name: str, ranks: Ranks) -> None:
    world = World(ranks, SYNCS[name], ADAM).run(3)
    if ranks.rank == 1:
        world.sync.flat.data.data[5] += 1e-9
    world.sync.refresh(1.0)
    assert max(ranks.gather(int(world.sync.diverged()))) == 1
    assert "rank 1 differs from rank 0" in world.sync.blame()


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        weights = {name: learn(sync, group) for name, sync in SYNCS.items()}
        counts = {name: sent(name, group) for name in SYNCS if not name.startswith("ddp")}
        for method in ("fp16", *OWING):  # not ddp, whose buckets are rebuilt and sum in another order
            resumed_equals_uninterrupted(method, group)
        another_method_starts_anew(group)
        reports = group.gather(noise_scale_is_that_of_the_gradients(group))
        assert all(report == reports[0] for report in reports)
        drift_is_found("int8", group)
        if group.rank == 0:
            torch.save({"weights": weights, "bytes": counts}, Path(sys.argv[1]))
