"""Equal replicas whose state is partitioned or late: resumed bit for bit, and on other ranks with the same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from launching import QUIET, checkpoints, run
from test_resume import assert_same_checkpoint, outcome, stored
from test_resume_differing import rows

COMMON = (
    *("train", "debug", "--shards", "4", "--runtime.dtype", "float64", "--log.every", "300", "--eval.episodes", "8"),
    *("--total_env_steps", "2400", "--checkpoint.every", "1200", "--optim.levels", "head=rmsprop,lr=0.5,every=3"),
)
# kind -> the kind and the number of ranks that continue with the same numbers
RUNS = {"zero1": ("flat", 1), "overlap": ("overlap", 4)}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", RUNS)
def test_resumed_equals_uninterrupted(kind: str, tmp_path: Path) -> None:
    flags = [*COMMON, "--sync.kind", kind, *QUIET, "--log.dir", str(tmp_path), "--log.name", "whole"]
    run(flags, tmp_path, ranks=2, deadline=90)
    whole, other, moved = tmp_path / "whole", tmp_path / "other", tmp_path / "moved"
    half, end = checkpoints(whole)
    names = list(stored(half)[0])
    assert any(name.endswith("/sync/pending") for name in names) == (kind == "overlap")
    assert any(name.endswith("/sync/optimizer/head/waiting") for name in names), names
    for copy in (other, moved):
        shutil.copytree(whole, copy)
        shutil.rmtree(copy / "checkpoints" / end.name)
        (copy / "results.json").unlink()
    said = run(["train", "--resume", str(other)], tmp_path, ranks=2, deadline=90).output
    assert "resumed at 1,200 env steps" in said
    assert_same_checkpoint(end, checkpoints(other)[-1])
    assert rows(whole) == rows(other)
    assert outcome(whole) == outcome(other)
    assert outcome(whole)["updates"] > 100
    second, ranks = RUNS[kind]
    run(["train", "--resume", str(moved), "--sync.kind", second], tmp_path, ranks=ranks, deadline=90)
    reached = stored(checkpoints(moved)[-1])[0]
    assert list(reached) == list(stored(end)[0]), "one format"
    assert_same_checkpoint(end, checkpoints(moved)[-1], atol=1e-10)
    assert outcome(whole) == outcome(moved)
