"""Environments that go wrong on one rank: `tests_envs:Crash-v0` and the like, for the tests of failures.

Each is a tiny walk; kwargs: rank (which one goes wrong), at (its step), note (a file that gets the time).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np


class Walk(gym.Env[Any, Any]):
    """Ten cells; right pays. Slow, if asked, so that a run is still going when a signal comes."""

    def __init__(self, rank: int = 1, at: int = 100, note: str = "", sleep: float = 0.0) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (10,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.mine = os.environ.get("RANK", "0") == str(rank)
        self.at, self.note, self.sleep, self.steps, self.place = at, note, sleep, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        time.sleep(self.sleep)
        reward = float(action)
        if self.mine and self.steps == self.at:
            if self.note:
                Path(self.note).write_text(str(time.time()))
            reward = self.go_wrong(reward)
        self.place += 1
        return self._obs(), reward, self.place == 9, False, {}

    def go_wrong(self, reward: float) -> float:
        return reward

    def _obs(self) -> Any:
        return np.eye(10, dtype=np.float32)[self.place]


class Crash(Walk):
    def go_wrong(self, reward: float) -> float:
        raise RuntimeError("the walls came down")


class Killed(Walk):
    def go_wrong(self, reward: float) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        return reward


class Drift(Walk):
    """Mimics a silent hardware fault: one weight of this rank changes behind everyone's back."""

    def go_wrong(self, reward: float) -> float:
        import gc

        import torch

        from trainer.sync import FlatParameters

        gc.unfreeze()  # otherwise gc does not list what existed when training began
        flats = [item for item in gc.get_objects() if type(item) is FlatParameters]
        (online,) = [flat for flat in flats if torch.any(flat.grad != 0)]
        online.data.data[3] += 1e-3
        return reward


class Stray(Walk):
    """Mimics an environment that is not reproducible: once, one rank gets a different reward."""

    def go_wrong(self, reward: float) -> float:
        return reward + 0.5


FAULTS = {"Crash": Crash, "Killed": Killed, "Drift": Drift, "Stray": Stray}
for _name, _class in {"Walk": Walk, **FAULTS}.items():
    gym.register(f"{_name}-v0", _class)
