"""The large-margin loss against a twin in NumPy and float64, written from Hester et al. 2018, eq. 2."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.losses import dqn, joint, large_margin
from trainer.types import Batch, Given, LossOut, QOut, Rates

A = 4


class Values(nn.Module):
    """A Q-network whose values are its parameters, row b for sample b."""

    def __init__(self, q: Tensor) -> None:
        super().__init__()
        self.q = nn.Parameter(q.clone())

    def forward(self, obs: Tensor, given: Given) -> QOut:
        return QOut(q=self.q[obs[:, 0].long()])


def problem(q: Tensor, action: Tensor, expert: Tensor | None) -> tuple[Values, Batch, LossOut]:
    net, size = Values(q), len(q)
    rows = torch.arange(size)[:, None]
    zeros = torch.zeros(size, dtype=torch.float64)
    batch = Batch(rows, action, zeros + 1, zeros + 0.5, rows.flip(0), rows[:, 0], expert=expert)
    return net, batch, LossOut(zeros, zeros, {}, out=net(rows, Given()))


def twin(q: Any, action: Any, expert: Any, margin: float) -> Any:
    losses = np.zeros(len(q))
    for b in range(len(q)):
        if expert[b]:
            best = max(q[b, a] + (margin if a != action[b] else 0.0) for a in range(q.shape[1]))
            losses[b] = best - q[b, action[b]]
    return losses


def random(seed: int, size: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(size, A, generator=g, dtype=torch.float64)
    q[0] = 0.3  # a tie of all
    q[1, 0] = q[1].max() + 5  # the demonstrated action is far above the others
    action = torch.randint(0, A, (size,), generator=g)
    action[1] = 0
    expert = torch.rand(size, generator=g) < 0.5
    expert[:2] = True
    return q, action, expert


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.0, 0.8, 3.0])
def test_loss_equals_the_papers(seed: int, margin: float) -> None:
    q, action, expert = random(seed)
    net, batch, said = problem(q, action, expert)
    part = large_margin(net, net, batch, Rates(), said, margin=margin, weight=2.0)
    expected = 2.0 * twin(q.numpy(), action.numpy(), expert.numpy(), margin)
    np.testing.assert_allclose(part.numpy(force=True), expected, rtol=0, atol=1e-14)
    assert part[0].item() == pytest.approx(2 * margin)
    assert part[1] == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=4),
    st.floats(0, 2),
    st.integers(0, 2),
)
def test_it_is_zero_exactly_where_the_action_is_above_all_others_by_the_margin(
    rows: list[list[float]], margin: float, chosen: int
) -> None:
    q = torch.tensor(rows, dtype=torch.float64)
    action = torch.full((len(q),), chosen)
    net, batch, said = problem(q, action, torch.ones(len(q), dtype=torch.bool))
    part = large_margin(net, net, batch, Rates(), said, margin=margin, weight=1.0)
    others = q[:, [a for a in range(3) if a != chosen]].amax(1)
    assert (part >= 0).all()
    assert torch.equal(part == 0, others + margin <= q[:, chosen])


def test_only_demonstrations_are_touched() -> None:
    """The gradient of the other rows is exactly 0; of a demonstration, +1 and -1 where the margin is not kept."""
    q, action, expert = random(7)
    net, batch, said = problem(q, action, expert)
    large_margin(net, net, batch, Rates(), said, margin=0.8, weight=1.0).sum().backward()
    assert net.q.grad is not None
    assert not net.q.grad[~expert].any()
    for b in expert.nonzero().flatten().tolist()[2:]:  # the first two rows are special
        short = q[b] + 0.8
        short[action[b]] -= 0.8
        expected = torch.zeros(A, dtype=torch.float64)
        expected[short.argmax()] += 1
        expected[action[b]] -= 1
        assert torch.equal(net.q.grad[b], expected)


def test_without_demonstrations_it_is_nothing() -> None:
    q, action, _ = random(3)
    net, batch, said = problem(q, action, None)
    assert not large_margin(net, net, batch, Rates(), said, margin=0.8, weight=1.0).any()
    nobody = batch._replace(expert=torch.zeros(len(q), dtype=torch.bool))
    assert not large_margin(net, net, nobody, Rates(), said, margin=0.8, weight=1.0).any()
    base = partial(dqn, double=False, kind="mse")
    part = partial(large_margin, margin=0.8, weight=1.0)
    alone, both = base(net, net, batch, Rates()), joint(net, net, batch, Rates(), base=base, parts={"margin": part})
    assert torch.equal(alone.loss, both.loss)


def test_the_network_is_asked_where_the_base_loss_did_not() -> None:
    q, action, expert = random(3)
    net, batch, said = problem(q, action, expert)
    part = partial(large_margin, margin=0.8, weight=1.0)
    assert torch.equal(part(net, net, batch, Rates(), said), part(net, net, batch, Rates(), said._replace(out=None)))
