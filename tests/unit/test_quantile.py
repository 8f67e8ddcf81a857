"""Quantile regression (Dabney et al. 2018a, 2018b) against a loop over samples and pairs of quantiles in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loss_twin import A, B, Quantiles, S, chances, draw, make_batch

from trainer.losses import quantile
from trainer.losses.quantile import quantile_huber
from trainer.schedules import Rates

CASES = [("max", False), ("max", True), ("expected", False), ("expected", True), ("sarsa", False)]
N, N_TARGET = 6, 5


def problem(seed: int) -> tuple[Quantiles, Quantiles]:
    tables = [torch.stack((draw(seed + i, S, A), draw(seed + 9 + i, S, A).abs()), 2) for i in range(2)]
    return Quantiles(tables[0], seed), Quantiles(tables[1], seed + 1)


def pinball(error: float, fraction: float, kappa: float) -> float:
    """2018b, eq. 3; for kappa 0 the quantile regression loss itself (2018a, eq. 8)."""
    if kappa == 0:
        size = abs(error)
    elif abs(error) <= kappa:
        size = error**2 / 2 / kappa
    else:
        size = abs(error) - kappa / 2
    return abs(fraction - (1.0 if error < 0 else 0.0)) * size


@pytest.mark.parametrize(("target", "double"), CASES)
@pytest.mark.parametrize("kappa", [1.0, 0.3, 0.0])
def test_loss_equals_the_papers(target: Any, double: bool, kappa: float) -> None:
    (net, target_net), batch = problem(2), make_batch(2)
    options: Any = {"double": double, "target": target, "fractions": N, "target_fractions": N_TARGET}
    out = quantile(net, target_net, batch, Rates(epsilon=0.3), kappa=kappa, **options)
    assert [call[1].shape[1] for call in target_net.asked] == [N_TARGET]
    assert [call[1].shape[1] for call in net.asked] == [net.acting, N] if double else [N]
    assert batch.next_action is not None
    for b in range(B):
        after, _ = target_net.said(0, b)
        picks = net.said(0, b)[0] if double else after
        policy = chances(picks.mean(1), target, int(batch.next_action[b]), 0.3)
        guesses, fractions = net.said(-1, b)
        loss, size = 0.0, 0.0
        for i in range(N):
            for a in range(A):
                for j in range(N_TARGET):
                    goal = float(batch.ret[b]) + float(batch.discount[b]) * after[a, j]
                    error = goal - guesses[int(batch.action[b]), i]
                    loss += policy[a] / N_TARGET * pinball(error, fractions[i], kappa)
                    size += policy[a] / N_TARGET * abs(error) / N
        np.testing.assert_allclose(out.loss[b].item(), loss, rtol=0, atol=1e-12)
        np.testing.assert_allclose(out.priority[b].item(), size, rtol=0, atol=1e-12)
        np.testing.assert_allclose(out.metrics["q_values"][b].item(), guesses[int(batch.action[b])].mean(), atol=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 1e-6, 0.5, 1.0])
def test_the_huber_loss_at_its_kinks(kappa: float) -> None:
    errors = [-2.0, -kappa, -1e-9, 0.0, 1e-9, kappa, 2.0]
    for fraction in (0.0, 0.25, 1.0):
        wanted = [pinball(error, fraction, kappa) for error in errors]
        found = quantile_huber(torch.tensor(errors).double(), torch.tensor(fraction).double(), kappa)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-7)  # errors went through single precision


@pytest.mark.parametrize("kappa", [0.0, 0.01])
def test_its_minimum_is_the_quantile(kappa: float) -> None:
    """Regressing on samples of a distribution finds its quantiles: the purpose of the loss."""
    samples = torch.arange(1000, dtype=torch.float64) / 1000
    fractions = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    guess = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    for _ in range(400):
        loss = quantile_huber(samples - guess[:, None], fractions[:, None], kappa).mean(1).sum()
        (slope,) = torch.autograd.grad(loss, guess)
        with torch.no_grad():
            guess -= 0.1 * slope
    torch.testing.assert_close(guess.detach(), fractions, rtol=0, atol=0.01)


def test_gradient_flows_through_the_taken_action_alone() -> None:
    (net, target_net), batch = problem(3), make_batch(3)
    row = batch.map(lambda x: x[:1])
    quantile(net, target_net, row, Rates(), kappa=1.0, fractions=N).loss.sum().backward()
    assert net.table.grad is not None
    assert target_net.table.grad is None
    touched = net.table.grad.abs().sum(2).nonzero().tolist()
    assert touched == [[int(row.obs[0, 0]), int(row.action[0])]]


def test_double_differs_here() -> None:
    losses = []
    for double in (False, True):
        net, target_net = problem(0)
        losses.append(quantile(net, target_net, make_batch(0), Rates(), kappa=1.0, double=double).priority)
    assert (losses[0] - losses[1]).abs().max() > 0.1


def test_terminal_rows_do_not_see_what_comes_after() -> None:
    batch, losses = make_batch(1), []
    for shift in (0, 3):
        net, target_net = problem(1)
        moved = batch._replace(next_obs=(batch.next_obs + shift) % S)
        losses.append(quantile(net, target_net, moved, Rates(), kappa=1.0).loss)
    ended = batch.discount == 0
    assert torch.equal(losses[0][ended], losses[1][ended])
    assert not torch.allclose(losses[0][~ended], losses[1][~ended])
