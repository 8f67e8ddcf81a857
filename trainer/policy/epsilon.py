"""Exploration by random actions, one draw per environment and step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.types import Rates, State, Timestep


class EpsilonGreedy:
    """An `Explorer`: a random action with probability epsilon.

    generators: one random stream per shard, in the order of the environments; ladder: [N] a fixed epsilon per
    environment that replaces the schedule, or None; num_actions: one number for all environments, or one for each, [N].
    """

    def __init__(
        self,
        num_envs: int,
        num_actions: int | Tensor,
        generators: Mapping[int, torch.Generator],
        device: torch.device,
        ladder: Tensor | None = None,
    ) -> None:
        self.num_actions, self.generators = num_actions, generators
        self.envs_per_shard = num_envs // len(generators)
        self.ladder = ladder
        # double precision keeps the last action reachable; the memory is reused, as `mix` reads it at once
        self._draws = [torch.empty(2, self.envs_per_shard, dtype=torch.float64, device=device) for _ in generators]

    def explore(self, greedy: Tensor, timestep: Timestep, rates: Rates) -> Tensor:
        """Return the actions to take, [N]."""
        return self.mix(greedy, self.draw(), rates.epsilon)

    def draw(self) -> Tensor:
        """Return the random numbers of a step, [2, N], uniform in [0, 1); use them before the next are drawn."""
        pairs = zip(self._draws, self.generators.values(), strict=True)
        draws = [part.uniform_(generator=generator) for part, generator in pairs]
        return draws[0] if len(draws) == 1 else torch.cat(draws, 1)

    def mix(self, greedy: Tensor, draws: Tensor, epsilon: float | Tensor) -> Tensor:
        """Return the actions to take, [N], as a function of tensors alone."""
        explore, which = draws
        random = (which * self.num_actions).long()
        return torch.where(explore < (epsilon if self.ladder is None else self.ladder), random, greedy)

    def state_dict(self) -> State:
        return {str(shard): {"generator": g.get_state()} for shard, g in self.generators.items()}

    def load_state_dict(self, state: State) -> None:
        for shard, generator in self.generators.items():
            generator.set_state(state[str(shard)]["generator"])
