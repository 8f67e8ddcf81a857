"""Stable-Baselines3 answering the benchmarks' requests. Runs in its own environment: nothing of ours is imported.

Requests: {"what": "versions"}; {"what": "train", "work": W, "env_steps": N}, the first of which also fills the memory
until learning has started; {"what": "replay", "case": {...}, "calls": N}. Answers hold seconds.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

MODELS: dict[str, DQN] = {}
BUFFERS: dict[str, ReplayBuffer] = {}


def cartpole(epsilon: float) -> DQN:
    """Return DQN with CleanRL's CartPole settings; it always clips, so the threshold is out of reach."""
    return DQN(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=2.5e-4,
        buffer_size=10_000,
        learning_starts=10_000,
        batch_size=128,
        tau=1.0,
        gamma=0.99,
        train_freq=10,
        gradient_steps=1,
        target_update_interval=500,
        exploration_initial_eps=epsilon,
        exploration_final_eps=epsilon,
        max_grad_norm=float("inf"),
        policy_kwargs={"net_arch": [120, 84]},
        seed=1,
        device="cpu",
    )


WORKS = {"cartpole": cartpole}


def versions() -> dict[str, Any]:
    found = {"stable_baselines3": stable_baselines3, "torch": torch, "gymnasium": gymnasium, "numpy": np}
    return {name: module.__version__ for name, module in found.items()}


def train(work: str, env_steps: int, epsilon: float) -> dict[str, Any]:
    """Go on training for `env_steps`, with learning under way."""
    if work not in MODELS:
        MODELS[work] = WORKS[work](epsilon).learn(10_500)
    model = MODELS[work]
    steps, updates = model.num_timesteps, model._n_updates
    began = time.perf_counter()
    model.learn(env_steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "env_steps": model.num_timesteps - steps, "updates": model._n_updates - updates}


def replay(case: dict[str, Any], calls: int) -> dict[str, Any]:
    """Add `calls` steps of all environments, then sample as many batches; the memory is full before."""
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
        BUFFERS.clear()  # frames twice over are heavy
        BUFFERS[name] = kind(case["capacity"], space, spaces.Discrete(4), device="cpu", n_envs=envs, **horizon)
        while not BUFFERS[name].full:
            BUFFERS[name].add(obs, obs, action, reward, done, infos)
    buffer = BUFFERS[name]
    began = time.perf_counter()
    for _ in range(calls):
        buffer.add(obs, obs, action, reward, done, infos)
    added = time.perf_counter()
    for _ in range(calls):
        buffer.sample(case["batch"])
    sampled = time.perf_counter()
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


ANSWERS = {"versions": versions, "train": train, "replay": replay}


def main() -> None:
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            answer = ANSWERS[request.pop("what")](**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
