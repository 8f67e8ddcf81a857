"""A killed rank ends runs whose ranks meet rarely, or two at a time, as soon and as clearly as any other."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_failures import fails

RARELY = ("--sync.kind", "local_sgd", "--sync.period", "100000")
GOSSIP = ("--sync.kind", "gossip")


@pytest.mark.parametrize("more", [pytest.param(more, marks=pytest.mark.slow) for more in (RARELY, GOSSIP)], ids=["local_sgd", "gossip"])
def test_a_killed_rank(more: tuple[str, ...], tmp_path: Path) -> None:
    program = fails("Killed", tmp_path, "spawn", *more)
    assert "rank 1 failed first" in program.lines[-1], program.output
    assert "Signal 9 (SIGKILL)" in program.lines[-1], program.output
