"""A teacher that acts in some steps, so that the student also learns from states that a good policy visits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trainer.policy.actor import Explorer
from trainer.types import Rates, State, Timestep


class Demonstrator:
    """An `Explorer` around another: with probability share * rates.teaching the teacher's best action is taken.

    This is drawn independently for each environment and step, and overrides the other explorer's action.
    teacher: (obs, task) -> preferences [N, A]; generators: one random stream per shard, in the order of the
    environments; task: [N] of each environment, in multi-task training.
    """

    def __init__(
        self,
        explorer: Explorer,
        teacher: Callable[[Tensor, Tensor | None], Tensor],
        share: float,
        num_envs: int,
        generators: Mapping[int, torch.Generator],
        device: torch.device,
        task: Tensor | None = None,
    ) -> None:
        self.explorer, self.teacher, self.share, self.task = explorer, teacher, share, task
        self.generators, self.device = generators, device
        self.envs_per_shard = num_envs // len(generators)

    def explore(self, greedy: Tensor, timestep: Timestep, rates: Rates) -> Tensor:
        """Return the actions to take, [N]."""
        action = self.explorer.explore(greedy, timestep, rates)
        chance = self.share * rates.teaching
        if chance == 0:  # the same on every rank: it follows from the step
            return action
        shown = self.teacher(timestep.obs.to(self.device), self.task).argmax(1)
        draws = [
            torch.rand(self.envs_per_shard, generator=generator, dtype=torch.float64, device=self.device)
            for generator in self.generators.values()
        ]
        return torch.where(torch.cat(draws) < chance, shown, action)

    def state_dict(self) -> State:
        inner = self.explorer.state_dict()
        return {
            str(shard): {"explorer": inner[str(shard)], "generator": generator.get_state()}
            for shard, generator in self.generators.items()
        }

    def load_state_dict(self, state: State) -> None:
        self.explorer.load_state_dict({shard: part["explorer"] for shard, part in state.items()})
        for shard, generator in self.generators.items():
            generator.set_state(state[str(shard)]["generator"])
