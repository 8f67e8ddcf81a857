"""Tianshou answering the benchmarks' requests. Runs in its own environment: nothing of ours is imported.

Its collector, memory and algorithm are put together by hand, without its trainer, which tests policies and writes logs
in between.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import gymnasium
import torch
from answering import cadence, serve, trainer
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Net
from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode

CHUNK = 50  # updates


class Training:
    def __init__(self, work: str, envs: int, epsilon: float, seed: int) -> None:
        assert work == "cartpole"
        torch.manual_seed(seed)
        env = gymnasium.make("CartPole-v1")
        net: Any = Net(state_shape=env.observation_space.shape, action_shape=2, hidden_sizes=[120, 84])
        self.policy = DiscreteQLearningPolicy(model=net, action_space=env.action_space, eps_training=epsilon)
        self.cycle = cadence(envs, 10)
        # its target is refreshed after so many updates, 10 env steps each
        self.algorithm: Any = DQN(
            policy=self.policy,
            optim=AdamOptimizerFactory(lr=2.5e-4),
            gamma=0.99,
            target_update_freq=50,
            is_double=False,
        )
        self.buffer = VectorReplayBuffer(10_000, envs)
        vector = DummyVectorEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(envs)])
        self.collector: Any = Collector(self.policy, vector, self.buffer, exploration_noise=True)
        self.collector.env.seed(seed)
        self.collector.reset()
        self.envs, self.env_steps, self.updates = envs, 0, 0
        self.returns: list[float] = []
        with policy_within_training_step(self.policy):
            self._collect(-(-10_000 // envs))

    def advance(self) -> None:
        for _ in range(-(-CHUNK // self.cycle.updates)):
            with policy_within_training_step(self.policy):
                self._collect(self.cycle.steps)
                with torch_train_mode(self.policy):
                    for _ in range(self.cycle.updates):
                        self.algorithm.update(sample_size=128, buffer=self.buffer)
            self.updates += self.cycle.updates

    def close(self) -> None:
        self.collector.env.close()

    def _collect(self, steps: int) -> None:
        told = self.collector.collect(n_step=steps * self.envs)
        self.env_steps += told.n_collected_steps
        self.returns += list(map(float, told.returns))


def versions() -> dict[str, Any]:
    return {name: metadata.version(name) for name in ("tianshou", "torch", "gymnasium", "numpy")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"versions": versions} | trainer(Training))
