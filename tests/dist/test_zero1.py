"""Optimizer state partitioned over two and four ranks: the numbers of one process, a rank's share of its moments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zero1_ranks
from launching import run

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])  # four parts of 48 elements: the third is short, the fourth empty
def test_ranks_equal_one_process_on_the_joined_batch(ranks: int, tmp_path: Path) -> None:
    stored = tmp_path / "outcomes.pt"
    run([zero1_ranks.__file__, str(stored)], tmp_path, ranks=ranks, deadline=90)
    theirs = torch.load(stored)
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as alone:
        ours = zero1_ranks.outcomes("flat", alone)
    assert set(theirs) == set(ours)
    for case, found in ours.items():
        expected, reached = zero1_ranks.flatten(found), zero1_ranks.flatten(theirs[case])
        assert list(reached) == list(expected), case
        for name, value in expected.items():
            torch.testing.assert_close(reached[name], value, rtol=0, atol=1e-12, msg=f"{case}: {name}")
    clipped = ours["clipped"]["norms"]
    assert clipped.min() < 0.2 < clipped.max(), "both sides of the clip"
    waiting = ours["levels"]["state"]["optimizer"]["torso.layers.0"]
    assert waiting["updates"] % 3 == 2, "saved within a period"
    assert waiting["waiting"].abs().sum() > 0
