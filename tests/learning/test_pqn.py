"""PQN learns CartPole to the end of its episodes, without replay memory or target network."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_learns import evaluation


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_cartpole(tmp_path: Path) -> None:
    assert evaluation(["train", "pqn-cartpole"], tmp_path, deadline=1400)["mean"] >= 475
