"""The best action of a recurrent network, whose state is kept for each environment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.types import Choice, Given, State, Timestep


class RecurrentGreedy:
    """A `Chooser` that keeps recurrent state, last action and last reward of each environment.

    They are zero where an episode begins; a lost life does not end one. shards: the numbers of the owned shards, in the
    order of the environments; width: H of the state [N, 2, H]; clip_reward: the network receives clipped rewards, as
    replay stores them.
    """

    def __init__(
        self,
        net: nn.Module,
        num_envs: int,
        width: int,
        shards: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        *,
        clip_reward: bool,
        given: Given = Given(),  # noqa: B008  (frozen)
    ) -> None:
        self.net, self.device, self.given, self.clip_reward = net, device, given, clip_reward
        self.shards, self.envs_per_shard = list(shards), num_envs // len(shards)
        self.state = torch.zeros(num_envs, 2, width, dtype=dtype, device=device)  # after the last observation
        self.action = torch.zeros(num_envs, dtype=torch.int64, device=device)

    def choose(self, timestep: Timestep) -> Choice:
        """Return the greedy action of every environment, [N], and the state before its observation."""
        opens = (timestep.reset | timestep.terminated | timestep.truncated).to(self.device)
        reward = timestep.reward.clamp(-1, 1) if self.clip_reward else timestep.reward
        state = self.state.masked_fill(opens[:, None, None], 0)
        given = self.given._replace(
            state=state,
            last_action=self.action.masked_fill(opens, 0),
            last_reward=reward.to(self.device).masked_fill(opens, 0),
        )
        out = self.net(timestep.obs.to(self.device), given)
        self.state = out.state
        return Choice(out.q.argmax(1), state)

    def took(self, action: Tensor) -> None:
        """Remember the actions that were taken, [N]."""
        self.action = action

    def state_dict(self) -> State:
        return {
            str(shard): {"state": self.state[self._rows(i)], "action": self.action[self._rows(i)]}
            for i, shard in enumerate(self.shards)
        }

    def load_state_dict(self, state: State) -> None:
        for name in ("state", "action"):
            setattr(self, name, torch.cat([state[str(shard)][name] for shard in self.shards]).to(self.device))

    def _rows(self, i: int) -> slice:
        return slice(i * self.envs_per_shard, (i + 1) * self.envs_per_shard)
