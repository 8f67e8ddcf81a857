"""Regression on complete returns against a twin in NumPy, and what becomes of rows that are not transitions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.learner import Learner
from trainer.losses import returns
from trainer.types import Batch, Given, QOut, Rates

B, A = 32, 3
KINDS: tuple[Literal["huber", "mse"], ...] = ("huber", "mse")


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(5, A, generator=g, dtype=torch.float64))

    def forward(self, obs: Tensor, given: Given) -> QOut:
        return QOut(q=obs @ self.weight)


class Unasked(nn.Module):
    def forward(self, *_: Any) -> QOut:
        raise AssertionError("there is no target network")


class Alone:
    """`types.Sync` of one rank, which keeps the gradient instead of stepping."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def zero_grad(self) -> None:
        self.net.zero_grad()

    def set_lr(self, lr: float) -> None: ...

    def gather(self, values: Tensor) -> Tensor:
        return values[None]

    def step(self, max_norm: float) -> Tensor:
        return torch.zeros(())


def batch(seed: int, *, mask: bool = False) -> Batch:
    g = torch.Generator().manual_seed(seed)
    obs = torch.randn(B, 5, generator=g, dtype=torch.float64)
    return Batch(
        obs=obs,
        action=torch.randint(0, A, (B,), generator=g),
        ret=3 * torch.randn(B, generator=g, dtype=torch.float64),
        discount=torch.zeros(B, dtype=torch.float64),
        next_obs=obs,
        index=torch.arange(B),
        mask=(torch.rand(B, 1, generator=g) < 0.7) if mask else None,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_twin(kind: Literal["huber", "mse"], seed: int) -> None:
    """Gallici et al. 2025, eq. 9, sample by sample."""
    net, drawn = Linear(), batch(seed)
    out = returns(net, Unasked(), drawn, Rates(), kind=kind)
    weight = net.weight.detach().numpy()
    for b in range(B):
        q = (drawn.obs[b].numpy() @ weight)[int(drawn.action[b])]
        delta = abs(float(drawn.ret[b]) - q)
        huber = delta**2 / 2 if delta <= 1 else delta - 0.5
        np.testing.assert_allclose(out.loss[b].item(), huber if kind == "huber" else delta**2, rtol=1e-12)
        np.testing.assert_allclose(out.priority[b].item(), delta, rtol=1e-12)
        np.testing.assert_allclose(out.metrics["q_values"][b].item(), q, rtol=1e-12)
    assert out.terms is None
    assert not out.priority.requires_grad


def learned(drawn: Batch) -> Tensor:
    """The gradient of one update."""
    net = Linear()
    sync: Any = Alone(net)
    Learner(net, Unasked(), lambda *a: returns(*a, kind="mse"), sync, max_grad_norm=1.0).update(drawn, Rates())
    assert net.weight.grad is not None
    return net.weight.grad


def test_masked_rows_are_as_if_they_were_not_there() -> None:
    drawn = batch(7, mask=True)
    assert drawn.mask is not None
    there = drawn.mask[:, 0]
    assert 0 < int(there.sum()) < B
    rest = drawn.map(lambda field: field[there])._replace(mask=None)
    torch.testing.assert_close(learned(drawn), learned(rest), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(learned(drawn), learned(drawn._replace(mask=None)))
    spoiled = drawn._replace(ret=torch.where(there, drawn.ret, 1e6))
    torch.testing.assert_close(learned(spoiled), learned(drawn), rtol=0, atol=0)


def test_nothing_there_teaches_nothing() -> None:
    drawn = batch(8)._replace(mask=torch.zeros(B, 1, dtype=torch.bool))
    assert torch.equal(learned(drawn), torch.zeros(5, A, dtype=torch.float64))
