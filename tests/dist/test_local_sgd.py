"""Local SGD on two and four ranks equals one process that plays them by hand; with a period of 1, all-reduce."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import local_sgd_ranks
import pytest
import torch
from launching import QUIET, metrics, run
from local_sgd_ranks import CASES, PLAIN, UPDATES
from strategy_world import CPU, World
from torch import Tensor
from workers import Workers

from trainer.build import check_nodes
from trainer.config import Config, ConfigError, SyncConfig
from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group


def by_hand(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the weights of all workers, [p, P], and the target's, [P]."""
    sync, optim = CASES[name]
    workers = Workers(count, optim)
    anchor, momentum = workers.weights[0], torch.zeros_like(workers.weights[0])
    for number in range(UPDATES):
        together = number < sync.local_after
        workers.update(number, among=count if together else 2 if sync.hierarchical else 1)
        local = number + 1 - sync.local_after
        if local <= 0:
            anchor = workers.weights[0]
        elif local % sync.period == 0:
            change = workers.weights.sum(0) / count - anchor
            momentum = sync.outer_momentum * momentum + change
            anchor = anchor + sync.outer_lr * (change + sync.outer_momentum * momentum)
            workers.put(anchor.expand_as(workers.weights))
        workers.refresh(number, workers.weights.sum(0) / count)
    return workers.weights, torch.cat([p.flatten() for p in workers.target.parameters()])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_ranks_equal_workers_played_by_hand(ranks: int, tmp_path: Path) -> None:
    stored = tmp_path / "outcomes.pt"
    run([local_sgd_ranks.__file__, str(stored)], tmp_path, ranks=ranks, deadline=240)
    theirs = torch.load(stored)
    assert set(theirs) == set(CASES)
    for name, found in theirs.items():
        weights, target = by_hand(name, ranks)
        torch.testing.assert_close(found["weights"], weights, rtol=0, atol=1e-12, msg=name)
        torch.testing.assert_close(found["target"], target, rtol=0, atol=1e-12, msg=name)
    with process_group(CPU, Launch(0, 0, 1, 1, False), 30.0) as alone:
        flat = World(alone, SyncConfig(kind="flat"), CASES["every"][1]).run(UPDATES)
    every = theirs["every"]["weights"]
    torch.testing.assert_close(every, flat.weights.expand_as(every), rtol=0, atol=1e-12, msg="all-reduce")
    torch.testing.assert_close(theirs["every"]["target"], flat.sync.target.data.detach(), rtol=0, atol=1e-12)
    norms = theirs["every, clipped"]["norms"]
    assert norms.shape == (ranks, UPDATES)
    assert norms.min() < 0.2 < norms.max(), "both sides of the clip"


def test_outer_options_that_mean_plain_averaging_are_exactly_that() -> None:
    with process_group(CPU, Launch(0, 0, 1, 1, False), 30.0) as alone:
        assert World(alone, PLAIN).sync.outer is None  # type: ignore[attr-defined]


def test_nodes_must_be_alike() -> None:
    config = Config(sync=replace(PLAIN, hierarchical=True))
    check_nodes(config, Launch(0, 0, 6, 2, True))
    check_nodes(Config(sync=PLAIN), Launch(0, 0, 6, 4, True))
    with pytest.raises(ConfigError, match=r"--sync.hierarchical True: this node has 4 of 6 ranks, .*; start the same"):
        check_nodes(config, Launch(0, 0, 6, 4, True))


def test_each_rank_its_own_task(tmp_path: Path) -> None:
    """Federated: rank 0 plays Catch, rank 1 Chain, each on its own updates; their mean is judged on both."""
    arguments = [
        *("train", "debug", "--env.tasks", "toy/Catch", "toy/Chain", "--shards", "2", "--total_env_steps", "2400"),
        *("--sync.kind", "local_sgd", "--sync.period", "8", "--eval.episodes", "8", "--log.every", "800"),
        *("--checkpoint.every", "0", "--log.dir", str(tmp_path), "--log.name", "run", *QUIET),
    ]
    run(arguments, tmp_path, ranks=2, deadline=90)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["tasks"]) == {"toy/Catch", "toy/Chain"}
    rows = [row for row in metrics(tmp_path / "run") if "charts/updates" in row]
    assert {f"charts/episodic_return/toy/{game}" for game in ("Catch", "Chain")} <= set().union(*rows)
    assert 0 < rows[-1]["sync/drift"] < 1, rows[-1]
