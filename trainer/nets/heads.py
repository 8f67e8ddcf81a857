"""Heads of Q-networks: features in, action values out."""

from __future__ import annotations

from torch import Tensor, nn


class ValueHead(nn.Module):
    """One linear layer, [B, F] -> [B, A]."""

    def __init__(self, features: int, num_actions: int) -> None:
        super().__init__()
        self.q = nn.Linear(features, num_actions)

    def forward(self, x: Tensor) -> Tensor:
        q: Tensor = self.q(x)
        return q


class DuelingHead(nn.Module):
    """Value plus advantage less its mean (Wang et al. 2016, eq. 9), [B, F] -> [B, A]."""

    def __init__(self, features: int, num_actions: int) -> None:
        super().__init__()
        self.value = nn.Linear(features, 1)
        self.advantage = nn.Linear(features, num_actions)

    def forward(self, x: Tensor) -> Tensor:
        advantage: Tensor = self.advantage(x)
        value: Tensor = self.value(x)
        return value + advantage - advantage.mean(1, keepdim=True)
