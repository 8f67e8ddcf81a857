"""Munchausen DQN and IQN (Vieillard et al. 2020) against twins with the softmax written out, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from loss_twin import A, B, Quantiles, S, Values, draw, make_batch

from trainer.losses import Munchausen, dqn, quantile
from trainer.schedules import Rates
from trainer.types import Given, QOut

PAPER = Munchausen(alpha=0.9, tau=0.03, low=-1.0)
CASES = [PAPER, Munchausen(0.5, 1.0, -0.2), Munchausen(1.0, 0.3, -10.0), Munchausen(0.0, 0.1, -1.0)]


def scaled_log_policy(q: Any, tau: float) -> list[float]:
    """tau log softmax(q / tau), summed the long way."""
    highest = max(q)
    total = math.fsum(math.exp((value - highest) / tau) for value in q)
    return [value - highest - tau * math.log(total) for value in q]


def tables(seed: int) -> list[torch.Tensor]:
    found = [draw(seed + i, S, A) for i in range(2)]
    found[1][0] = 1.0  # all actions tie
    found[1][1] = torch.tensor([50.0, 0.0, 0.0, 0.0])  # certain, for every tau here
    return found


@pytest.mark.parametrize("soft", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_dqn_equals_the_paper(seed: int, soft: Munchausen) -> None:
    online, slow = tables(seed)
    batch = make_batch(seed)
    out = dqn(Values(online), Values(slow), batch, Rates(), double=False, kind="mse", munchausen=soft)
    for b in range(B):
        state, after, action = (int(x[b]) for x in (batch.obs[:, 0], batch.next_obs[:, 0], batch.action))
        bonus = min(max(scaled_log_policy(slow[state].tolist(), soft.tau)[action], soft.low), 0)
        logs = scaled_log_policy(slow[after].tolist(), soft.tau)
        value = sum(math.exp(log / soft.tau) * (float(slow[after, a]) - log) for a, log in enumerate(logs))
        goal = float(batch.ret[b]) + soft.alpha * bonus + float(batch.discount[b]) * value
        np.testing.assert_allclose(out.loss[b].item(), (goal - float(online[state, action])) ** 2, rtol=1e-10)
        np.testing.assert_allclose(out.priority[b].item(), abs(goal - float(online[state, action])), rtol=1e-10)


@pytest.mark.parametrize("soft", CASES)
def test_iqn_equals_the_paper(soft: Munchausen) -> None:
    nets = [Quantiles(torch.stack((table, draw(7, S, A).abs()), 2), 3 + i) for i, table in enumerate(tables(1))]
    net, target_net = nets
    batch = make_batch(1)
    out = quantile(net, target_net, batch, Rates(), kappa=1.0, munchausen=soft, fractions=6, target_fractions=5)
    assert [call[1].shape[1] for call in target_net.asked] == [5, target_net.acting]
    for b in range(B):
        action = int(batch.action[b])
        now = target_net.said(1, b)[0].mean(1)
        bonus = min(max(scaled_log_policy(now, soft.tau)[action], soft.low), 0)
        after = target_net.said(0, b)[0]  # [A, K]
        logs = np.array(scaled_log_policy(after.mean(1), soft.tau))
        samples = (np.exp(logs / soft.tau)[:, None] * (after - logs[:, None])).sum(0)
        goals = float(batch.ret[b]) + soft.alpha * bonus + float(batch.discount[b]) * samples
        guesses, fractions = net.said(0, b)
        loss = 0.0
        for guess, fraction in zip(guesses[action], fractions, strict=True):
            for goal in goals:
                error = goal - guess
                size = error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5
                loss += abs(fraction - (error < 0)) * size / len(goals)
        np.testing.assert_allclose(out.loss[b].item(), loss, rtol=0, atol=1e-10)


def test_without_bonus_and_heat_it_is_dqn() -> None:
    online, slow = tables(0)
    slow[0] = draw(5, A)  # no ties: their entropy is tau log 4 for every tau
    batch = make_batch(0)
    plain = dqn(Values(online), Values(slow), batch, Rates(), double=False, kind="mse").loss
    for tau, near in ((1e-6, True), (0.5, False)):
        cold = Munchausen(alpha=0.0, tau=tau, low=-1.0)
        soft = dqn(Values(online), Values(slow), batch, Rates(), double=False, kind="mse", munchausen=cold).loss
        assert torch.allclose(soft, plain, atol=1e-5) == near


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_nothing_overflows(dtype: torch.dtype, size: float) -> None:
    q = (size * draw(0, S, A)).to(dtype)
    q[0] = size
    logs = PAPER.log_policy(q)
    assert logs.isfinite().all()
    assert (logs <= 0).all()
    torch.testing.assert_close((logs / PAPER.tau).exp().sum(1), torch.ones(S, dtype=dtype))
    value = PAPER.value(QOut(q=q))
    above = value - q.amax(1)
    assert (above >= -1e-6 * size).all()
    assert (above <= PAPER.tau * math.log(A) + 1e-6 * size).all()


def test_the_bonus_stays_within_its_bounds_and_is_active() -> None:
    _, slow = tables(0)
    batch = make_batch(0)
    bonus = PAPER.bonus(Values(slow), batch, Given()).detach()
    assert (bonus >= PAPER.alpha * PAPER.low).all()
    assert (bonus <= 0).all()
    assert (bonus == PAPER.alpha * PAPER.low).any()
    assert (bonus > PAPER.alpha * PAPER.low / 2).any()


def test_gradient_flows_through_the_online_network_alone() -> None:
    net, target_net = map(Values, tables(3))
    batch = make_batch(3)
    dqn(net, target_net, batch, Rates(), double=False, kind="mse", munchausen=PAPER).loss.sum().backward()
    assert net.table.grad is not None
    assert target_net.table.grad is None
    taken = torch.zeros(S, A, dtype=torch.bool)
    taken[batch.obs[:, 0], batch.action] = True
    assert not net.table.grad[~taken].any()
