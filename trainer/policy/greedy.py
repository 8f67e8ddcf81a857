"""The best action by the network's values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.types import Choice, Given, State, Timestep


class Greedy:
    """A `Chooser` without memory.

    given: the network's inputs besides the observation (noise, for a noisy network in training; tasks).
    """

    def __init__(self, net: nn.Module, device: torch.device, given: Given = Given()) -> None:  # noqa: B008  (frozen)
        self.net, self.device, self.given = net, device, given

    def choose(self, timestep: Timestep) -> Choice:
        """Return the greedy action of every environment, [N]."""
        return Choice(self.net(timestep.obs.to(self.device), self.given).q.argmax(1))

    def took(self, action: Tensor) -> None:
        """Do nothing: there is no memory."""

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass
