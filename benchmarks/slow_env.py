"""Catch that takes time but no core, on one rank more than on the others; it notes what it does and when.

    --env.id benchmarks.slow_env:PacedCatch-v0 --env.kwargs '{"pace": 0.001, "slow_rank": 1, "factor": 5}'

A step of n environments sleeps n x pace seconds, as a remote simulator or an accelerator would leave the core idle. So
having more ranks than cores can be told apart from having more ranks than the machine can feed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from trainer.envs.toy import Catch

NOTE_EVERY = 0.1
"""Seconds between notes."""


class PacedCatch(VectorEnv[Any, Any, Any]):
    """Catch behind Gymnasium's vector interface.

    pace: seconds of sleep per environment and step; times `factor` on the rank `slow_rank`. stumble: probability that a
    step takes `pause` seconds more, independently on each rank. notes: a folder for rank-R.jsonl with lines [time,
    vector steps, episodes ended, sum of their returns], each since the beginning.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        pace: float = 0.0,
        slow_rank: int = -1,
        factor: float = 1.0,
        stumble: float = 0.0,
        pause: float = 0.0,
        notes: str = "",
    ) -> None:
        rank = int(os.environ.get("RANK", "0"))
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(0.0, 1.0, (Catch.obs_size,), np.float32)
        self.single_action_space = gym.spaces.Discrete(Catch.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._sleep = num_envs * pace * (factor if rank == slow_rank else 1.0)
        self._stumble, self._pause, self._chance = stumble, pause, np.random.default_rng(rank)
        self._game, self._done = Catch(num_envs), np.zeros(num_envs, dtype=np.bool_)
        self._notes = Path(notes) / f"rank-{rank}.jsonl" if notes else None
        self._parent = os.getppid()
        self._steps, self._episodes, self._returns, self._noted = 0, 0, 0.0, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._done[:] = False
        self._game.begin(np.ones(self.num_envs, dtype=np.bool_), self.np_random)
        return self._game.obs(), {}

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        time.sleep(self._sleep + (self._pause if self._chance.random() < self._stumble else 0.0))
        begins = self._done
        reward, terminated = self._game.step(actions)
        if begins.any():
            self._game.begin(begins, self.np_random)
        self._done = terminated
        self._note(int(terminated.sum()), float(reward.sum()))  # reward comes only at the end
        return self._game.obs(), reward, terminated, np.zeros_like(terminated), {}

    def _note(self, episodes: int, returns: float) -> None:
        self._steps += 1
        self._episodes += episodes
        self._returns += returns
        now = time.time()
        if self._notes is not None and now - self._noted >= NOTE_EVERY:
            self._noted = now
            if os.getppid() != self._parent:  # the counting process was killed: this run would never end by itself
                os._exit(1)
            with self._notes.open("a") as file:
                file.write(json.dumps([now, self._steps, self._episodes, self._returns]) + "\n")


gym.register("PacedCatch-v0", vector_entry_point="benchmarks.slow_env:PacedCatch")
