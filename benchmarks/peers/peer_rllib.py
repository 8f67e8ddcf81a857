"""RLlib answering the benchmarks' requests. Runs in its own environment: nothing of ours is imported."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

import ray
import torch
from answering import WINDOW, serve, trainer
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

BATCH = 128


class Training:
    """Its own loop decides how much happens between two readings; the updates per env step are requested.

    work: `cartpole`, learned by this process; or `cartpole, N`, by N learners that share each batch, on all cores.
    """

    def __init__(self, work: str, envs: int, epsilon: float, seed: int) -> None:
        name, _, told = work.partition(", ")
        assert name == "cartpole"
        learners = int(told or 0)
        if learners:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
        config = (
            DQNConfig()
            .environment("CartPole-v1")
            .env_runners(num_env_runners=0, num_envs_per_env_runner=envs, rollout_fragment_length="auto")
            .learners(num_learners=learners if learners > 1 else 0)
            .training(
                lr=2.5e-4,
                gamma=0.99,
                train_batch_size_per_learner=BATCH // max(learners, 1),
                training_intensity=12.8,
                n_step=1,
                double_q=False,
                dueling=False,
                epsilon=epsilon,
                target_network_update_freq=500,
                num_steps_sampled_before_learning_starts=10_000,
                grad_clip=None,
                td_error_loss_fn="huber",
                replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 10_000},
            )
            .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[120], head_fcnet_hiddens=[84]))
            .reporting(
                min_sample_timesteps_per_iteration=100,
                min_time_s_per_iteration=0,
                metrics_num_episodes_for_smoothing=WINDOW,
            )
            .debugging(seed=seed, log_level="ERROR")
        )
        self.algorithm: Any = config.build_algo()
        self.env_steps, self.updates = 0, 0
        self.returns: list[float] = []
        while self.updates == 0:
            self.advance()

    def advance(self) -> None:
        told = self.algorithm.train()
        self.env_steps = int(told["num_env_steps_sampled_lifetime"])
        learned = told.get("learners", {}).get("default_policy", {})
        self.updates = int(
            learned.get("module_train_batch_size_mean", 0)
            and told["learners"]["__all_modules__"].get("num_module_steps_trained_lifetime", 0) // BATCH
        )
        mean = told.get("env_runners", {}).get("episode_return_mean")
        if mean is not None:
            self.returns = [float(mean)] * WINDOW

    def close(self) -> None:
        self.algorithm.stop()


def versions() -> dict[str, Any]:
    return {name: metadata.version(name) for name in ("ray", "torch", "gymnasium", "numpy")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve({"versions": versions} | trainer(Training))
