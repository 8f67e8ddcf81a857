"""Run under torchrun by test_zero1: learning with partitioned optimizer state; rank 0 stores the outcome."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from strategy_world import ADAM, CPU, RMSPROP, SGD, World, clipped
from tapped import tapped
from torch import Tensor

from trainer.config import OptimConfig, SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import Ranks, process_group
from trainer.sync import Wire
from trainer.types import State

UPDATES = 20
LEVELS = ("torso.layers.0=rmsprop,lr=0.5,every=3", "head=sgd,lr=2,every=2")
OPTIMS = {
    "adam": ADAM,
    "clipped": clipped(ADAM),
    "rmsprop": replace(RMSPROP, rms_momentum=0.9),
    "sgd": SGD,
    "adagrad": replace(ADAM, kind="adagrad"),
    "adadelta": replace(ADAM, kind="adadelta", lr=1.0),
    "radam": replace(ADAM, kind="radam"),
    "levels": replace(clipped(ADAM), levels=LEVELS),
}


def world(kind: Any, optim: OptimConfig, ranks: Ranks) -> World:
    return World(ranks, SyncConfig(kind=kind), optim)


def outcome(kind: Any, optim: OptimConfig, ranks: Ranks) -> State:
    """What one process must reach as well: both networks, the norms, and the checkpoint."""
    w = world(kind, optim, ranks).run(UPDATES)
    assert int(w.sync.diverged()) == 0, w.sync.blame()
    norms = torch.tensor(w.learner.drain()["grad_norm"], dtype=torch.float64)
    found = {"net": w.weights, "target": w.sync.target.data.detach().clone(), "norms": norms}
    found |= {"state": copy.deepcopy(w.sync.state_dict())}
    everyone = [flatten(theirs) for theirs in ranks.gather(found)]
    for theirs in everyone[1:]:
        assert theirs.keys() == everyone[0].keys()
        assert all(torch.equal(theirs[k], everyone[0][k]) for k in theirs), "bitwise"
    return found


def flatten(state: State, name: str = "") -> dict[str, Tensor]:
    """Every leaf by its path, as a tensor."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        path = f"{name}/{key}"
        found |= flatten(value, path) if isinstance(value, dict) else {path: torch.as_tensor(value)}
    return found


def outcomes(kind: Any, ranks: Ranks) -> dict[str, State]:
    return {name: outcome(kind, optim, ranks) for name, optim in OPTIMS.items()}


def same_as_flat(ranks: Ranks) -> None:
    """A sum of two ranks has no order, so without the clip (whose norm is summed in parts) not one bit differs."""
    if ranks.world_size == 2:
        for name in ("adam", "rmsprop", "sgd"):
            weights = [world(kind, OPTIMS[name], ranks).run(UPDATES).weights for kind in ("flat", "zero1")]
            assert torch.equal(*weights), name


def memory(ranks: Ranks) -> None:
    """Each rank holds the moments of its part alone, after a resume as well."""
    w = world("zero1", ADAM, ranks).run(3)
    resumed = world("zero1", ADAM, ranks)
    resumed.sync.load_state_dict(w.sync.state_dict())
    total, each = w.sync.flat.data.numel(), w.sync.flat.each
    assert each * ranks.world_size < total + 16 * ranks.world_size
    for one in (w, resumed):
        states = [s._optimizer.state[s._held] for s in one.sync.clipped.stretches]
        long = [v for state in states for v in state.values() if v.dim()]
        kept = sum(v.untyped_storage().nbytes() for v in long) // 8
        assert kept <= 2 * each
        assert sum(ranks.gather(kept)) == 2 * total


def moves(ranks: Ranks) -> None:
    """A checkpoint moves to flat and back without a difference."""
    for name in ("levels", "rmsprop"):
        whole = world("zero1", OPTIMS[name], ranks).run(12).weights
        for first, second, atol in (("zero1", "zero1", 0.0), ("zero1", "flat", 1e-12), ("flat", "zero1", 1e-12)):
            old = world(first, OPTIMS[name], ranks).run(7)
            new = world(second, OPTIMS[name], ranks)
            for part in ("net", "target_net", "sync"):
                getattr(new, part).load_state_dict(copy.deepcopy(getattr(old, part).state_dict()))
            new.run(5, first=7)
            torch.testing.assert_close(new.weights, whole, rtol=0, atol=atol, msg=f"{name}: {first} to {second}")


def counted(ranks: Ranks) -> None:
    """What was handed to torch.distributed is what the wire counts, and what the formulas say."""
    p = ranks.world_size
    w = world("zero1", ADAM, ranks)
    size = w.sync.flat.whole.nbytes
    for nccl, times in ((False, 3), (True, 2)):  # gloo has no reduce-scatter; NCCL's path, which has a twin on gloo
        with pytest.MonkeyPatch.context() as patch, tapped() as tap:
            patch.setattr(Wire, "_by_nccl", lambda self, values, nccl=nccl: nccl)
            before = w.sync.wire.sent
            w.run(5)
        assert tap.bytes == pytest.approx(5 * (times * size + 8 * p) * (p - 1) / p)
        assert w.sync.wire.sent - before == pytest.approx(tap.bytes)
        first = "reduce_scatter_single" if nccl else "all_reduce"
        assert tap.calls == [first, "all_gather", "all_gather_single"] * 5
    megabytes = w.sync.report()["megabytes_sent"]
    assert megabytes == pytest.approx(w.sync.wire.sent / 1e6)


def scattered(ranks: Ranks) -> None:
    """Reduce-scatter, which NCCL has, gives the numbers of all-reduce."""
    plain = world("zero1", OPTIMS["clipped"], ranks).run(UPDATES).weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wire, "_by_nccl", lambda self, values: True)
        w = world("zero1", OPTIMS["clipped"], ranks).run(UPDATES)
    assert int(w.sync.diverged()) == 0
    torch.testing.assert_close(w.weights, plain, rtol=0, atol=1e-12)


if __name__ == "__main__":
    with process_group(CPU, Launch.read(), 30.0) as group:
        found = outcomes("zero1", group)
        for check in (same_as_flat, memory, moves, counted, scattered):
            check(group)
        if group.rank == 0:
            torch.save(found, Path(sys.argv[1]))
