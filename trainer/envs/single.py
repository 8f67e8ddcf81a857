"""One Gymnasium environment inside the sync and async vector envs, in this process or in a worker.

Workers are forked, like those of torch's DataLoader, after the process group is up. That is sound because they only
run the environment: they touch neither torch nor a GPU nor a collective. They ignore the signals that the trainer
handles, and they die with it; otherwise they would keep its sockets open and its peers waiting.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from trainer.envs.classic_state import AnyEnv, classic_state, is_classic, load_classic_state
from trainer.envs.restarts import EnvError

FAILURE = "lockstep_failure"
"""Key in a step's info for why the environment failed and will be restarted."""


class Single(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that survives its failures and whose state can be saved.

    A step that raises, or returns a non-finite number or an unannounced shape, cuts the episode at the last good
    observation; the reset that follows rebuilds the environment. seed: of the first reset, if that is `pending`: made
    by the next step, in place of one.
    """

    def __init__(self, make: Callable[[], AnyEnv], seed: int | None = None, pending: bool = False) -> None:
        super().__init__(make())
        self._make, self._seed, self._pending = make, seed, pending
        self._fresh = pending  # else a pending reset is that of a restored episode, which goes on with its own numbers
        space = self.env.observation_space
        self._shape, self._is_float = space.shape, space.dtype is not None and space.dtype.kind == "f"
        self._last: Any = None
        self._failure = ""
        self._failures = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is None and self._fresh:
            seed = self._seed
        self._pending = self._fresh = False
        if seed is not None:
            self._seed = seed
        if self._failure:
            seed = self._begin_anew()
        try:
            self._last = self._checked(self.env.reset(seed=seed, options=options)[0])
        except Exception:
            raise EnvError(self._failure or f"the environment failed in reset\n{traceback.format_exc()}") from None
        self._failure = ""
        return self._last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._pending:
            return self.reset()[0], 0.0, False, False, {}
        try:
            obs, reward, terminated, truncated, _ = self.env.step(action)
            obs, reward = self._checked(obs), float(reward)
            if not math.isfinite(reward):
                raise ValueError(f"a reward of {reward}")
        except Exception:
            self._failure = f"the environment failed in step\n{traceback.format_exc()}"
            return self._last_good(), 0.0, False, True, {FAILURE: self._failure}
        if terminated or truncated:
            obs = np.array(obs)  # an environment that reuses one buffer would overwrite it in the reset
        self._last = obs
        return obs, reward, bool(terminated), bool(truncated), {}

    def _checked(self, obs: Any) -> Any:
        if np.shape(obs) != self._shape:
            raise ValueError(f"an observation of shape {np.shape(obs)}, not {self._shape}")
        # the sum is cheap, and finite if all are and none is huge
        if (
            self._is_float
            and not math.isfinite(np.add.reduce(obs, axis=None, dtype=np.float64))
            and not np.isfinite(obs).all()
        ):
            raise ValueError("an observation that is not finite")
        return obs

    def _last_good(self) -> Any:
        """Return a copy of the last observation; zeros if the environment, which may own it, has spoiled it."""
        return np.array(self._last) if np.isfinite(self._last).all() else np.zeros_like(self._last)

    def _begin_anew(self) -> int | None:
        """Build a new environment; return the seed of its first reset, derived from the original one."""
        with contextlib.suppress(Exception):
            self.env.close()
        self.env = self._make()
        self._failures += 1
        return None if self._seed is None else fresh_seed(self._seed, self._failures)

    @property
    def can_save(self) -> bool:
        return is_classic(self.env)

    @property
    def saved(self) -> tuple[dict[str, Any], bool]:
        """The state, and whether the next step is a reset; set through the vector env's set_attr."""
        return classic_state(self.env), self._pending

    @saved.setter
    def saved(self, value: tuple[dict[str, Any], bool]) -> None:
        (state, self._pending), self._fresh = value, False
        load_classic_state(self.env, state)


def make_single(env_id: str, kwargs: Mapping[str, Any], render: bool) -> AnyEnv:
    """Build one environment, without Gymnasium's checker, which costs a third of a step of CartPole."""
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    return gym.make(env_id, disable_env_checker=True, **mode, **kwargs)


def thunk(
    env_id: str, kwargs: Mapping[str, Any], render: bool, seed: int | None = None, pending: bool = False
) -> Callable[[], Single]:
    """Return what a vector env calls to build one environment (see `Single`), here or in a child process."""
    owner = os.getpid()

    def build() -> Single:
        if os.getpid() != owner:
            _serve_only(owner)
        return Single(lambda: make_single(env_id, kwargs, render), seed, pending)

    return build


def fresh_seed(seed: int, restarts: int) -> int:
    """Return the seed of an environment restarted so many times, below 2^31."""
    return int(np.random.SeedSequence([seed, restarts]).generate_state(1)[0] >> 1)


def _serve_only(owner: int) -> None:
    """Ignore the trainer's signals, and die with the trainer."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    pr_set_pdeathsig = 1
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # Linux
        prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != owner:  # the trainer died before the prctl
        os._exit(1)
