"""Run under torchrun by test_server: both kinds of parameter server among these ranks; rank 0 stores the outcome.

What must hold on every rank is asserted here. Ages of gradients are measured independently of the server's account:
every gradient carries the version that it was computed with, and the weights count the updates.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from strategy_world import ADAM, CPU, RMSPROP, SGD, World, clipped, joined, mine

from trainer.config import OptimConfig, SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.sync.server import AsyncServer
from trainer.types import Rates

UPDATES = 20
LEVELS = replace(ADAM, levels=("torso=sgd,lr=3,every=2",))
OPTIMS = {"adam": ADAM, "clipped": clipped(ADAM), "rmsprop": RMSPROP, "levels": LEVELS}
LR = Rates(lr=1e-3)


def learn(sync: SyncConfig, optim: OptimConfig, ranks: Ranks) -> dict[str, Any]:
    world = World(ranks, sync, optim).run(UPDATES)
    assert int(world.sync.diverged()) == 0, world.sync.blame()
    for flat in (world.sync.flat, world.sync.target):
        everyones = ranks.gather(flat.data.detach())
        assert all(torch.equal(other, everyones[0]) for other in everyones), "bitwise"
    norms = torch.tensor(world.learner.drain()["grad_norm"], dtype=torch.float64)
    weights, state = world.weights, world.sync.state_dict()["optimizer"]
    return {"net": weights, "target": world.sync.target.data.detach().clone(), "norms": norms, "optimizer": state}


def lockstep(ranks: Ranks, kind: Any, servers: int = 1) -> dict[str, Any]:
    return {name: learn(SyncConfig(kind=kind, servers=servers), optim, ranks) for name, optim in OPTIMS.items()}


def asynchronous(ranks: Ranks, servers: int = 1, staleness: int | None = None, optim: OptimConfig = ADAM) -> World:
    sync = SyncConfig(kind="server", servers=servers, asynchronous=True, staleness=staleness)
    return World(ranks, sync, optim)


def server_of(world: World) -> AsyncServer:
    assert isinstance(world.sync, AsyncServer)
    return world.sync


@contextmanager
def sent() -> Iterator[Counter[str]]:
    """Count the bytes of this rank's payloads by the name of the exchange, whatever thread sends them."""
    found: Counter[str] = Counter()
    lock = threading.Lock()

    def listening(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def listen(first: Any, *rest: Any, **options: Any) -> Any:
            with lock:
                found[name] += sum(p.nbytes for p in first) if isinstance(first, list) else first.nbytes
            return call(first, *rest, **options)

        return listen

    with pytest.MonkeyPatch.context() as patch:
        for name in ("all_reduce", "broadcast", "all_gather", "reduce", "send"):
            patch.setattr(dist, name, listening(name, getattr(dist, name)))
        yield found


def bytes_in_lockstep(ranks: Ranks, servers: int) -> None:
    """Push and pull cost 2 P per worker, less the servers' own parts; the norm's parts are gathered too."""
    world = World(ranks, SyncConfig(kind="server", servers=servers, shared_memory=False))
    world.sync.report()
    with sent() as found:
        world.run(6)
    payload, others = world.weights.nbytes, ranks.world_size - 1
    assert found == {"reduce": 6 * payload, "broadcast": 6 * payload, "all_gather": 6 * ranks.world_size * 8}
    everybody = sum(ranks.gather(world.sync.report()["megabytes_sent"])) * 1e6
    expected = 6 * others * (2 * payload + 8 * ranks.world_size)
    assert abs(everybody - expected) < 1e-3, (everybody, expected)


def bytes_at_any_pace(ranks: Ranks, servers: int) -> None:
    """2 P per worker and update, less the parts that it serves itself; two numbers with each request."""
    world, updates = asynchronous(ranks, servers), 6
    with world.sync.agreed():  # past the first exchanges
        world.sync.report()
    with sent() as found:
        for number in range(updates):
            world.learner.update(mine(joined(number), ranks), LR)
        world.sync.refresh(0.5)
        ranks.gather(None)  # replies to others are sent from a thread
        everybody = sum(ranks.gather(found["send"]))
    counted = ranks.gather(world.sync.report()["megabytes_sent"])
    payload = world.weights.nbytes
    weights = payload * (ranks.world_size - 1)  # all workers', less what stays on its rank
    requests = 16 * servers * (ranks.world_size - 1)
    expected = updates * (2 * weights + 2 * requests) + weights + requests  # a refresh is a pull
    assert everybody == expected, (everybody, expected)
    assert abs(sum(counted) * 1e6 - expected) < 1e-3, (counted, expected)
    with world.sync.agreed():
        pass


class Aged:
    """Gradients that say how old they are: weights count updates, a gradient carries the count it started from."""

    def __init__(self, ranks: Ranks, servers: int, staleness: int | None) -> None:
        self.world, self.ranks = asynchronous(ranks, servers, staleness, SGD), ranks
        self.sync = server_of(self.world)
        self.start = self.world.weights
        self.ages: Counter[int] = Counter()
        if self.sync.service is not None:
            part = self.sync.flat.parts[ranks.rank]
            held = self.sync.service.held.data.detach(), self.sync.service.held.grad
            begin, step = self.start[part], self.sync.service.clipped.step

            def listen(max_norm: float, norm: torch.Tensor | None = None) -> torch.Tensor:
                self.ages[round(float(held[0][0] - begin[0] + held[1][1]))] += 1
                return step(max_norm, norm)

            self.sync.service.clipped.step = listen  # type: ignore[method-assign]

    def run(self, updates: int, slowest: float) -> Aged:
        weights = self.sync.flat.data.detach()
        delays, obs = random.Random(self.ranks.rank), torch.zeros(1, 6, dtype=torch.float64)
        slow = slowest if self.ranks.rank == self.ranks.world_size - 1 else slowest / 8
        for _ in range(updates):
            self.world.learner.net(obs)  # where an update begins
            time.sleep(delays.random() * slow)
            for part in self.sync.flat.parts:
                count = weights[part][0] - self.start[part][0]
                self.sync.flat.grad[part] = 0
                self.sync.flat.grad[part][0] = -1
                self.sync.flat.grad[part][1] = -count
            self.sync.set_lr(1.0)
            self.sync.step(float("inf"))
            time.sleep(delays.random() * slow / 4)
        with self.sync.agreed():
            made = self.world.weights - self.start
            assert all(made[part][0] == updates * self.ranks.world_size for part in self.sync.flat.parts), "each once"
        return self


def ages(ranks: Ranks, servers: int, staleness: int | None) -> dict[str, Any]:
    """Return what was measured, what the server accounts for, and what it reports."""
    updates = 30
    found = Aged(ranks, servers, staleness).run(updates, slowest=0.016)
    service = found.sync.service
    accounts = ranks.gather(service.ages.seen if service is not None else Counter())
    measured = ranks.gather(found.ages)
    assert measured == accounts, "the account is true"
    assert all(sum(ages.values()) == updates * ranks.world_size for ages in measured[:servers])
    reports = ranks.gather(found.sync.report())
    ours = [{k: v for k, v in report.items() if k != "megabytes_sent"} for report in reports]
    assert all(report == ours[0] for report in ours), "the same on every rank"
    assert found.sync.report()["staleness_max"] == 0, "nothing new since"
    return {"measured": sum(measured, Counter()), "report": ours[0]}


def taking_turns(ranks: Ranks) -> None:
    """With bound 0 the outcome is that of one process that does the same updates in the order of arrival."""
    world = asynchronous(ranks, 1, 0, clipped(ADAM))
    service, order = server_of(world).service, []
    start = world.weights
    if service is not None:
        push = service.push
        service.push = lambda worker, *rest: (order.append(worker), push(worker, *rest))[1]  # type: ignore[method-assign, func-returns-value]
    for number in range(10):
        world.learner.update(mine(joined(number), ranks), LR)
    norms = ranks.gather(world.learner.drain()["grad_norm"])
    with world.sync.agreed():
        outcome = world.weights
    order = ranks.gather(order)[0]
    alone = replace(ranks, rank=0, world_size=1)
    twin = World(alone, SyncConfig(kind="flat"), clipped(ADAM))
    twin.sync.flat.data.data.copy_(start)
    twin.sync.target.data.data.copy_(world.sync.target.data)
    at = Counter[int]()
    for worker in order:
        twin.learner.update(mine(joined(at[worker]), replace(ranks, rank=worker)), LR)
        expected = twin.learner.drain()["grad_norm"][0]
        assert abs(norms[worker][at[worker]] - expected) < 1e-12
        at[worker] += 1
    assert at == {rank: 10 for rank in range(ranks.world_size)}
    torch.testing.assert_close(outcome, twin.weights, rtol=0, atol=1e-12)


def meetings(ranks: Ranks, servers: int) -> None:
    """In `agreed` all hold the servers' weights; a stored state continues elsewhere, and with another strategy."""
    world = asynchronous(ranks, servers)
    for number in range(6):
        world.learner.update(mine(joined(number), ranks), LR)
    own = server_of(world).gather(torch.tensor([float(ranks.rank)]))
    assert own.tolist() == [[ranks.rank]], "one's own numbers alone"
    with world.sync.agreed():
        everyones = world.everyones
        assert all(torch.equal(row, everyones[0]) for row in everyones)
        held = [None if (s := server_of(world).service) is None else s.held.data.detach()][0]
        assert torch.equal(torch.cat([part for part in ranks.gather(held) if part is not None]), everyones[0])
        state, weights = world.sync.state_dict(), world.weights
    assert state["optimizer"]["all"]["exp_avg"].shape == weights.shape
    assert int(state["optimizer"]["all"]["step"]) == 6 * ranks.world_size, "each worker's gradient is a step"
    assert all(
        torch.equal(s["optimizer"]["all"]["exp_avg"], state["optimizer"]["all"]["exp_avg"]) for s in ranks.gather(state)
    )
    world.sync.refresh(1.0)  # a server opens again with its own rank's first request
    torch.testing.assert_close(world.sync.target.data.detach(), weights, rtol=0, atol=0)
    if ranks.rank == ranks.world_size - 1:  # nobody waits for anybody
        world.learner.update(mine(joined(6), ranks), LR)
        world.sync.refresh(1.0)  # the answer comes after the update
    ranks.gather(None)
    world.sync.refresh(1.0)
    with world.sync.agreed():
        assert not torch.equal(world.weights, weights)
        assert torch.equal(world.sync.target.data, world.weights), "the servers' weights, not one's own"

    other = asynchronous(ranks, ranks.world_size)
    other.sync.load_state_dict(state)
    other.sync.flat.data.data.copy_(weights)
    other.sync.load_own_state(world.sync.own_state())
    with other.sync.agreed():
        assert torch.equal(other.weights, weights)
        again = other.sync.state_dict()["optimizer"]["all"]
    assert all(torch.equal(again[name], value) for name, value in state["optimizer"]["all"].items())
    assert torch.equal(other.sync.target.data, world.sync.target.data)
    World(ranks, SyncConfig(kind="flat")).sync.load_state_dict(state)
    with world.sync.agreed():  # a server that is left without a meeting would miss its workers
        pass


def outcomes(ranks: Ranks) -> dict[str, Any]:
    counts = sorted({1, 2, ranks.world_size})
    found = {f"servers {servers}": lockstep(ranks, "server", servers) for servers in counts}
    for servers in counts:
        bytes_in_lockstep(ranks, servers)
        bytes_at_any_pace(ranks, servers)
        meetings(ranks, servers)
    taking_turns(ranks)
    found["ages"] = {(servers, bound): ages(ranks, servers, bound) for servers in (1, 2) for bound in (0, 1, 3, None)}
    return found


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 60.0) as group:
        stored = outcomes(group)
        if group.rank == 0:
            torch.save(stored, Path(sys.argv[1]))
