"""A killed rank ends runs with partitioned optimizer state or gradients in flight as soon as any other."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_failures import fails


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in ("zero1", "overlap")])
def test_a_killed_rank(kind: str, tmp_path: Path) -> None:
    program = fails("Killed", tmp_path, "spawn", "--sync.kind", kind)
    assert "rank 1 failed first" in program.lines[-1], program.output
    assert "Signal 9 (SIGKILL)" in program.lines[-1], program.output


@pytest.mark.parametrize("kind", [pytest.param("zero1", marks=pytest.mark.slow), "overlap"])
def test_non_finite_loss_on_one_rank(kind: str, tmp_path: Path) -> None:
    """Late gradients do not hide it: the loss is that of the update itself."""
    program = fails("Walk", tmp_path, "spawn", "--sync.kind", kind, fault="loss:1:150:nan+")
    assert "non-finite loss on rank 1 at update " in program.lines[-1], program.output
