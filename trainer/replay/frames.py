"""Observations that are stacks of frames, stored one frame a row and put together again when sampled."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trainer.replay.ring import Ring, pick
from trainer.types import Timestep


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

    def store(self, ring: Ring, timestep: Timestep, action: Tensor, after: Timestep, *, clip_reward: bool) -> None:
        """Write what `action` [N] made of a timestep; rows that an autoreset made are no transitions."""
        now = ring.device
        reward = after.reward.clamp(-1, 1) if clip_reward else after.reward
        ring.add(
            self.newest(timestep.obs).to(now),
            action.to(now),
            reward.to(now),
            terminal=(after.terminated | after.life_lost).to(now),
            done=(after.terminated | after.truncated).to(now),
            life_lost=after.life_lost.to(now),
            reset=after.reset.to(now),
            next_frame=self.newest(after.final_obs).to(now),
        )

    def gather(self, ring: Ring, index: Tensor) -> Tensor:
        """Return the observations of rows, flat index [B] -> [B, *]."""
        if self.stack == 1:
            return pick(ring.frames, index)
        back = torch.arange(self.stack - 1, -1, -1, device=index.device)  # oldest first
        age = pick(ring.age, index).long()[:, None]
        rows = ring.shift(index[:, None], -torch.minimum(back, age))  # [B, stack]
        if self.pad == "zero":
            rows = torch.where(back <= age, rows, ring.blank)
        return pick(ring.frames, rows)
