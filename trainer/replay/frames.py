"""Observations that are stacks of frames, stored one frame per row and reassembled when sampled."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainer.replay.ring import Ring, pick
from trainer.types import Timestep


class Happened(NamedTuple):
    """What the actions of N lanes led to, in the form that a ring stores."""

    frame: Tensor  # [N, *frame]
    action: Tensor  # [N] int64
    reward: Tensor  # [N] float32, unclipped
    terminated: Tensor  # [N] bool, and so are the next three; as in `Timestep`
    truncated: Tensor
    life_lost: Tensor
    reset: Tensor
    next_frame: Tensor  # [N, *frame]


class Frames:
    """How an observation is kept in a ring: whole (stack 1), or as its newest frame.

    stack: frames per observation, along its first dimension, newest last; pad: what an environment fills the stack
    with right after a reset, copies of the first frame (`repeat`) or zeros.
    """

    def __init__(self, obs_shape: tuple[int, ...], stack: int, pad: Literal["repeat", "zero"]) -> None:
        assert stack == 1 or obs_shape[0] == stack, "the stack is the first dimension"
        self.stack, self.pad = stack, pad
        self.frame_shape = obs_shape if stack == 1 else obs_shape[1:]

    def newest(self, obs: Tensor) -> Tensor:
        """Return what a row keeps of observations: [N, *] -> [N, *frame]."""
        return obs if self.stack == 1 else obs[:, -1]

    def happened(self, timestep: Timestep, action: Tensor, after: Timestep, device: torch.device) -> Happened:
        """Return what `action` [N] led to from a timestep, on the device of the ring."""
        happened = Happened(
            self.newest(timestep.obs),
            action,
            after.reward,
            after.terminated,
            after.truncated,
            after.life_lost,
            after.reset,
            self.newest(after.final_obs),
        )
        return happened if action.device == device else Happened(*(field.to(device) for field in happened))

    def store(self, ring: Ring, what: Happened, *, clip_reward: bool) -> None:
        """Write what happened, after `ring.before_step`; rows made by an autoreset are not transitions."""
        ring.add(
            what.frame,
            what.action,
            what.reward.clamp(-1, 1) if clip_reward else what.reward,
            terminal=what.terminated | what.life_lost,
            done=what.terminated | what.truncated,
            life_lost=what.life_lost,
            reset=what.reset,
            next_frame=what.next_frame,
        )

    def gather(self, ring: Ring, index: Tensor) -> Tensor:
        """Return the observations of rows, flat index [B] -> [B, *]."""
        return pick(ring.frames, self.rows(ring, index))

    def rows(self, ring: Ring, index: Tensor) -> Tensor:
        """Return where the frames of the observations of rows are stored: flat index [B] -> [B], or [B, stack]."""
        if self.stack == 1:
            return index
        back = torch.arange(self.stack - 1, -1, -1, device=index.device)  # oldest first
        age = pick(ring.age, index).long()[:, None]
        rows = ring.place(ring.shift(index[:, None], -torch.minimum(back, age)))  # [B, stack]
        if self.pad == "zero":
            rows = torch.where(back <= age, rows, ring.blank)
        return rows

    def rows_around(self, ring: Ring, index: Tensor, after: Tensor, *, steps: int) -> Tensor:
        """Return where the frames of the stacks at `index` [B] and, `steps` later, at `after` [B] are stored: [B, R].

        The first `stack` of them are the former, the last `stack` the latter. After one step all but the newest are
        the same, at the beginning of an episode as well.
        """
        newer = ring.place(after)[:, None] if steps == 1 else self.rows(ring, after)
        return torch.cat((self.rows(ring, index), newer), 1)
