"""Run under torchrun by test_staged: learning with networks cut by layers; rank 0 stores the outcome."""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from strategy_world import ADAM, BATCH, CPU, RMSPROP, World, clipped, joined, mine
from tapped import tapped
from torch import Tensor, nn

from trainer.build import build_net, stages
from trainer.config import Config, NetConfig, OptimConfig, RuntimeConfig, SyncConfig
from trainer.envs import EnvSpec
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.runtime.spans import Spans
from trainer.types import QOut, Rates, State

UPDATES = 20
DEEP = (9, 7, 6, 5)


class Case(NamedTuple):
    optim: OptimConfig = ADAM
    stages: int = 2
    microbatches: int = 1
    hidden: tuple[int, ...] = (9, 5)


CASES = {
    "adam": Case(),
    "clipped": Case(clipped(ADAM)),
    "rmsprop": Case(replace(RMSPROP, rms_momentum=0.9)),
    "microbatches": Case(clipped(ADAM), microbatches=4),
    "deep": Case(clipped(ADAM), hidden=DEEP),
    "four stages": Case(clipped(ADAM), stages=4, hidden=DEEP),
    "four stages, microbatches": Case(clipped(ADAM), stages=4, microbatches=4, hidden=DEEP),
}


def world(case: Case, ranks: Ranks) -> World:
    """The learner of a case; alone, the network is whole."""
    alone = ranks.world_size == 1
    sync = SyncConfig() if alone else SyncConfig(stages=case.stages, microbatches=case.microbatches)
    return World(ranks, sync, case.optim, case.hidden)


def saved(w: World, ranks: Ranks) -> State:
    """What a checkpoint would hold, from the rank that writes it."""
    parts = {"net": stages.weights_of(w.net, meeting(w)), "target_net": stages.weights_of(w.target_net, meeting(w))}
    found = {"sync": w.sync.state_dict(), **{name: part.state_dict() for name, part in parts.items()}}
    first: State = ranks.gather(copy.deepcopy(found))[0]
    return first


def restore(w: World, state: State) -> None:
    w.sync.load_state_dict(copy.deepcopy(state["sync"]))
    for name, net in (("net", w.net), ("target_net", w.target_net)):
        stages.weights_of(net, meeting(w)).load_state_dict(state[name])


def meeting(w: World) -> Any:
    """Whom its ranks meet, as `build_run` would have kept it; only the handoff is used."""
    return w.sync if hasattr(w.sync, "handoff") else None


