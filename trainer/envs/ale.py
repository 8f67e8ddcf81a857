"""Atari through ALE's C++ vector environment, which steps in threads between `send` and `recv`.

Found by trying ale-py 0.12 and pinned by tests: an episode's first stack is three zero frames and the frame, also after
no-ops and FIRE; SAME_STEP reports `final_obs` for all rows as one array, whose rows are only meaningful where the
episode ended; `life_loss_info` raises `terminated` in an episode that goes on, so lives are counted here instead.
ALE does not fetch the screen of the frame that ends an episode: the newest picture of its last stack is the maximum of
the one before and the third frame of four. It is only learned from in a truncated episode, one step in 27,000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Tensor

from trainer.envs.base import (
    CPU,
    Autoreset,
    Flags,
    StackPad,
    choose_autoreset,
    opening,
    refuse_unknown,
    stepped,
    take_limit,
)
from trainer.envs.spaces import ObsCodec, discrete_actions
from trainer.types import State, Timestep

STICKY = 0.25
KWARGS = ("img_height", "img_width", "maxpool", "max_num_frames_per_episode", "thread_affinity_offset")
MODES: dict[Autoreset, AutoresetMode] = {
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
}


class AleBackend:
    """A `Backend` of one Atari game: grey 84x84 frames, maximum over the last two emulator frames.

    Rewards are raw. Env i is seeded with seeds[i] (mod 2^31). kwargs may hold max_episode_steps and the arguments of
    ale_py.AtariVectorEnv listed in `KWARGS`. threads: 0 lets ALE choose.
    """

    device = CPU
    obs_dtype = torch.uint8
    stack_pad: StackPad = "zero"
    saves_state = False

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        seeds: Sequence[int],
        *,
        autoreset: str,
        kwargs: Mapping[str, Any],
        sticky: float | None,
        full_action_space: bool,
        frame_skip: int,
        frame_stack: int,
        noop_max: int,
        fire_reset: bool,
        life_loss: bool,
        threads: int,
    ) -> None:
        mode = choose_autoreset(autoreset, ("same_step", "next_step"), "ale")
        rest = dict(kwargs)
        limit = take_limit(rest, None)
        options = {name: rest.pop(name) for name in KWARGS if name in rest}
        refuse_unknown(rest, env_id, ("max_episode_steps", *KWARGS))
        if limit is not None:
            options["max_num_frames_per_episode"] = limit * frame_skip
        from ale_py import AtariVectorEnv

        game = gym.spec(env_id).kwargs["game"]  # the ROM's name: that of ALE/SpaceInvaders-v5 is space_invaders
        self._env = AtariVectorEnv(
            game,
            num_envs,
            num_threads=threads,
            repeat_action_probability=STICKY if sticky is None else sticky,
            full_action_space=full_action_space,
            autoreset_mode=MODES[mode],
            stack_num=frame_stack,
            frameskip=frame_skip,
            noop_max=noop_max,
            use_fire_reset=fire_reset,
            reward_clipping=False,
            **options,
        )
        self.num_envs = num_envs
        self.num_actions, _ = discrete_actions(self._env.single_action_space, env_id)
        self.obs_shape = ObsCodec(self._env.single_observation_space, env_id).shape
        self.stack = frame_stack
        self._same_step = mode == "same_step"
        self._life_loss = life_loss
        self._seeds: NDArray[np.int64] | None = np.array([seed % 2**31 for seed in seeds], dtype=np.int64)
        self._pending: Flags = np.zeros(num_envs, dtype=np.bool_)
        self._lives = np.zeros(num_envs, dtype=np.int32)
        self._newest: NDArray[np.uint8] | None = None  # env 0's latest frame, for `render`

    def reset(self) -> Timestep:
        seeds, self._seeds = self._seeds, None
        obs, info = self._env.reset(seed=seeds)
        self._pending = np.zeros(self.num_envs, dtype=np.bool_)
        self._lives = info["lives"]
        self._newest = obs[0, -1]
        return opening(torch.from_numpy(obs))

    def send(self, action: Tensor) -> None:
        self._env.send(action.numpy())

    def recv(self) -> Timestep:
        obs, reward, terminated, truncated, info = self._env.recv()
        self._newest = obs[0, -1]
        done = terminated | truncated
        # After a reset within this very step the lives are those of the next episode.
        life_lost = (info["lives"] < self._lives) & ~done & ~self._pending if self._life_loss else None
        self._lives = info["lives"]
        # ALE returns a new array at every step: no copy.
        obs_t = torch.from_numpy(obs)
        if not self._same_step:
            reset, self._pending = self._pending, done
            return stepped(obs_t, reward, terminated, truncated, life_lost=life_lost, reset=reset)
        if not done.any():
            return stepped(obs_t, reward, terminated, truncated, life_lost=life_lost)
        final_obs = obs.copy()
        final_obs[done] = info["final_obs"][done]
        return stepped(obs_t, reward, terminated, truncated, final_obs=torch.from_numpy(final_obs), life_lost=life_lost)

    def state_dict(self) -> State:
        raise NotImplementedError("ALE's vector env cannot save its state")

    def load_state_dict(self, state: State) -> None:
        raise NotImplementedError("ALE's vector env cannot restore its state")

    def render(self) -> NDArray[np.uint8] | None:
        """Return env 0's latest frame as the agent sees it, grey, enlarged four times."""
        if self._newest is None:
            return None
        return self._newest.repeat(4, axis=0).repeat(4, axis=1)[:, :, None].repeat(3, axis=2)

    def close(self) -> None:
        self._env.close()
