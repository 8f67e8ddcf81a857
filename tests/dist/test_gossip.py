"""Gossip on two, three and four ranks equals one process that plays them by hand; fixed values reach their mean."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gossip_ranks
import pytest
import torch
from gossip_ranks import CASES, UPDATES
from launching import run
from torch import Tensor
from workers import Workers

from trainer.sync.gossip import exponential, ring


def by_hand(name: str, count: int) -> dict[str, Tensor]:
    """Push-sum by matrices: column j says whom worker j sends what it has (Assran et al. 2019)."""
    sync, optim, heavy = CASES[name]
    workers = Workers(count, optim)
    mass = gossip_ranks.masses(SimpleNamespace(world_size=count)) if heavy else torch.ones(count, dtype=torch.float64)
    doubling = {2: [1], 3: [1, 2], 4: [1, 2]}[count]
    for number in range(UPDATES):
        before = workers.weights
        workers.update(number, among=1)
        x = before * mass[:, None] + (workers.weights - before)
        goes = (1, -1)[number % 2] if sync.topology == "ring" else doubling[number % len(doubling)]
        mixing = torch.zeros(count, count, dtype=torch.float64)
        for worker in range(count):
            mixing[worker, worker] += 0.5
            mixing[(worker + goes) % count, worker] += 0.5
        x, mass = mixing @ x, mixing @ mass
        workers.put(x / mass[:, None])
        workers.refresh(number, x.sum(0) / mass.sum())
    return {
        "weights": workers.weights,
        "target": torch.cat([p.flatten() for p in workers.target.parameters()]),
        "mass": mass,
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_equal_workers_played_by_hand(ranks: int, tmp_path: Path) -> None:
    stored = tmp_path / "outcomes.pt"
    run([gossip_ranks.__file__, str(stored)], tmp_path, ranks=ranks, deadline=240)
    theirs = torch.load(stored)
    assert set(theirs) == set(CASES)
    for case, found in theirs.items():
        for name, value in by_hand(case, ranks).items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12, msg=f"{case}: {name}")
        apart = float((found["weights"][0] - found["weights"][1]).abs().max())
        assert (apart > 1e-5) == (ranks > 2), "two ranks meet entirely in every exchange"


def test_everybody_is_met() -> None:
    """Distances whose sums reach every rank; a power of two needs each of them once."""
    assert [list(exponential(p)) for p in (1, 2, 3, 4, 5, 8)] == [[], [1], [1, 2], [1, 2], [1, 2, 4], [1, 2, 4]]
    assert list(ring()) == [1, -1]
