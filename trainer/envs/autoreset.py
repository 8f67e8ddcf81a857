"""Gymnasium's two autoreset modes, in one place: from a vector env's step to the normal form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.envs.base import Array, Autoreset, Flags, opening, stepped
from trainer.envs.spaces import ObsCodec
from trainer.types import Timestep


class NormalForm:
    """Turns what a Gymnasium vector env returns into timesteps.

    NEXT_STEP: the row after an episode's end is its reset, as only the previous step reveals: hence `pending`.
    SAME_STEP: the ended episode's last observation is in the info, only for the rows that ended.
    """

    def __init__(self, codec: ObsCodec, mode: Autoreset, num_envs: int) -> None:
        self._codec, self._mode = codec, mode
        self.pending: Flags = np.zeros(num_envs, dtype=np.bool_)

    def reset(self, obs: Array) -> Timestep:
        self.pending[:] = False
        return opening(self._codec.encode(obs))

    def step(self, obs: Array, reward: Array, terminated: Flags, truncated: Flags, info: Mapping[str, Any]) -> Timestep:
        obs_t = self._codec.encode(obs)
        done = np.logical_or(terminated, truncated)
        if self._mode == "next_step":
            reset, self.pending = self.pending, done
            return stepped(obs_t, reward, terminated, truncated, reset=reset)
        if not done.any():
            return stepped(obs_t, reward, terminated, truncated)
        rows = np.flatnonzero(done)
        final_obs = obs_t.clone()
        final_obs[rows] = self._codec.encode([info["final_obs"][i] for i in rows])
        return stepped(obs_t, reward, terminated, truncated, final_obs=final_obs)
