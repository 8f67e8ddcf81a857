"""`benchmarks.chaos.faulty_env:Faulty-v0`: a short walk that goes wrong, at a given step or at random."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

FAULTS = ("raise", "segv", "hang", "nan", "reward", "shape")
CELLS = 10


class Faulty(gym.Env[Any, Any]):
    """Ten cells; right pays. fault: one of FAULTS, at step `at` of the first to get there, or with probability `p`.

    note: a file whose existence says that it has happened.
    """

    def __init__(self, fault: str = "raise", at: int = 0, note: str = "", p: float = 0.0) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (CELLS,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.fault, self.at, self.note, self.p = fault, at, Path(note), p
        self.place, self.steps = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        obs, reward = self._obs(), float(action)
        if self._goes_wrong():
            if self.fault == "raise":
                raise RuntimeError("the walls came down")
            if self.fault == "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            if self.fault == "hang":
                time.sleep(3600)
            if self.fault == "shape":
                return obs[:3], reward, False, False, {}
            if self.fault == "nan":
                return obs * np.nan, reward, False, False, {}
            return obs, float("nan"), False, False, {}
        self.place += 1
        return self._obs(), reward, self.place == CELLS - 1, False, {}

    def _goes_wrong(self) -> bool:
        if self.at and self.steps == self.at:
            with contextlib.suppress(FileExistsError):
                self.note.touch(exist_ok=False)
                return True
        return self.p > 0 and bool(self.np_random.random() < self.p)

    def _obs(self) -> Any:
        return np.eye(CELLS, dtype=np.float32)[self.place]


gym.register("Faulty-v0", Faulty)
