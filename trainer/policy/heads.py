"""Acting with an ensemble of heads: by one head per episode, or by the vote of all (Osband et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.types import Choice, Given, QOut, State, Timestep


class FollowHead:
    """A `Chooser`: each environment follows one head, redrawn when an episode begins.

    generators: one random stream per shard, in the order of the environments.
    """

    def __init__(
        self,
        net: nn.Module,
        num_envs: int,
        heads: int,
        generators: Mapping[int, torch.Generator],
        device: torch.device,
        given: Given = Given(),  # noqa: B008  (frozen)
    ) -> None:
        self.net, self.heads, self.generators, self.device, self.given = net, heads, generators, device, given
        self.envs_per_shard = num_envs // len(generators)
        self.head = torch.full((num_envs,), -1, device=device)  # [N] int64, -1 before the first step

    def choose(self, timestep: Timestep) -> Choice:
        """Return the best action of every environment according to the head it follows, [N]."""
        begins = (timestep.reset | timestep.terminated | timestep.truncated).to(self.device) | (self.head < 0)
        drawn = torch.cat([self._draw(generator) for generator in self.generators.values()])
        self.head = torch.where(begins, (drawn * self.heads).long(), self.head)
        out: QOut = self.net(timestep.obs.to(self.device), self.given)
        assert out.heads is not None
        q = out.heads.gather(2, self.head[:, None, None].expand(-1, out.heads.shape[1], 1)).squeeze(2)  # [N, A]
        return Choice(q.argmax(1))

    def took(self, action: Tensor) -> None:
        """Do nothing: the state does not depend on actions."""

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Return uniform numbers, [environments of a shard]; always the same count, whether needed or not."""
        return torch.rand(self.envs_per_shard, generator=generator, dtype=torch.float64, device=self.device)

    def state_dict(self) -> State:
        return {
            str(shard): {"generator": g.get_state(), "head": head.clone()}
            for (shard, g), head in zip(self.generators.items(), self._by_shard(), strict=True)
        }

    def load_state_dict(self, state: State) -> None:
        for (shard, generator), head in zip(self.generators.items(), self._by_shard(), strict=True):
            generator.set_state(state[str(shard)]["generator"])
            head.copy_(state[str(shard)]["head"])

    def _by_shard(self) -> tuple[Tensor, ...]:
        """Return views of the state, one per shard."""
        return torch.split(self.head, self.envs_per_shard)


class Vote:
    """A `Chooser` without memory: the action that most heads find best; ties go to the highest mean value."""

    def __init__(self, net: nn.Module, device: torch.device, given: Given = Given()) -> None:  # noqa: B008  (frozen)
        self.net, self.device, self.given = net, device, given

    def choose(self, timestep: Timestep) -> Choice:
        """Return the elected action of every environment, [N]."""
        out: QOut = self.net(timestep.obs.to(self.device), self.given)
        assert out.heads is not None
        ballots = torch.zeros_like(out.heads).scatter_(1, out.heads.argmax(1, keepdim=True), 1.0)  # [N, A, E]
        votes = ballots.sum(2)
        elected = votes == votes.amax(1, keepdim=True)
        return Choice(torch.where(elected, out.q, -torch.inf).argmax(1))

    def took(self, action: Tensor) -> None:
        """Do nothing: there is no memory."""

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass
