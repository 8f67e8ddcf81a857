"""What the tests of the losses share: networks that are tables, batches with every edge, and policies written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.types import Batch, Given, QOut

B, A, S = 48, 4, 10  # samples, actions, states; an observation is the number of its state


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def states(obs: Tensor) -> Tensor:
    return obs[:, 0].long()


class Values(nn.Module):
    """q [S, A], as stored in a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())

    def forward(self, obs: Tensor, given: Given) -> QOut:
        return QOut(q=self.table[states(obs)])


class Histograms(nn.Module):
    """Log-probabilities of K atoms, [S, A, K] before their normalisation."""

    def __init__(self, table: Tensor, v_min: float, v_max: float) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())
        self.atoms = torch.linspace(v_min, v_max, table.shape[2], dtype=torch.float64)

    def forward(self, obs: Tensor, given: Given) -> QOut:
        logits = self.table[states(obs)].log_softmax(2)
        return QOut(q=logits.exp() @ self.atoms, logits=logits)

    def mass(self, state: int) -> Any:
        return self.table[state].softmax(1).numpy(force=True)  # [A, K]


class Quantiles(nn.Module):
    """Quantiles of a uniform distribution for each action, from table[..., 0], table[..., 1] wide, at random fractions.

    `asked` keeps (states, fractions) of every call: what a twin needs to repeat it.
    """

    def __init__(self, table: Tensor, seed: int, acting: int = 3) -> None:
        super().__init__()
        self.table, self.acting = nn.Parameter(table.clone()), acting
        self.random = torch.Generator().manual_seed(seed)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, obs: Tensor, given: Given) -> QOut:
        count = given.fractions or self.acting
        fractions = torch.rand(len(obs), count, generator=self.random, dtype=torch.float64)
        self.asked.append((states(obs), fractions))
        low, width = self.table[states(obs)].unbind(2)  # [B, A]
        quantiles = low[..., None] + width[..., None] * fractions[:, None]
        return QOut(q=quantiles.mean(2), quantiles=quantiles, fractions=fractions)

    def said(self, call: int, b: int) -> tuple[Any, Any]:
        """The quantiles [A, K] and fractions [K] of sample b in the call of that number, once more."""
        state, fractions = self.asked[call][0][b], self.asked[call][1][b].numpy()
        table = self.table[state].numpy(force=True)
        return np.array([[low + width * f for f in fractions] for low, width in table]), fractions


def make_batch(seed: int) -> Batch:
    """Transitions that go on (also with n-step discounts), that are terminal, and whose episode was cut."""
    g = torch.Generator().manual_seed(seed)
    discount = 0.99 ** torch.randint(1, 4, (B,), generator=g).double()
    discount[torch.rand(B, generator=g) < 0.3] = 0.0
    next_action = torch.randint(0, A, (B,), generator=g)
    next_action[discount == 0] = -1
    next_action[torch.rand(B, generator=g) < 0.2] = -1  # cut: a discount, but no action
    return Batch(
        obs=torch.randint(0, S, (B, 1), generator=g),
        action=torch.randint(0, A, (B,), generator=g),
        ret=2 * torch.randn(B, generator=g, dtype=torch.float64),
        discount=discount,
        next_obs=torch.randint(0, S, (B, 1), generator=g),
        index=torch.arange(B),
        next_action=next_action,
    )


def first_best(values: Any) -> int:
    return max(range(len(values)), key=lambda a: values[a])  # the first of equals


def chances(picks: Any, target: str, next_action: int, epsilon: float) -> Any:
    """How likely each action at the next state is, [A]; `picks` are the values of the network that picks the best."""
    certain = np.zeros(A)
    if target == "max":
        certain[first_best(picks)] = 1
    elif target == "sarsa" and next_action >= 0:
        certain[next_action] = 1
    else:
        certain[:] = epsilon / A
        certain[first_best(picks)] += 1 - epsilon
    return certain
