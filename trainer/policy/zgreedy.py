"""Exploration by repeated random actions (epsilon-z-greedy, Dabney et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.types import Rates, State, Timestep


def zeta_cdf(exponent: float, longest: int) -> Tensor:
    """Return P(duration <= n) for n = 1 ... longest, where P(n) is proportional to n^-exponent, [longest]."""
    weights = torch.arange(1, longest + 1, dtype=torch.float64) ** -exponent
    cdf = weights.cumsum(0) / weights.sum()
    cdf[-1] = 1.0  # no draw below 1 lies beyond the table
    return cdf


class ZetaGreedy:
    """An `Explorer`: with probability epsilon a random action for a number of steps drawn from a zeta distribution.

    No new decision is made while it lasts, and the end of an episode ends it. The share of random actions is therefore
    larger than epsilon. generators: one random stream per shard, in the order of the environments; ladder: [N] a fixed
    epsilon per environment that replaces the schedule, or None; num_actions: one number for all environments, or [N].
    """

    def __init__(
        self,
        num_envs: int,
        num_actions: int | Tensor,
        generators: Mapping[int, torch.Generator],
        device: torch.device,
        ladder: Tensor | None = None,
        *,
        exponent: float,
        longest: int,
    ) -> None:
        self.num_actions, self.generators, self.device = num_actions, generators, device
        self.envs_per_shard = num_envs // len(generators)
        self.ladder = ladder
        self._cdf = zeta_cdf(exponent, longest).to(device)
        self.left = torch.zeros(num_envs, dtype=torch.int64, device=device)  # steps for which the action still lasts
        self.action = torch.zeros(num_envs, dtype=torch.int64, device=device)

    def explore(self, greedy: Tensor, timestep: Timestep, rates: Rates) -> Tensor:
        """Return the actions to take, [N]."""
        fresh = (timestep.reset | timestep.terminated | timestep.truncated).to(self.device)
        explore, which, last = torch.cat([self._draw(generator) for generator in self.generators.values()], 1)
        chance = rates.epsilon if self.ladder is None else self.ladder
        left = torch.where(fresh, 0, self.left)
        begins = (left == 0) & (explore < chance)
        duration = torch.searchsorted(self._cdf, last, right=True) + 1
        left = torch.where(begins, duration, left)
        self.action = torch.where(begins, (which * self.num_actions).long(), self.action)
        self.left = (left - 1).clamp(min=0)
        return torch.where(left > 0, self.action, greedy)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Return uniform numbers, [3, environments of a shard]; always the same count, whether needed or not."""
        return torch.rand(3, self.envs_per_shard, generator=generator, dtype=torch.float64, device=self.device)

    def state_dict(self) -> State:
        return {
            str(shard): {"generator": g.get_state(), "left": left.clone(), "action": action.clone()}
            for (shard, g), left, action in zip(self.generators.items(), *self._by_shard(), strict=True)
        }

    def load_state_dict(self, state: State) -> None:
        for (shard, generator), left, action in zip(self.generators.items(), *self._by_shard(), strict=True):
            saved = state[str(shard)]
            generator.set_state(saved["generator"])
            left.copy_(saved["left"])
            action.copy_(saved["action"])

    def _by_shard(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return views of the state, one of each per shard."""
        return torch.split(self.left, self.envs_per_shard), torch.split(self.action, self.envs_per_shard)
