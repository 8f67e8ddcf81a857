"""Save and restore Gymnasium's classic control environments, as JSON values and one array.

This also runs in worker processes, which must not touch torch.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, MountainCarEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

AnyEnv = gym.Env[Any, Any]


def is_classic(env: AnyEnv) -> bool:
    """Whether `classic_state` captures all that the next step of env depends on, wrappers included."""
    while isinstance(env, gym.Wrapper):
        if type(env) not in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
            return False
        env = env.env
    return type(env) in (AcrobotEnv, CartPoleEnv, MountainCarEnv)


def classic_state(env: AnyEnv) -> dict[str, Any]:
    """Return the state of an environment that has been reset and for which `is_classic` holds."""
    core: Any = env.unwrapped
    limit = _time_limit(env)
    return {
        # The dtype is kept: Acrobot's is float32 after a reset and float64 after a step.
        "state": np.array(core.state),
        "steps_beyond_terminated": getattr(core, "steps_beyond_terminated", None),
        "elapsed": None if limit is None else limit._elapsed_steps,
        "random": core.np_random.bit_generator.state,
    }


def load_classic_state(env: AnyEnv, state: dict[str, Any]) -> None:
    """Restore a state from `classic_state` into an environment that has been reset."""
    core: Any = env.unwrapped
    core.state = np.array(state["state"])
    if hasattr(core, "steps_beyond_terminated"):
        core.steps_beyond_terminated = state["steps_beyond_terminated"]
    limit = _time_limit(env)
    if limit is not None:
        limit._elapsed_steps = state["elapsed"]
    core.np_random.bit_generator.state = state["random"]


def _time_limit(env: AnyEnv) -> TimeLimit[Any, Any] | None:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return env
        env = env.env
    return None
