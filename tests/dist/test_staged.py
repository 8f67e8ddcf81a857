"""A network cut by layers over ranks equals the whole one in one process, in float64; a fault in one part ends all."""

from __future__ import annotations

from pathlib import Path

import pytest
import staged_ranks
import torch
from launching import run
from test_failures import fails

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_stages_equal_one_process_with_the_whole_network(ranks: int, tmp_path: Path) -> None:
    stored = tmp_path / "outcomes.pt"
    run([staged_ranks.__file__, str(stored)], tmp_path, ranks=ranks, deadline=150)
    theirs = torch.load(stored)
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as alone:
        ours = staged_ranks.outcomes(alone)
    assert set(theirs) == (set(ours) if ranks == 4 else {name for name in ours if "four" not in name})
    clipped = ours["clipped"]["/norms"]
    assert clipped.min() < 0.2 < clipped.max(), "both sides of the clip"
    for case, found in theirs.items():
        assert list(found) == list(ours[case]), "one format"
        for name, value in found.items():
            torch.testing.assert_close(value, ours[case][name], rtol=0, atol=1e-12, msg=f"{case}: {name}")


@pytest.mark.slow
def test_a_killed_rank(tmp_path: Path) -> None:
    program = fails("Killed", tmp_path, "spawn", "--sync.stages", "2")
    assert "rank 1 failed first" in program.lines[-1], program.output
    assert "Signal 9 (SIGKILL)" in program.lines[-1], program.output


@pytest.mark.slow
def test_environments_that_differ_within_a_replica(tmp_path: Path) -> None:
    program = fails("Stray", tmp_path, "spawn", "--sync.stages", "2")
    assert "replicas differ at step" in program.lines[-1], program.output
    assert "rank 0 learned from other batches than rank 1 in" in program.lines[-1], program.output