def outcome(case: Case, ranks: Ranks) -> State:
    """What one process must reach as well: both networks, the norms, and the moments."""
    w = world(case, ranks).run(UPDATES)
    assert int(w.sync.diverged()) == 0, w.sync.blame()
    metrics = w.learner.drain()
    everyone = ranks.gather((metrics["grad_norm"], metrics["q_values"]))
    per = case.stages if ranks.world_size > 1 else 1
    for i, theirs in enumerate(everyone):
        assert theirs == everyone[i // per * per], "a replica says the same on all its ranks"
    copies = ranks.gather((w.weights, w.sync.target.data.detach().clone()))
    for i, theirs in enumerate(copies):
        assert all(torch.equal(a, b) for a, b in zip(theirs, copies[i % per], strict=True)), "replicas are equal"
    return saved(w, ranks) | {"norms": torch.tensor(metrics["grad_norm"], dtype=torch.float64)}


def flatten(state: State, name: str = "") -> dict[str, Tensor]:
    """Every leaf by its path, as a tensor."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        path = f"{name}/{key}"
        found |= flatten(value, path) if isinstance(value, dict) else {path: torch.as_tensor(value)}
    return found


def outcomes(ranks: Ranks) -> dict[str, dict[str, Tensor]]:
    fits = {name: case for name, case in CASES.items() if ranks.world_size in (1, 4) or case.stages == 2}
    return {name: flatten(outcome(case, ranks)) for name, case in fits.items()}


IMAGE, VECTOR = (2, 10, 10), (6,)
NETWORKS: dict[str, tuple[tuple[int, ...], NetConfig]] = {
    "dueling": (VECTOR, NetConfig(hidden=(9, 5), dueling=True, head_hidden=(4,), norm="layer")),
    "two layers": (VECTOR, NetConfig(hidden=(7,))),
    "c51": (VECTOR, NetConfig(hidden=(9, 5), head="c51", atoms=11, v_min=-1, v_max=1)),
    "qr": (VECTOR, NetConfig(hidden=(9, 5), head="qr", quantiles=7)),
    "minatar": (IMAGE, NetConfig(hidden=(8,))),
    "impala": (IMAGE, NetConfig(hidden=(8,), torso="impala", pool=2, norm="layer")),
    "spectral": (IMAGE, NetConfig(hidden=(8,), torso="impala", spectral_norm=True)),
}


def spec(shape: tuple[int, ...]) -> EnvSpec:
    return EnvSpec("toy", shape, torch.uint8 if shape == IMAGE else torch.float32, 3, 1, "repeat", True)


def networks(ranks: Ranks) -> None:
    """Every rank receives the whole network's output, and its own layers get their gradients from it."""
    sync = SyncConfig(stages=2)
    for name, (shape, net) in NETWORKS.items():
        for parts in (1, 3):
            if name == "spectral" and parts > 1:
                continue
            config = Config(net=net, sync=replace(sync, microbatches=parts), runtime=RuntimeConfig(dtype="float64"))
            whole = build_net(config, spec(shape), CPU)
            share = stages.build_share(config, spec(shape), CPU, stages.meet_stages(config, ranks, Spans()))
            g = torch.Generator().manual_seed(1)
            obs = torch.randint(0, 255, (7, *shape), generator=g).to(spec(shape).obs_dtype)
            with torch.no_grad():
                same(share(obs), whole(obs), name)
            outs: list[QOut] = [net(obs) for net in (share, whole)]
            same(*outs, name)
            for out in outs:
                said = [field for field in out if field is not None and field.requires_grad]
                g.manual_seed(2)
                sum((f * torch.rand(f.shape, generator=g, dtype=f.dtype)).sum() for f in said).backward()
            theirs = dict(whole.named_parameters())
            for path, parameter in share.named_parameters():
                torch.testing.assert_close(parameter.grad, theirs[path].grad, rtol=0, atol=1e-12, msg=f"{name}: {path}")
                torch.testing.assert_close(parameter, theirs[path], rtol=0, atol=1e-12, msg=f"{name}: {path}")
            first, second = ranks.gather([path for path, _ in share.named_parameters()])[:2]
            assert first + second == list(theirs), "every parameter on one rank of a replica, in order"


def same(found: QOut, wanted: QOut, name: str) -> None:
    for field, theirs in wanted._asdict().items():
        ours = getattr(found, field)
        assert (ours is None) == (theirs is None), f"{name}: {field}"
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12, msg=f"{name}: {field}")


def memory(ranks: Ranks) -> None:
    """A rank has its share of weights, gradients, target and moments; nothing is left of the other layers."""
    made: list[weakref.ref[nn.Parameter]] = []

    def build_and_note(*arguments: Any) -> Any:
        net = build_net(*arguments)
        made.extend(weakref.ref(parameter) for parameter in net.parameters())
        return net

    case = CASES["deep"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "build_net", build_and_note)
        w = world(case, ranks).run(3)
    gc.collect()
    total = sum(p.numel() for p in build_net(w.config, spec(VECTOR), CPU).parameters())
    (held,) = (s._optimizer.state[s._held] for s in w.sync.clipped.stretches)
    moments = sum(value.numel() for value in held.values() if value.dim())
    mine = w.sync.flat.data.numel()
    alive = sum(parameter.numel() for ref in made if (parameter := ref()) is not None)
    assert alive == 2 * mine, "online and target"
    buffers = (w.sync.flat.data, w.sync.flat.grad, w.sync.target.data)
    assert [buffer.untyped_storage().nbytes() for buffer in buffers] == [8 * mine] * 3
    assert moments == 2 * mine
    shares = ranks.gather(mine)
    assert sum(shares[:2]) == total
    assert max(shares) < 0.6 * total, shares


