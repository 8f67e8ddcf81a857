"""Environments that hide a part of their state: `trainer.envs.partial:CartPoleNoVelocity-v1`.

Importing this module registers them with Gymnasium. Without velocities a single observation does not tell which way the
pole falls; two do, so an agent needs memory (Hausknecht & Stone 2015 hide frames to the same end).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from trainer.envs.classic_state import AnyEnv

POSITIONS = [0, 2]
"""Positions of cart and pole in CartPole's observation."""


def cartpole_without_velocities(**kwargs: Any) -> AnyEnv:
    """Return a CartPole that shows only the cart's position and the pole's angle, [2] float32."""
    env: AnyEnv = gym.make("CartPole-v1", **kwargs).unwrapped
    whole = env.observation_space
    assert isinstance(whole, gym.spaces.Box)
    space = gym.spaces.Box(whole.low[POSITIONS], whole.high[POSITIONS], dtype=np.float32)
    return gym.wrappers.TransformObservation(env, lambda obs: obs[POSITIONS], space)


gym.register("CartPoleNoVelocity-v1", cartpole_without_velocities, max_episode_steps=500)
