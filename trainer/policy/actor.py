"""The policy: the network's greedy actions, some of them replaced by exploration."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from trainer.types import Choice, Rates, State, Stateful, Timestep


class Chooser(Stateful, Protocol):
    """Finds the network's best action; may keep state for each environment between steps."""

    def choose(self, timestep: Timestep) -> Choice:
        """Return the greedy action of every environment, [N]."""

    def took(self, action: Tensor) -> None:
        """Receive the actions [N] that were taken in the end."""


class Explorer(Stateful, Protocol):
    """Replaces some of the greedy actions."""

    def explore(self, greedy: Tensor, timestep: Timestep, rates: Rates) -> Tensor:
        """Return the actions to take, [N]."""


class Actor:
    """`types.Policy`: chooser, then explorer. Its state is keyed by shard number."""

    def __init__(self, chooser: Chooser, explorer: Explorer) -> None:
        self.chooser, self.explorer = chooser, explorer

    @torch.no_grad()
    def act(self, timestep: Timestep, rates: Rates) -> Choice:
        """Choose an action for every environment, [N]."""
        choice = self.chooser.choose(timestep)
        action = self.explorer.explore(choice.action, timestep, rates)
        self.chooser.took(action)
        return choice._replace(action=action)

    def state_dict(self) -> State:
        chooser, explorer = self.chooser.state_dict(), self.explorer.state_dict()
        return {shard: {"chooser": chooser.get(shard, {}), "explorer": explorer[shard]} for shard in explorer}

    def load_state_dict(self, state: State) -> None:
        self.chooser.load_state_dict({shard: part["chooser"] for shard, part in state.items()})
        self.explorer.load_state_dict({shard: part["explorer"] for shard, part in state.items()})
