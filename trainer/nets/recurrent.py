"""The recurrent Q-network: an LSTM between body and head (R2D2, Kapturowski et al. 2019, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.nets.qnet import scaled
from trainer.types import Given, QOut


class RecurrentQNetwork(nn.Module):
    """Estimates Q(history, .) from obs, last action and last reward by torso and LSTM (Hochreiter & Schmidhuber).

    One forward serves single steps and sequences, so that whatever wraps this module serves both. The recurrent state
    is hidden and cell stacked, [B, 2, H]. Rewards enter as tanh(r): their scale depends on the environment.
    torso: (obs, draws) -> features [B, F]; head: (features [B, H], given) -> QOut.
    """

    def __init__(self, torso: nn.Module, features: int, head: nn.Module, *, num_actions: int, width: int) -> None:
        super().__init__()
        self.torso, self.head = torso, head
        self.num_actions, self.width = num_actions, width
        self.lstm = nn.LSTM(features + num_actions + 1, width)

    def forward(self, obs: Tensor, given: Given = Given()) -> QOut:  # noqa: B008  (frozen)
        """Map a step, obs [B, *], or a sequence, obs [B, L, *], to q [B, A] or [B, L, A] and the state after it.

        given.last_action and given.last_reward are [B] or [B, L] and tell which of the two it is; given.state is
        [B, 2, H]. Without them the observations open episodes.
        """
        opens = given.last_action is None
        action = torch.zeros(len(obs), dtype=torch.int64, device=obs.device) if opens else given.last_action
        reward = torch.zeros(len(obs), device=obs.device) if opens else given.last_reward
        assert action is not None
        assert reward is not None
        steps = action.shape  # [B] or [B, L]
        features: Tensor = self.torso(scaled(obs, self.dtype).flatten(0, len(steps) - 1), given.draws)
        took = action[..., None] == torch.arange(self.num_actions, device=obs.device)  # one_hot reads it on the host
        told = (features.view(*steps, -1), took, reward.to(self.dtype).tanh()[..., None])
        x = torch.cat([part.to(self.dtype) for part in told], -1)
        x = x[None] if len(steps) == 1 else x.transpose(0, 1)  # [L, B, F + A + 1]
        start = x.new_zeros(len(obs), 2, self.width) if given.state is None else given.state
        hidden, cell = start.to(self.dtype).transpose(0, 1).contiguous().chunk(2)  # [1, B, H] each
        behind, last = self.lstm(x, (hidden, cell))
        rows = behind.transpose(0, 1).flatten(0, 1)  # [B * L, H], the steps of a sequence together
        out: QOut = self.head(rows, given)
        return QOut(q=out.q.view(*steps, -1), state=torch.cat(last).transpose(0, 1))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
