"""Run under torchrun by test_gossip: exchanges of fixed values, and learning; rank 0 stores the outcome."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from strategy_world import ADAM, CPU, SGD, World, clipped
from tapped import tapped
from torch import Tensor

from trainer.config import OptimConfig, SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.sync.gossip import Gossip

UPDATES = 17
PLAIN = SyncConfig(kind="gossip")
RING = replace(PLAIN, topology="ring")
LEVELS = replace(ADAM, levels=("torso.layers.0=rmsprop,every=3",))
CASES: dict[str, tuple[SyncConfig, OptimConfig, bool]] = {  # the last: whether masses begin unequal
    "exponential": (PLAIN, SGD, False),
    "exponential, heavy": (PLAIN, SGD, True),
    "ring": (RING, SGD, False),
    "ring, heavy": (RING, clipped(SGD), True),
    "adam": (PLAIN, clipped(ADAM), False),
}


def gossip(world: World) -> Gossip:
    return cast(Gossip, world.sync)


def masses(ranks: Ranks) -> Tensor:
    """[p] unequal ones, as if some ranks had sent more than they got; their sum is the number of ranks."""
    raw = torch.arange(1.0, ranks.world_size + 1, dtype=torch.float64)
    return raw / raw.mean()


def make(sync: SyncConfig, optim: OptimConfig, heavy: bool, ranks: Ranks) -> World:
    world = World(ranks, sync, optim)
    if heavy:
        gossip(world)._mass.fill_(float(masses(ranks)[ranks.rank]))
    return world


def learn(sync: SyncConfig, optim: OptimConfig, heavy: bool, ranks: Ranks) -> dict[str, Tensor]:
    world = make(sync, optim, heavy, ranks).run(UPDATES)
    targets = ranks.gather(world.sync.target.data.detach().clone())
    assert all(torch.equal(target, targets[0]) for target in targets), "bitwise"
    assert int(world.sync.diverged()) == 0
    assert world.sync.gather(torch.tensor([ranks.rank, 1])).tolist() == [[ranks.rank, 1]]
    mass = torch.cat(ranks.gather(gossip(world)._mass.clone()))
    return {"weights": world.everyones, "target": targets[0], "mass": mass}


def check_rest(ranks: Ranks) -> None:
    """Without gradients, sums over the ranks are conserved, and all replicas converge to sum x / sum w."""
    p = ranks.world_size
    for sync in (PLAIN, RING):
        for heavy in (False, True):
            world = make(sync, SGD, heavy, ranks)
            strategy = gossip(world)
            g = torch.Generator().manual_seed(ranks.rank)
            strategy.flat.data.data.copy_(torch.randn(strategy.flat.data.shape, generator=g, dtype=torch.float64))

            def sums(strategy: Gossip = strategy) -> tuple[Tensor, Tensor]:
                x = strategy.flat.data.detach() * strategy._mass
                everyones, mass = torch.stack(ranks.gather(x)), torch.cat(ranks.gather(strategy._mass))
                return everyones.sum(0), mass

            total, _ = sums()
            exact = (p - 1).bit_length()
            for exchange in range(1, 40):
                strategy.zero_grad()
                strategy.step(1.0)
                now, mass = sums()
                torch.testing.assert_close(now, total, rtol=0, atol=1e-12, msg="the sum of x stays")
                torch.testing.assert_close(mass.sum().item(), float(p), rtol=0, atol=1e-12)
                assert exchange > 1 or not heavy or p == 2 or not torch.allclose(mass, torch.ones_like(mass))
                if exchange == exact and p & (p - 1) == 0 and sync.topology == "exponential":
                    expect_consensus(world, total / p, 1e-14)
            expect_consensus(world, total / p, 1e-4)  # a ring of four: 0.71 per exchange
            if not heavy:
                assert torch.equal(mass, torch.ones_like(mass)), "on these graphs nobody gives more than it gets"


def expect_consensus(world: World, mean: Tensor, atol: float) -> None:
    everyones = world.everyones
    torch.testing.assert_close(everyones, mean.expand_as(everyones), rtol=0, atol=atol)


def check_agreement(ranks: Ranks) -> None:
    """Within `agreed` all hold sum x / sum w, after it each has its own again; the drift is reported."""
    world = make(RING, SGD, True, ranks)
    world.run(6)
    strategy = gossip(world)
    before, mass = world.everyones, torch.cat(ranks.gather(strategy._mass))
    mean = (before * mass[:, None]).sum(0) / mass.sum()
    with world.sync.agreed():
        within = world.everyones
    assert torch.equal(within, within[:1].expand_as(within)), "bitwise"
    torch.testing.assert_close(within[0], mean, rtol=0, atol=1e-12)
    assert torch.equal(world.everyones, before)
    world.sync.report()
    assert "drift" not in world.sync.report(), "nothing was measured"
    world.sync.refresh(1.0)
    torch.testing.assert_close(world.sync.target.data.detach(), mean, rtol=0, atol=1e-12)
    expected = float((before[ranks.rank] - mean).norm() / mean.norm())
    assert (expected > 1e-5) == (ranks.world_size > 2), "two ranks meet entirely in every exchange"
    assert abs(world.sync.report()["drift"] - expected) < 1e-12


def check_bytes(ranks: Ranks) -> None:
    """Each update sends the weights and a mass to one rank; a refresh is an all-reduce of the same size."""
    world = World(ranks, PLAIN, ADAM)
    world.sync.report()
    with tapped() as tap:
        world.run(7)
    message, p = world.weights.nbytes + 8, ranks.world_size
    assert tap.calls == ["batch_isend_irecv"] * 7 + ["all_reduce"]
    assert abs(tap.bytes - (7 * message + 2 * message * (p - 1) / p)) < 1e-6
    assert abs(world.sync.report()["megabytes_sent"] * 1e6 - tap.bytes) < 1e-6


def check_state(optim: OptimConfig, ranks: Ranks) -> None:
    """With its own state a rank continues bitwise, without it from the agreed state, both at the next turn."""
    old = make(PLAIN, optim, True, ranks).run(5)
    own = copy.deepcopy(old.sync.own_state())
    with old.sync.agreed():
        agreed = copy.deepcopy((old.sync.state_dict(), old.net.state_dict(), old.target_net.state_dict()))
        mean = old.weights
    old.run(9, first=5)

    def loaded() -> World:
        new = World(ranks, PLAIN, optim)
        for part, state in zip((new.sync, new.net, new.target_net), agreed, strict=True):
            part.load_state_dict(copy.deepcopy(state))
        return new

    new = loaded()
    new.sync.load_own_state(own)
    assert torch.equal(new.run(9, first=5).weights, old.weights)
    expect_consensus(loaded(), mean, 0.0)


def outcomes(ranks: Ranks) -> dict[str, dict[str, Tensor]]:
    return {name: learn(sync, optim, heavy, ranks) for name, (sync, optim, heavy) in CASES.items()}


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        found = outcomes(group)
        check_rest(group)
        check_agreement(group)
        check_bytes(group)
        check_state(ADAM, group)
        check_state(LEVELS, group)
        if group.rank == 0:
            torch.save(found, Path(sys.argv[1]))
