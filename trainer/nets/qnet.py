"""The Q-network: torso and head, fed with whatever number type the observations have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.nets.heads import DuelingHead, ValueHead
from trainer.nets.torsos import ImageTorso, VectorTorso
from trainer.types import QOut


class QNetwork(nn.Module):
    """Q(obs, .) for a batch of observations; uint8 images are scaled to [0, 1]."""

    def __init__(self, torso: VectorTorso | ImageTorso, head: ValueHead | DuelingHead) -> None:
        super().__init__()
        self.torso, self.head = torso, head

    def forward(self, obs: Tensor) -> QOut:
        """Map obs [B, *] (uint8, bool or float) to q [B, A] in the precision of the weights."""
        dtype = self.dtype
        if obs.dtype is torch.uint8:
            obs = obs.to(dtype) / 255
        elif obs.dtype is not dtype:
            obs = obs.to(dtype)
        return QOut(q=self.head(self.torso(obs)))

    @property
    def dtype(self) -> torch.dtype:
        return self.torso.dtype
