"""Two and four ranks on their slices equal one process on the joined batch, in float64."""

from __future__ import annotations

from pathlib import Path

import allreduce_ranks
import pytest
import torch
from launching import run

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_ranks_equal_one_process_on_the_joined_batch(ranks: int, tmp_path: Path) -> None:
    stored = tmp_path / "outcomes.pt"
    run([allreduce_ranks.__file__, str(stored)], tmp_path, ranks=ranks, deadline=90)
    theirs = torch.load(stored)
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as alone:
        ours = allreduce_ranks.outcomes(alone)
    assert set(theirs) == set(ours)
    clipped = ours["flat-clipped"]["norms"]
    assert clipped.min() < 0.2 < clipped.max(), "both sides of the clip"
    for case, found in ours.items():
        for name, value in found.items():
            torch.testing.assert_close(theirs[case][name], value, rtol=0, atol=1e-12, msg=f"{case}: {name}")
