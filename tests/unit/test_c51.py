"""C51 against algorithm 1 of its paper (Bellemare et al. 2017), a loop over samples and atoms in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_twin import A, B, Histograms, S, chances, draw, make_batch

from trainer.losses import c51
from trainer.losses.c51 import project
from trainer.schedules import Rates

LOW, HIGH, K = -2.0, 3.0, 11  # atoms half a unit apart
CASES = [("max", False), ("max", True), ("expected", False), ("expected", True), ("sarsa", False)]


def projected(ret: float, discount: float, mass: Any, low: float, high: float) -> Any:
    """Algorithm 1, with the case that it leaves out: an atom that coincides with another gives it everything."""
    count = len(mass)
    spacing = (high - low) / (count - 1)
    m = np.zeros(count)
    for j in range(count):
        b = (min(max(ret + discount * (low + j * spacing), low), high) - low) / spacing
        lower, upper = math.floor(b), math.ceil(b)
        if lower == upper:
            m[lower] += mass[j]
        else:
            m[lower] += mass[j] * (upper - b)
            m[upper] += mass[j] * (b - lower)
    return m


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def problem(seed: int) -> tuple[Histograms, Histograms]:
    tables = [2 * draw(seed + i, S, A, K) for i in range(2)]
    tables[0][0] = tables[1][0] = 0.0  # all actions tie
    tables[0][1, 2] = tables[0][1, 1]
    tables[1][2] = torch.nn.functional.one_hot(torch.tensor([0, 3, 10, 5]), K) * 200.0  # certain
    return Histograms(tables[0], LOW, HIGH), Histograms(tables[1], LOW, HIGH)


@pytest.mark.parametrize(("target", "double"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_the_paper(seed: int, target: Any, double: bool) -> None:
    (net, target_net), batch = problem(seed), make_batch(seed)
    options: Any = {"v_min": LOW, "v_max": HIGH, "double": double, "target": target}
    out = c51(net, target_net, batch, Rates(epsilon=0.3), **options)
    atoms = [LOW + i * (HIGH - LOW) / (K - 1) for i in range(K)]
    assert batch.next_action is not None
    for b in range(B):
        after, state, action = (int(x[b]) for x in (batch.next_obs[:, 0], batch.obs[:, 0], batch.action))
        picks = [
            sum(p * z for p, z in zip(row, atoms, strict=True)) for row in (net if double else target_net).mass(after)
        ]
        policy = chances(np.round(picks, 12), target, int(batch.next_action[b]), 0.3)
        mass = sum(policy[a] * target_net.mass(after)[a] for a in range(A))
        goal = projected(float(batch.ret[b]), float(batch.discount[b]), mass, LOW, HIGH)
        log_p = np.log(net.mass(state)[action])
        np.testing.assert_allclose(out.loss[b].item(), -sum(goal * log_p), rtol=0, atol=1e-11)
        divergence = sum(m * (math.log(m) - lp) for m, lp in zip(goal, log_p, strict=True) if m > 0)
        np.testing.assert_allclose(out.priority[b].item(), divergence, rtol=0, atol=1e-11)
        mean = sum(p * z for p, z in zip(net.mass(state)[action], atoms, strict=True))
        np.testing.assert_allclose(out.metrics["q_values"][b].item(), mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ret", "discount"),
    [
        (0.0, 1.0),  # every atom on itself
        (0.5, 1.0),  # every atom on the next, the last one over the bound
        (-5.0, 1.0),  # one bound takes all
        (HIGH, 0.0),  # terminal, at the bound
        (LOW, 0.0),
        (50.0, 0.0),  # terminal, beyond
        (0.75, 0.0),  # between two atoms
        (0.5, 0.0),  # on one
        (0.3, 0.99**3),
        (1.0, 0.5),
    ],
)
def test_projection_at_the_edges(ret: float, discount: float) -> None:
    mass = draw(0, 1, K).softmax(1)
    found = project(one(ret), one(discount), mass, LOW, HIGH)[0]
    np.testing.assert_allclose(found.numpy(), projected(ret, discount, mass[0].numpy(), LOW, HIGH), rtol=0, atol=1e-12)
    assert found.sum().item() == pytest.approx(1, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(2, 60),
    ret=st.floats(-20, 20),
    discount=st.floats(0, 1),
    low=st.floats(-10, 5),
    width=st.floats(0.1, 10),
)
def test_projection_keeps_probability_and_within_the_bounds_the_mean(
    seed: int, count: int, ret: float, discount: float, low: float, width: float
) -> None:
    high = low + width
    mass = draw(seed, 1, count).softmax(1)
    atoms = torch.linspace(low, high, count, dtype=torch.float64)
    found = project(one(ret), one(discount), mass, low, high)[0]
    assert (found >= 0).all()
    assert found.sum().item() == pytest.approx(1, abs=1e-9)
    clipped = (ret + discount * atoms).clamp(low, high)  # with all of it within, this is the plain mean
    assert (found @ atoms).item() == pytest.approx((mass[0] @ clipped).item(), abs=1e-9)


def test_what_is_certain_in_single_precision_stays_finite() -> None:
    """Log-probabilities far below the smallest float: neither loss nor priority may become NaN or negative."""
    tables = torch.zeros(S, A, K, dtype=torch.float64)
    tables[..., 3] = 500.0
    net = Histograms(tables, LOW, HIGH).float()
    net.atoms = net.atoms.float()
    batch = make_batch(0).map(lambda x: x.float() if x.dtype is torch.float64 else x)
    out = c51(net, net, batch, Rates(), v_min=LOW, v_max=HIGH)
    assert out.loss.isfinite().all()
    assert out.priority.isfinite().all()
    assert (out.priority >= 0).all()


def test_the_priority_vanishes_where_the_target_is_met() -> None:
    net, _ = problem(0)
    batch = make_batch(0)
    same = batch._replace(
        next_obs=batch.obs, ret=torch.zeros(B).double(), discount=torch.ones(B).double(), next_action=batch.action
    )
    out = c51(net, net, same, Rates(), v_min=LOW, v_max=HIGH, target="sarsa")
    assert (out.loss > 1e-3).any()  # an entropy, which no learning removes
    assert out.priority.max().item() < 1e-12


@pytest.mark.parametrize("double", [False, True])
def test_gradient_flows_through_the_taken_action_alone(double: bool) -> None:
    """d loss / d logits = p - m for the action taken, nothing else; the target network gets none."""
    (net, target_net), batch = problem(3), make_batch(3)
    row = batch.map(lambda x: x[:1])
    c51(net, target_net, row, Rates(), v_min=LOW, v_max=HIGH, double=double).loss.sum().backward()
    grad, state, action = net.table.grad, int(row.obs[0, 0]), int(row.action[0])
    assert grad is not None
    assert target_net.table.grad is None
    after = int(row.next_obs[0, 0])
    picks = (net if double else target_net).mass(after) @ net.atoms.numpy()
    mass = target_net.mass(after)[int(picks.argmax())]
    goal = projected(float(row.ret[0]), float(row.discount[0]), mass, LOW, HIGH)
    np.testing.assert_allclose(grad[state, action].numpy(), net.mass(state)[action] - goal, rtol=0, atol=1e-12)
    grad[state, action] = 0
    assert not grad.any()


def test_double_differs_here() -> None:
    (net, target_net), batch = problem(0), make_batch(0)
    single, twice = (c51(net, target_net, batch, Rates(), v_min=LOW, v_max=HIGH, double=d).loss for d in (False, True))
    assert not torch.allclose(single, twice)


def test_terminal_rows_do_not_see_what_comes_after() -> None:
    (net, target_net), batch = problem(1), make_batch(1)
    other = batch._replace(next_obs=(batch.next_obs + 3) % S)
    here, there = (c51(net, target_net, x, Rates(), v_min=LOW, v_max=HIGH).loss for x in (batch, other))
    ended = batch.discount == 0
    torch.testing.assert_close(here[ended], there[ended], rtol=0, atol=1e-13)  # the whole mass of one is on the return
    assert not torch.allclose(here[~ended], there[~ended])
