"""Exchanges through memory that ranks of one machine share: equal to gloo's, bounded in time, and never half used."""

from __future__ import annotations

from pathlib import Path

import pytest
import shared_ranks
from launching import run


@pytest.mark.parametrize("ranks", [2, 3])
def test_shared_memory_stands_for_gloo(ranks: int, tmp_path: Path) -> None:
    run([shared_ranks.__file__, str(tmp_path)], tmp_path, ranks=ranks, launcher="torchrun", deadline=90)
