"""Run under torchrun by test_overlap: learning on gradients that are one update old; rank 0 stores the outcome."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from strategy_world import ADAM, BATCH, CPU, SGD, World, clipped, joined, mine
from tapped import tapped
from torch import Tensor, nn

from trainer.config import OptimConfig, SyncConfig
from trainer.losses import dqn
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.types import Rates, State

UPDATES = 20
OPTIMS = {"sgd": SGD, "adam": ADAM, "clipped": clipped(ADAM)}
LEVELS = replace(ADAM, levels=("torso=rmsprop,lr=0.5,every=3", "head=sgd,every=2"))


WORLDS: list[World] = []
"""Kept, because gloo aborts if an exchange in flight is dropped; a run ends with a save, which waits for it."""


def world(ranks: Ranks, optim: OptimConfig = ADAM, kind: Any = "overlap") -> World:
    WORLDS.append(World(ranks, SyncConfig(kind=kind), optim))
    return WORLDS[-1]


def settle() -> None:
    """Wait for everything in flight. A collective."""
    for w in WORLDS:
        w.sync.state_dict()


def learn(optim: OptimConfig, ranks: Ranks) -> dict[str, Tensor]:
    w = world(ranks, optim).run(UPDATES)
    assert int(w.sync.diverged()) == 0, w.sync.blame()
    weights = w.everyones
    assert all(torch.equal(row, weights[0]) for row in weights), "bitwise"
    norms = torch.tensor(w.learner.drain()["grad_norm"], dtype=torch.float64)
    return {"net": weights[0], "target": w.sync.target.data.detach().clone(), "norms": norms}


def by_hand(optim: OptimConfig, alone: Ranks) -> dict[str, Tensor]:
    """Delayed SGD as anyone would write it: the previous update's gradient, on the joined batch, in one process."""
    w = world(alone, optim, kind="flat")  # only its networks and batches are used
    net, target, late, norms = w.net, w.target_net, None, []
    parameters = list(net.parameters())
    make = torch.optim.SGD if optim.kind == "sgd" else torch.optim.Adam
    optimizer = make(parameters, lr=optim.lr, **({} if optim.kind == "sgd" else {"eps": optim.eps}))
    for number in range(UPDATES):
        loss = dqn(net, target, joined(number), Rates(), double=True, kind="huber").loss.mean()
        fresh = torch.autograd.grad(loss, parameters)
        norms.append(0.0)
        if late is not None:
            for parameter, gradient in zip(parameters, late, strict=True):
                parameter.grad = gradient
            norms[-1] = float(nn.utils.clip_grad_norm_(parameters, min(optim.max_grad_norm, 1e30)))
            optimizer.step()
        late = fresh
        if number % 7 == 6:
            for a, b in zip(target.parameters(), parameters, strict=True):
                a.data.lerp_(b.data, 0.5)
    flat, flat_target = (torch.cat([p.detach().flatten() for p in n.parameters()]) for n in (net, target))
    return {"net": flat, "target": flat_target, "norms": torch.tensor(norms, dtype=torch.float64)}


def age(ranks: Ranks) -> None:
    """Under plain SGD the weights move by the mean gradient of exactly the previous update."""
    w, means = world(ranks, SGD), []
    for number in range(8):
        before = w.weights
        w.update(number)
        means.append(torch.stack(ranks.gather(w.sync.flat.grad.clone())).mean(0))
        moved = (before - w.weights) / SGD.lr
        if number == 0:
            assert not moved.any(), "nothing has arrived yet"
            continue
        errors = torch.stack([(moved - mean).abs().max() for mean in means])
        assert int(errors.argmin()) == number - 1
        assert errors[number - 1] < 1e-12
        assert errors[number] > 1e-6, "and not by its own"


def order(ranks: Ranks) -> None:
    """The exchange of an update begins after its backward pass, and is waited for after the next one."""
    w, events = world(ranks), []
    start, loss = w.sync.wire.start_sum, w.learner.loss

    class Listening:
        def __init__(self, work: Any) -> None:
            self.work = work

        def wait(self) -> None:
            events.append("wait")
            self.work.wait()

    def listening_start(values: Tensor) -> Listening:
        events.append("start")
        return Listening(start(values))

    def listening_loss(*given: Any) -> Any:
        events.append("compute")
        return loss(*given)

    w.sync.wire.start_sum, w.learner.loss = listening_start, listening_loss  # type: ignore[method-assign]
    for number in range(4):
        w.learner.update(mine(joined(number), ranks), Rates(lr=1e-3))
    assert events == ["compute", "start", *(["compute", "wait", "start"] * 3)]


def resumes(ranks: Ranks) -> None:
    """The gradient in flight is saved, and saving changes nothing; a run without delay leaves none to apply."""
    for optim in (OPTIMS["clipped"], LEVELS):
        whole = world(ranks, optim).run(12).weights
        old = world(ranks, optim).run(7)
        state = copied(old)
        everyone = ranks.gather(state["sync"]["pending"])
        assert all(torch.equal(one, everyone[0]) for one in everyone)
        new = world(ranks, optim)
        load(new, state)
        for goes_on in (old, new):
            assert torch.equal(goes_on.run(5, first=7).weights, whole)
        load(new, state)  # onto one whose own gradient is in flight
        assert torch.equal(new.run(5, first=7).weights, whole)
    plain = world(ranks, kind="flat").run(7)
    state = copied(plain)
    assert "pending" not in state["sync"]
    late = world(ranks)
    load(late, state)
    late.update(7)
    assert torch.equal(late.weights, plain.weights), "nothing to apply"
    late.update(8)
    assert not torch.equal(late.weights, plain.weights)
    back = world(ranks, kind="flat")
    load(back, copied(late))
    back.update(9)


def copied(w: World) -> State:
    return {name: copy.deepcopy(getattr(w, name).state_dict()) for name in ("net", "target_net", "sync")}


def load(w: World, state: State) -> None:
    for name, saved in copy.deepcopy(state).items():
        getattr(w, name).load_state_dict(saved)


def counted(ranks: Ranks) -> None:
    p, w = ranks.world_size, world(ranks)
    with tapped() as tap:
        before = w.sync.wire.sent
        w.run(5)
    assert tap.calls == ["all_reduce"] * 5
    assert tap.bytes == pytest.approx(5 * 2 * w.weights.nbytes * (p - 1) / p)
    assert w.sync.wire.sent - before == pytest.approx(tap.bytes)


def apart_alone(alone: Ranks) -> None:
    """A single rank has no delay, and drops what was in flight on many."""
    w = world(alone, SGD)
    before = w.weights
    w.update(0)
    torch.testing.assert_close(before - SGD.lr * w.sync.flat.grad, w.weights, rtol=0, atol=1e-15)
    state = copied(w)
    assert "pending" not in state["sync"]
    state["sync"]["pending"] = torch.full_like(before, 1e6)
    load(w, state)
    w.update(1)
    assert (w.weights - before).abs().max() < 1


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        assert BATCH % group.world_size == 0
        found = {name: learn(optim, group) for name, optim in OPTIMS.items()}
        for check in (age, order, resumes, counted):
            check(group)
        settle()
        if group.rank == 0:
            torch.save(found, Path(sys.argv[1]))
