"""The Q-network: torso and head, for observations of any number type."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.types import Given, QOut


class QNetwork(nn.Module):
    """Estimates Q(obs, .) for a batch of observations; uint8 images are scaled to [0, 1].

    torso: (obs, draws) -> features [B, F]; head: (features, given) -> QOut.
    """

    def __init__(self, torso: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.torso, self.head = torso, head

    def forward(self, obs: Tensor, given: Given = Given()) -> QOut:  # noqa: B008  (frozen)
        """Map obs [B, *] (uint8, bool or float) to QOut, in the precision of the weights."""
        out: QOut = self.head(self.torso(self.scale(obs), given.draws), given)
        return out

    def scale(self, obs: Tensor) -> Tensor:
        """Return observations in the precision of the weights."""
        return scaled(obs, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def scaled(obs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return observations in the precision of the weights; uint8 images become [0, 1]."""
    if obs.dtype is torch.uint8:
        return obs.to(dtype) / 255
    return obs if obs.dtype is dtype else obs.to(dtype)
