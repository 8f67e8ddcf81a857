"""Run under torchrun by test_local_sgd: rounds on this rank's slices of known batches; rank 0 stores the outcome."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from strategy_world import ADAM, CPU, SGD, World, clipped
from tapped import tapped
from torch import Tensor

from trainer.config import OptimConfig, SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group

UPDATES = 22  # in the middle of a round of 4
PLAIN = SyncConfig(kind="local_sgd", period=4)
CASES: dict[str, tuple[SyncConfig, OptimConfig]] = {
    "every": (replace(PLAIN, period=1), SGD),
    "every, clipped": (replace(PLAIN, period=1), clipped(SGD)),
    "plain": (PLAIN, SGD),
    "adam": (PLAIN, clipped(ADAM)),
    "post-local": (replace(PLAIN, local_after=6), SGD),
    "diloco": (replace(PLAIN, local_after=3, outer_lr=0.7, outer_momentum=0.9), SGD),
    "slower": (replace(PLAIN, outer_lr=0.5), SGD),
    "hierarchical": (replace(PLAIN, hierarchical=True), SGD),
}


def learn(sync: SyncConfig, optim: OptimConfig, ranks: Ranks) -> dict[str, Tensor]:
    """Learn, and check meanwhile what no single process can: which ranks are equal, and when."""
    world = World(ranks, sync, optim)
    for number in range(UPDATES):
        world.update(number)
        local = number + 1 - sync.local_after  # updates
        everyones = world.everyones
        node = ranks.local_world_size if sync.hierarchical else 1
        assert torch.equal(everyones[::node].repeat_interleave(node, 0), everyones), "a node is one replica"
        apart = not torch.equal(everyones[0].expand_as(everyones), everyones)
        assert apart == (local > 0 and local % sync.period != 0 and node < ranks.world_size), number
    targets = ranks.gather(world.sync.target.data.detach().clone())
    assert all(torch.equal(target, targets[0]) for target in targets), "bitwise"
    assert int(world.sync.diverged()) == 0
    norms = torch.tensor(ranks.gather(world.learner.drain()["grad_norm"]))
    return {"weights": world.everyones, "target": targets[0], "norms": norms}


def check_agreement(ranks: Ranks) -> None:
    """Within `agreed` all hold the mean of the replicas, after it each has its own again; the drift is reported."""
    world = World(ranks, PLAIN, SGD).run(4)
    world.sync.report()
    world.run(2, first=4)
    before, mean = world.everyones, world.everyones.mean(0)
    with world.sync.agreed():
        within = world.everyones
    assert torch.equal(within, within[:1].expand_as(within)), "bitwise"
    torch.testing.assert_close(within[0], mean, rtol=0, atol=1e-12)
    assert torch.equal(world.everyones, before)
    assert "drift" not in world.sync.report(), "nothing was measured"
    world.sync.refresh(1.0)
    torch.testing.assert_close(world.sync.target.data.detach(), mean, rtol=0, atol=1e-12)
    assert torch.equal(world.everyones, before), "a refresh moves the target alone"
    expected = float((before[ranks.rank] - mean).norm() / mean.norm())
    told = world.sync.report()["drift"]
    assert expected > 1e-4
    assert abs(told - expected) < 1e-12


def check_gather(ranks: Ranks) -> None:
    """Numbers are normalised over the ranks whose gradients are averaged: all, a node, one alone."""
    values = torch.tensor([float(ranks.rank), 1.0])
    world = World(ranks, replace(PLAIN, local_after=1), SGD)
    assert world.sync.gather(values)[:, 0].tolist() == list(range(ranks.world_size))
    world.run(1)
    assert world.sync.gather(values).tolist() == [[ranks.rank, 1]]
    world = World(ranks, replace(PLAIN, hierarchical=True), SGD)
    first = ranks.rank // ranks.local_world_size * ranks.local_world_size
    assert world.sync.gather(values)[:, 0].tolist() == list(range(first, first + ranks.local_world_size))


def check_bytes(ranks: Ranks) -> None:
    """11 updates, 3 of them together, rounds of 2 and one refresh: 3 + 4 + 1 all-reduces, in nodes 8 more."""
    p, node = ranks.world_size, ranks.local_world_size
    for hierarchical in (False, True):
        world = World(ranks, replace(PLAIN, period=2, local_after=3, hierarchical=hierarchical), ADAM)
        world.sync.report()
        with tapped() as tap:
            world.run(11)
        nbytes = world.weights.nbytes
        within = 2 * nbytes * 8 * (node - 1) / node if hierarchical else 0.0
        between = 2 * nbytes * 8 * (p - 1) / p
        told = world.sync.report()
        assert set(tap.calls) == {"all_reduce"}
        assert abs(tap.bytes - within - between) < 1e-6
        assert abs(told["megabytes_sent"] * 1e6 - between) < 1e-6
        assert abs(told.get("megabytes_sent_in_node", 0.0) * 1e6 - within) < 1e-6
        assert ("megabytes_sent_in_node" in told) == hierarchical


def check_state(ranks: Ranks) -> None:
    """Saved in the middle of a round: with its own state a rank continues bitwise, without it from the agreed state."""
    sync = replace(PLAIN, local_after=3, outer_lr=0.7, outer_momentum=0.9)
    for updates in (2, 3, 9, 11):
        old = World(ranks, sync, ADAM).run(updates)
        own = copy.deepcopy(old.sync.own_state())
        with old.sync.agreed():
            agreed = copy.deepcopy((old.sync.state_dict(), old.net.state_dict(), old.target_net.state_dict()))
        mean = old.everyones.mean(0)
        old.run(9, first=updates)

        def loaded(agreed: tuple = agreed) -> World:  # type: ignore[type-arg]
            new = World(ranks, sync, ADAM)
            for part, state in zip((new.sync, new.net, new.target_net), agreed, strict=True):
                part.load_state_dict(copy.deepcopy(state))
            return new

        new = loaded()
        new.sync.load_own_state(own)
        assert torch.equal(new.run(9, first=updates).weights, old.weights)
        together = World(ranks, replace(sync, local_after=99), ADAM)
        together.sync.load_own_state(own)
        assert not torch.equal(together.weights, own["weights"]), "whose gradients are averaged must begin equal"
        new = loaded()
        torch.testing.assert_close(new.everyones, mean.expand_as(new.everyones), rtol=0, atol=1e-12)
        moments = ranks.gather(own["optimizer"]["all"]["exp_avg"])
        stored = new.sync.clipped.state_dict()["all"]
        torch.testing.assert_close(stored["exp_avg"], sum(moments) / len(moments), rtol=0, atol=1e-12)
        assert float(stored["step"]) == updates
        new.run(9, first=updates)
        everyones = new.everyones
        averaged = (updates + 9 - 3) % 4 == 0
        assert torch.equal(everyones[0], everyones[-1]) == averaged, "its rounds end where those of the saved run would"


def outcomes(ranks: Ranks) -> dict[str, dict[str, Tensor]]:
    return {name: learn(sync, optim, ranks) for name, (sync, optim) in CASES.items()}


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        group = replace(group, local_world_size=2)  # one node, or two
        found = outcomes(group)
        check_agreement(group)
        check_gather(group)
        check_bytes(group)
        check_state(group)
        if group.rank == 0:
            torch.save(found, Path(sys.argv[1]))
