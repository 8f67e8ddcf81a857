"""Two ranks learn CartPole under every sync strategy, on the settings of the preset `cartpole` (slow)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import QUIET, run

LEARNED = 400
WAYS: dict[str, tuple[str, ...]] = {
    "zero1": ("--sync.kind", "zero1"),
    "overlap": ("--sync.kind", "overlap"),
    "levels": ("--optim.levels", "torso=rmsprop,every=2", "head=adam,lr=0.5", "--optim.eps", "1e-3"),
    "local_sgd": ("--sync.kind", "local_sgd"),
    "gossip": ("--sync.kind", "gossip"),
    "server": ("--sync.kind", "server", "--sync.servers", "2"),
    "server, asynchronous": ("--sync.kind", "server", "--sync.asynchronous", "True", "--sync.staleness", "3"),
    "int8": ("--sync.compress", "int8"),
    "topk": ("--sync.compress", "topk", "--sync.compress_share", "0.05"),
    "stages": ("--sync.stages", "2"),
    "powersgd": ("--sync.compress", "powersgd", "--sync.compress_rank", "2"),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
def test_learns_cartpole(way: str, tmp_path: Path) -> None:
    arguments = ["train", "cartpole", "--eval.every", "0", *WAYS[way], *QUIET]
    run([*arguments, "--log.dir", str(tmp_path), "--log.name", "run"], tmp_path, ranks=2, deadline=1700)
    found = json.loads((tmp_path / "run" / "results.json").read_text())["evaluation"]
    assert found["episodes"] == 100
    assert found["mean"] >= LEARNED
