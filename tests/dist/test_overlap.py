"""Gradients exactly one update old on two and four ranks: delayed SGD, written by hand, on the joined batch."""

from __future__ import annotations

from pathlib import Path

import overlap_ranks
import pytest
import torch
from launching import run

from trainer.runtime.launched import Launch
from trainer.runtime.ranks import process_group


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_ranks_are_one_update_late_and_no_more(ranks: int, tmp_path: Path) -> None:
    stored = tmp_path / "outcomes.pt"
    run([overlap_ranks.__file__, str(stored)], tmp_path, ranks=ranks, deadline=90)
    theirs = torch.load(stored)
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as alone:
        ours = {name: overlap_ranks.by_hand(optim, alone) for name, optim in overlap_ranks.OPTIMS.items()}
    for case, found in ours.items():
        for name, value in found.items():
            torch.testing.assert_close(theirs[case][name], value, rtol=0, atol=1e-12, msg=f"{case}: {name}")
    clipped = ours["clipped"]["norms"][1:]
    assert clipped.min() < 0.2 < clipped.max(), "both sides of the clip"
    assert theirs["sgd"]["norms"][0] == 0


def test_alone_nothing_is_late() -> None:
    with process_group(torch.device("cpu"), Launch(0, 0, 1, 1, False), 30.0) as alone:
        overlap_ranks.apart_alone(alone)
