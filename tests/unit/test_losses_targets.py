"""SARSA and expected SARSA in the loss of DQN, against twins in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loss_twin import A, B, S, Values, chances, draw, make_batch

from trainer.losses import dqn
from trainer.schedules import Rates
from trainer.types import Batch

EPSILON = 0.3
CASES = [("max", False), ("max", True), ("expected", False), ("expected", True), ("sarsa", False)]


def nets(seed: int) -> tuple[Values, Values]:
    tables = [draw(seed + i, S, A) for i in range(2)]
    tables[0][0] = tables[1][0] = 1.0  # all actions tie
    tables[0][1] = torch.tensor([1.0, 2.0, 2.0, 0.0])
    return Values(tables[0]), Values(tables[1])


@pytest.mark.parametrize(("target", "double"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_target_is_the_value_of_the_stated_policy(seed: int, target: Any, double: bool) -> None:
    (net, target_net), batch = nets(seed), make_batch(seed)
    out = dqn(net, target_net, batch, Rates(epsilon=EPSILON), double=double, kind="mse", target=target)
    online, slow = net.table.numpy(force=True), target_net.table.numpy(force=True)
    assert batch.next_action is not None
    for b in range(B):
        after = int(batch.next_obs[b, 0])
        picks = online[after] if double else slow[after]
        policy = chances(picks, target, int(batch.next_action[b]), EPSILON)
        goal = float(batch.ret[b]) + float(batch.discount[b]) * sum(policy[a] * slow[after, a] for a in range(A))
        error = goal - online[int(batch.obs[b, 0]), int(batch.action[b])]
        np.testing.assert_allclose(out.loss[b].item(), error**2, rtol=0, atol=1e-12)
        np.testing.assert_allclose(out.priority[b].item(), abs(error), rtol=0, atol=1e-12)


def values(batch: Batch, target: Any, epsilon: float) -> torch.Tensor:
    net, target_net = nets(0)
    return dqn(net, target_net, batch, Rates(epsilon=epsilon), double=False, kind="mse", target=target).loss


def test_without_exploration_expecting_is_maximising() -> None:
    batch = make_batch(0)
    assert torch.equal(values(batch, "expected", 0.0), values(batch, "max", 0.0))
    assert not torch.allclose(values(batch, "expected", 0.3), values(batch, "max", 0.3))


def test_sarsa_follows_the_action_that_was_taken_and_expects_where_none_was() -> None:
    batch = make_batch(0)
    assert batch.next_action is not None
    cut = (batch.next_action < 0) & (batch.discount > 0)
    assert cut.any()
    sarsa, expected = (values(batch, target, 0.3) for target in ("sarsa", "expected"))
    assert torch.equal(sarsa[cut], expected[cut])
    others = ~cut & (batch.discount > 0)
    moved = values(batch._replace(next_action=(batch.next_action + 1) % A), "sarsa", 0.3)
    assert (moved[others] != sarsa[others]).any()
