"""Every member of the family in float64: one rank and two are the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import world
from launching import run as run_program
from members import MEMBERS, SLOW


@pytest.fixture(scope="module")
def worlds(library: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("worlds")
    outs = [folder / f"{ranks}.pt" for ranks in (1, 2)]
    for ranks, out in zip((1, 2), outs, strict=True):
        run_program([world.__file__, str(out), str(library)], folder, ranks=ranks, deadline=540)
    return [torch.load(out) for out in outs]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("member", MEMBERS | SLOW)
def test_same_on_two_ranks(member: str, worlds: list[dict[str, dict[str, torch.Tensor]]]) -> None:
    one, two = (found[member] for found in worlds)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-10, msg=name)
