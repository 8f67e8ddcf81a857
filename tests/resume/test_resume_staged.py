"""Runs whose network is cut by layers: resumed bit for bit, or with the network whole; and equal to one rank's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from launching import QUIET, checkpoints, metrics, run
from test_resume import assert_same_checkpoint, outcome, stored
from test_resume_differing import rows

COMMON = (
    *("train", "debug", "--shards", "2", "--runtime.dtype", "float64", "--log.every", "300", "--eval.episodes", "8"),
    *("--total_env_steps", "2400", "--checkpoint.every", "1200", "--optim.max_grad_norm", "0.5", "--target.tau", "0.5"),
    *("--replay.kind", "prioritized", "--loss.double", "True", "--replay.n_step", "3", "--net.dueling", "True"),
    *("--net.head", "qr", "--net.quantiles", "5"),
)
CUT, WHOLE = ("--sync.stages", "2"), ("--sync.stages", "1")


def at_half(whole: Path, copy: Path) -> list[str]:
    """A run folder as it was at its first checkpoint, and how to resume it."""
    shutil.copytree(whole, copy)
    shutil.rmtree(checkpoints(copy)[-1])
    (copy / "results.json").unlink()
    return ["train", "--resume", str(copy)]


def learned(run_dir: Path) -> list[tuple[float, float]]:
    """Updates and the mean return of the episodes that ended, row by row."""
    return [
        (row["charts/updates"], row.get("charts/episodic_return", 0.0))
        for row in metrics(run_dir)
        if "charts/updates" in row
    ]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_resumed_in_stages_or_whole(tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    to = [*QUIET, "--log.dir", str(tmp_path), "--log.name"]
    run([*COMMON, *CUT, *to, "cut"], tmp_path, ranks=2, deadline=120)
    run([*COMMON, *WHOLE, *to, "whole"], tmp_path, ranks=1, deadline=120)
    for one, other in zip(checkpoints(cut), checkpoints(whole), strict=True):
        assert list(stored(one)[0]) == list(stored(other)[0]), "one format"
        assert_same_checkpoint(one, other, atol=1e-10)
        returns = [stored(checkpoint)[1]["replicated.json"]["returns"] for checkpoint in (one, other)]
        assert returns[0] == returns[1], "each episode is told once"
    assert outcome(cut) == outcome(whole)
    assert outcome(cut)["updates"] > 100
    assert learned(cut) == learned(whole), "episodes are told once"

    again = tmp_path / "again"
    said = run(at_half(cut, again), tmp_path, ranks=2, deadline=120).output
    assert "resumed at 1,200 env steps" in said
    assert_same_checkpoint(checkpoints(cut)[-1], checkpoints(again)[-1])
    assert rows(cut) == rows(again)
    assert outcome(cut) == outcome(again)

    joined, parted = tmp_path / "joined", tmp_path / "parted"
    run([*at_half(cut, joined), *WHOLE], tmp_path, ranks=1, deadline=120)
    run([*at_half(whole, parted), *CUT], tmp_path, ranks=4, deadline=120)
    for moved in (joined, parted):
        assert_same_checkpoint(checkpoints(cut)[-1], checkpoints(moved)[-1], atol=1e-10)
        assert outcome(cut) == outcome(moved)
