"""Stable-Baselines3 answering the benchmarks' requests. Runs in its own environment: nothing of ours is imported.

Requests are those of `answering`, and {"what": "uniform", "who": ..., "case": {...}, "calls": N}. Answers hold seconds.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from answering import cadence, serve, trainer
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

BUFFERS: dict[str, ReplayBuffer] = {}
CHUNK = {"cartpole": 2_000, "pong": 64}
"""Env steps in one call of `learn`."""


class Episodes(BaseCallback):
    """Keeps the returns of finished episodes."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True


class Training:
    """DQN on a work; it always clips gradients, so the threshold is infinite."""

    def __init__(self, work: str, envs: int, epsilon: float, seed: int) -> None:
        settings = cartpole(envs, seed) if work == "cartpole" else pong(envs, seed)
        explore = {"exploration_initial_eps": epsilon, "exploration_final_eps": epsilon}
        self.model = DQN(
            **settings, **explore, tau=1.0, gamma=0.99, max_grad_norm=float("inf"), seed=seed, device="cpu"
        )
        self.chunk, self._episodes = CHUNK[work], Episodes()
        self._learn(self.model.learning_starts)

    def advance(self) -> None:
        self._learn(self.chunk)

    def _learn(self, env_steps: int) -> None:
        self.model.learn(env_steps, callback=self._episodes, reset_num_timesteps=False)

    def close(self) -> None:
        self.model.env.close()

    @property
    def env_steps(self) -> int:
        return self.model.num_timesteps

    @property
    def updates(self) -> int:
        return self.model._n_updates

    @property
    def returns(self) -> list[float]:
        return self._episodes.returns


def cartpole(envs: int, seed: int) -> dict[str, Any]:
    """Return CleanRL's CartPole settings."""
    cycle = cadence(envs, 10)
    return {
        "policy": "MlpPolicy",
        "env": make_vec_env("CartPole-v1", envs, seed=seed),
        "learning_rate": 2.5e-4,
        "buffer_size": 10_000,
        "learning_starts": 10_000,
        "batch_size": 128,
        "train_freq": cycle.steps,
        "gradient_steps": cycle.updates,
        "target_update_interval": 500,
        "policy_kwargs": {"net_arch": [120, 84]},
    }


def pong(envs: int, seed: int) -> dict[str, Any]:
    """Return Atari Pong with the Nature CNN; only one environment can share frames between observations."""
    import ale_py  # its games have to be registered

    gymnasium.register_envs(ale_py)
    cycle = cadence(envs, 4)
    env = make_atari_env("ALE/Pong-v5", envs, seed=seed, env_kwargs={"frameskip": 1, "repeat_action_probability": 0.25})
    return {
        "policy": "CnnPolicy",
        "env": VecFrameStack(env, 4),
        "learning_rate": 6.25e-5,
        "buffer_size": 20_000,
        "learning_starts": 1_000,
        "batch_size": 32,
        "train_freq": cycle.steps,
        "gradient_steps": cycle.updates,
        "target_update_interval": 8_000,
        "policy_kwargs": {"optimizer_kwargs": {"eps": 1.5e-4}},
    }


def versions() -> dict[str, Any]:
    found = {"stable_baselines3": stable_baselines3, "torch": torch, "gymnasium": gymnasium, "numpy": np}
    return {name: module.__version__ for name, module in found.items()}


def uniform(who: str, case: dict[str, Any], calls: int) -> dict[str, Any]:
    """Add `calls` steps of all environments, then sample as many batches; the memory is full beforehand."""
    name, shape, envs = case["name"], tuple(case["obs_shape"]), case["envs"]
    image = case["dtype"] == "uint8"
    obs = np.ones((envs, *shape), dtype=case["dtype"])
    action, reward, done = np.zeros((envs, 1), dtype=np.int64), np.zeros(envs), np.zeros(envs)
    infos: list[dict[str, Any]] = [{} for _ in range(envs)]
    if name not in BUFFERS:
        space = spaces.Box(0, 255, shape, np.uint8) if image else spaces.Box(-1, 1, shape, np.float32)
        kind, horizon = ReplayBuffer, {}
        if case["n_step"] > 1:
            kind, horizon = NStepReplayBuffer, {"n_steps": case["n_step"], "gamma": 0.99}
        BUFFERS.clear()  # frames stored twice are large
        BUFFERS[name] = kind(case["capacity"], space, spaces.Discrete(4), device="cpu", n_envs=envs, **horizon)
        while not BUFFERS[name].full:
            BUFFERS[name].add(obs, obs, action, reward, done, infos)
    buffer = BUFFERS[name]
    began = time.process_time()
    for _ in range(calls):
        buffer.add(obs, obs, action, reward, done, infos)
    added = time.process_time()
    for _ in range(calls):
        buffer.sample(case["batch"])
    sampled = time.process_time()
    held = (
        buffer.observations,
        buffer.next_observations,
        buffer.actions,
        buffer.rewards,
        buffer.dones,
        buffer.timeouts,
    )
    transitions = buffer.buffer_size * envs
    return {
        "add": added - began,
        "sample": sampled - added,
        "bytes_per_transition": sum(array.nbytes for array in held) / transitions,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"versions": versions, "uniform": uniform} | trainer(Training))
