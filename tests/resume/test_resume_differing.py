"""Replicas that differ between exchanges: saved and resumed on as many ranks bit for bit; on others, from the mean."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import QUIET, checkpoints, metrics, run
from test_resume import assert_same_checkpoint, outcome, stored

COMMON = (
    *("train", "debug", "--env.num_envs", "6", "--replay.batch_size", "66", "--replay.update_every", "6"),
    *("--log.every", "300", "--total_env_steps", "2400", "--checkpoint.every", "1200", "--eval.episodes", "6"),
)
RUNS: dict[str, tuple[int, tuple[str, ...]]] = {
    "local_sgd": (
        2,
        (
            *("--sync.kind", "local_sgd", "--sync.period", "10", "--sync.local_after", "50"),
            *("--sync.outer_lr", "0.7", "--sync.outer_momentum", "0.9"),
        ),
    ),
    "gossip": (3, ("--sync.kind", "gossip", "--sync.topology", "ring", "--target.tau", "0.3")),
}


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """What was logged, less the bytes: a save and a start have some of their own."""
    return [{k: v for k, v in row.items() if not k.startswith("sync/megabytes_sent")} for row in metrics(run_dir)]


def own_weights(checkpoint: Path) -> list[torch.Tensor]:
    return [tensor for name, tensor in stored(checkpoint)[0].items() if name.endswith("/sync/state/weights")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["local_sgd", pytest.param("gossip", marks=pytest.mark.slow)])
def test_resumed_equals_uninterrupted(kind: str, tmp_path: Path) -> None:
    ranks, flags = RUNS[kind]
    run(
        [*COMMON, *flags, *QUIET, "--log.dir", str(tmp_path), "--log.name", "whole"], tmp_path, ranks=ranks, deadline=90
    )
    whole, other, moved = tmp_path / "whole", tmp_path / "other", tmp_path / "moved"
    half, end = checkpoints(whole)
    apart = own_weights(half)
    assert len(apart) == ranks
    assert not torch.equal(apart[0], apart[1]), "saved between two averagings"
    for copy in (other, moved):
        shutil.copytree(whole, copy)
        shutil.rmtree(copy / "checkpoints" / end.name)
        (copy / "results.json").unlink()
    said = run(["train", "--resume", str(other)], tmp_path, ranks=ranks, deadline=90).output
    assert "resumed at 1,200 env steps" in said
    assert "all replicas continue from what those agreed on" not in said
    assert_same_checkpoint(end, checkpoints(other)[-1])
    assert rows(whole) == rows(other)
    assert outcome(whole) == outcome(other)
    assert outcome(whole)["updates"] > 100
    said = run(["train", "--resume", str(moved)], tmp_path, ranks=1, deadline=90).output
    assert f"{ranks} ranks by {kind}: all replicas continue from what those agreed on" in said
    assert outcome(moved)["updates"] == outcome(whole)["updates"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_agreed_state_starts_another_kind(tmp_path: Path) -> None:
    """From gossip to plain all-reduce and on to local SGD: the moments of one carry over to the next."""
    at = (*QUIET, "--log.dir", str(tmp_path), "--log.name", "run")
    run([*COMMON, "--sync.kind", "gossip", *at, "--total_env_steps", "1200"], tmp_path, ranks=2, deadline=90)
    run_dir = tmp_path / "run"
    for kind, until in (("flat", "1800"), ("local_sgd", "2400")):
        resume = ["train", "--resume", str(run_dir), "--total_env_steps", until, "--sync.kind", kind]
        run(resume, tmp_path, ranks=2, deadline=90)
    assert outcome(run_dir)["updates"] == (2400 - 500) // 6
