"""DQN and Double DQN against twins in NumPy and float64, written from the papers with a loop over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.losses import dqn
from trainer.types import Batch, Given, QOut, Rates

B, A = 64, 4


class Table(nn.Module):
    """A Q-network whose values are its parameters: row obs[b, 0] of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())

    def forward(self, obs: Tensor, given: Given) -> QOut:
        return QOut(q=self.table[obs[:, 0].long()])


def problem(seed: int) -> tuple[Table, Table, Batch]:
    g = torch.Generator().manual_seed(seed)
    tables = [3 * torch.randn(10, A, generator=g, dtype=torch.float64) for _ in range(2)]
    tables[0][0] = tables[1][0] = 1.0  # all actions tie
    tables[0][1, 2] = tables[0][1, 1] = 9.0  # two tie for the best, online
    tables[1][1] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    discount = 0.99 ** torch.randint(1, 4, (B,), generator=g).double()
    discount[torch.rand(B, generator=g) < 0.3] = 0.0  # terminated
    batch = Batch(
        obs=torch.randint(0, 10, (B, 1), generator=g),
        action=torch.randint(0, A, (B,), generator=g),
        ret=2 * torch.randn(B, generator=g, dtype=torch.float64),
        discount=discount,
        next_obs=torch.randint(0, 10, (B, 1), generator=g),
        index=torch.arange(B),
    )
    return Table(tables[0]), Table(tables[1]), batch


def twin(net: Table, target_net: Table, batch: Batch, double: bool, kind: str) -> tuple[Any, Any]:
    """Mnih et al. 2015, eq. 2 and its clipped error; van Hasselt et al. 2016, eq. 4."""
    online, target = net.table.detach().numpy(), target_net.table.numpy(force=True)
    losses, deltas = np.zeros(B), np.zeros(B)
    for b in range(B):
        state, after, action = int(batch.obs[b, 0]), int(batch.next_obs[b, 0]), int(batch.action[b])
        if double:
            best = max(range(A), key=lambda a: online[after, a])  # the first of equals
            value = target[after, best]
        else:
            value = max(target[after])
        y = float(batch.ret[b])
        if batch.discount[b] != 0:
            y += float(batch.discount[b]) * value
        error = y - online[state, action]
        deltas[b] = error
        if kind == "mse":
            losses[b] = error**2
        elif abs(error) <= 1:
            losses[b] = error**2 / 2
        else:
            losses[b] = abs(error) - 1 / 2
    return losses, deltas


CASES = [(double, kind) for double in (False, True) for kind in ("huber", "mse")]


@pytest.mark.parametrize(("double", "kind"), CASES)
@pytest.mark.parametrize("seed", range(5))
def test_loss_equals_the_papers(double: bool, kind: Any, seed: int) -> None:
    net, target_net, batch = problem(seed)
    out = dqn(net, target_net, batch, Rates(), double=double, kind=kind)
    losses, deltas = twin(net, target_net, batch, double, kind)
    assert out.loss.shape == out.priority.shape == (B,)
    np.testing.assert_allclose(out.loss.numpy(force=True), losses, rtol=0, atol=1e-13)
    np.testing.assert_allclose(out.priority.numpy(force=True), np.abs(deltas), rtol=0, atol=1e-13)
    assert not out.priority.requires_grad
    assert (np.abs(deltas) > 1).any()
    assert (np.abs(deltas) < 1).any()
    assert torch.equal(out.metrics["q_values"], net.table.detach()[batch.obs[:, 0], batch.action])


@pytest.mark.parametrize(("double", "kind"), CASES)
def test_gradient_flows_through_the_taken_action_alone(double: bool, kind: Any) -> None:
    """d loss_b / d Q(s_b, a_b) = -2 delta_b, or by Huber -delta_b clipped to [-1, 1]; no other value gets any."""
    net, target_net, batch = problem(3)
    dqn(net, target_net, batch, Rates(), double=double, kind=kind).loss.sum().backward()
    _, deltas = twin(net, target_net, batch, double, kind)
    expected = np.zeros((10, A))
    for b in range(B):
        slope = np.clip(deltas[b], -1, 1) if kind == "huber" else 2 * deltas[b]
        expected[int(batch.obs[b, 0]), int(batch.action[b])] -= slope
    assert net.table.grad is not None
    np.testing.assert_allclose(net.table.grad.numpy(), expected, atol=1e-12)
    assert target_net.table.grad is None


def test_double_differs_from_dqn_here() -> None:
    net, target_net, batch = problem(0)
    a, b = (dqn(net, target_net, batch, Rates(), double=double, kind="mse").loss for double in (False, True))
    assert not torch.allclose(a, b)


@pytest.mark.parametrize("double", [False, True])
def test_terminal_rows_do_not_see_what_comes_after(double: bool) -> None:
    net, target_net, batch = problem(1)
    ended = batch.discount == 0
    assert ended.any()
    other = batch._replace(next_obs=torch.where(ended[:, None], (batch.next_obs + 3) % 10, batch.next_obs))
    a, b = (dqn(net, target_net, x, Rates(), double=double, kind="mse").loss for x in (batch, other))
    assert torch.equal(a, b)