def moves(ranks: Ranks) -> None:
    """A checkpoint resumes with the network cut or whole, without a difference."""
    cut, whole = CASES["clipped"], Case(clipped(ADAM), stages=1)
    end = saved(world(cut, ranks).run(12), ranks)
    for first, second, atol in ((cut, cut, 0.0), (cut, whole, 1e-12), (whole, cut, 1e-12)):
        state = saved(world(first, ranks).run(7), ranks)
        new = world(second, ranks)
        restore(new, state)
        reached, wanted = flatten(saved(new.run(5, first=7), ranks)), flatten(end)
        assert list(reached) == list(wanted), "one format"
        for name, value in wanted.items():
            torch.testing.assert_close(reached[name], value, rtol=0, atol=atol, msg=name)


def counted(ranks: Ranks) -> None:
    """What was handed to torch.distributed is what the wires count, and what the formulas say."""
    for parts in (1, 4):
        w = world(CASES["adam"]._replace(microbatches=parts), ranks)
        within, across = w.sync.handoff.wire, w.sync.wire  # type: ignore[attr-defined]
        replicas, before = ranks.world_size // 2, within.sent + across.sent
        with tapped() as tap:
            w.run(5)
        rows = BATCH // replicas
        assert w.sync.flat.data.numel() == [6 * 9 + 9, 9 * 5 + 5 + 5 * 3 + 3][ranks.rank % 2]
        passed = 8 * rows * 9  # after the first layer
        forward, backward = [(passed, 0), (0, passed)][ranks.rank % 2]
        outputs, norms = 8 * rows * 3 / 2, 2 * 24 / 2
        gradient = 2 * w.sync.flat.data.nbytes * (replicas - 1) / replicas
        assert tap.bytes == pytest.approx(5 * (3 * (forward + outputs) + backward + norms + gradient))
        assert within.sent + across.sent - before == pytest.approx(tap.bytes)
        report = w.sync.report()
        assert report["megabytes_sent"] == pytest.approx(across.sent / 1e6)
        assert report["megabytes_sent_in_replica"] == pytest.approx(within.sent / 1e6)


def faults(ranks: Ranks) -> None:
    """A different batch on one rank of a replica is found; so is a changed weight, if there is a replica to compare."""
    last = ranks.world_size - 1
    w = world(CASES["adam"], ranks).run(3)
    batch = mine(joined(3), ranks, 2)
    if ranks.rank == last - 1:
        batch = batch._replace(ret=batch.ret + 0.1)
    w.learner.update(batch, Rates(lr=1e-3))
    w.run(2, first=4)
    assert sum(ranks.gather(int(w.sync.diverged()))) == 2, "on both ranks of that replica"
    told = ranks.gather(w.sync.blame())
    assert set(told) == {told[0]}
    assert told[0].startswith(f"rank {last - 1} learned from other batches than rank {last} in 1 update(s)"), told[0]
    if ranks.world_size > 2:
        w = world(CASES["adam"], ranks).run(3)
        if ranks.rank == last:
            w.sync.flat.data.data[-1] += 1e-3
        w.sync.refresh(1.0)
        told = ranks.gather(w.sync.blame())
        where = "head.outputs.advantage.0.bias (1 of 68 elements)"
        assert told == [f"rank 3 differs from rank 1 in {where}"] * 4
        assert [value > 0 for value in ranks.gather(int(w.sync.diverged()))] == [False, False, False, True]


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        found = outcomes(group)
        for check in (networks, memory, moves, counted, faults):
            check(group)
        if group.rank == 0:
            torch.save(found, Path(sys.argv[1]))
