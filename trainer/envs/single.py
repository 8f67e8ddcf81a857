"""One Gymnasium environment as the sync and async vector envs hold it, in this process or in a worker.

Workers are forked, as those of torch's DataLoader are, after the process group is up. That is sound because they run
the environment only: they touch neither torch nor a GPU nor a collective. They ignore the signals that are the
trainer's to handle, and they die with it, or they would keep its sockets open and its peers waiting.
"""

from __future__ import annotations

import ctypes
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from trainer.envs.classic_state import AnyEnv, classic_state, is_classic, load_classic_state


class EnvError(RuntimeError):
    """An environment raised; the text holds its traceback, which may have come from another process."""


class Single(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose exceptions can cross a process border and whose state can be saved.

    Gymnasium's worker sends exceptions as (type, value), which hangs or loses them where they do not pickle.
    """

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        self._pending = False  # this env was restored between an episode's end and its reset (NEXT_STEP)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._pending = False
        try:
            return self.env.reset(seed=seed, options=options)[0], {}
        except Exception:
            raise EnvError(f"the environment failed in reset\n{traceback.format_exc()}") from None

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._pending:
            return self.reset()[0], 0.0, False, False, {}
        try:
            obs, reward, terminated, truncated, _ = self.env.step(action)
        except Exception:
            raise EnvError(f"the environment failed in step\n{traceback.format_exc()}") from None
        if terminated or truncated:
            obs = np.array(obs)  # an environment that writes into one buffer would overwrite it in the reset
        return obs, float(reward), bool(terminated), bool(truncated), {}

    @property
    def can_save(self) -> bool:
        return is_classic(self.env)

    @property
    def saved(self) -> tuple[dict[str, Any], bool]:
        """The state, and whether the next step is to be a reset; set through the vector env's set_attr."""
        return classic_state(self.env), self._pending

    @saved.setter
    def saved(self, value: tuple[dict[str, Any], bool]) -> None:
        state, self._pending = value
        load_classic_state(self.env, state)


def make_single(env_id: str, kwargs: Mapping[str, Any], render: bool) -> AnyEnv:
    """Build one environment; the checker that Gymnasium wraps around it costs a third of a step of CartPole."""
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    return gym.make(env_id, disable_env_checker=True, **mode, **kwargs)


def thunk(env_id: str, kwargs: Mapping[str, Any], render: bool) -> Callable[[], Single]:
    """Return what a vector env calls to build one environment: here, or in a child process of this one."""
    owner = os.getpid()

    def build() -> Single:
        if os.getpid() != owner:
            _serve_only(owner)
        return Single(make_single(env_id, kwargs, render))

    return build


def _serve_only(owner: int) -> None:
    """Leave the trainer's signals to the trainer, and die with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    pr_set_pdeathsig = 1
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # Linux
        prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != owner:  # it died before the line above
        os._exit(1)
