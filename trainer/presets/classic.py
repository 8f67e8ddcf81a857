"""Vector observations and toys: seconds to minutes on a CPU."""

from __future__ import annotations

from trainer.config import (
    CheckpointConfig,
    Config,
    EnvConfig,
    EvalConfig,
    LogConfig,
    LossConfig,
    NetConfig,
    OptimConfig,
    PolicyConfig,
    ReplayConfig,
    TargetConfig,
)


def debug() -> Config:
    """Catch in seconds on a CPU, for tests and a first look (environment: bsuite, Osband et al. 2020)."""
    return Config(
        preset="debug",
        total_env_steps=20_000,
        env=EnvConfig(id="toy/Catch", num_envs=8),
        policy=PolicyConfig(epsilon_end=0.05, epsilon_decay=5_000),
        replay=ReplayConfig(capacity=10_000, batch_size=64, learning_starts=500, update_every=8),
        net=NetConfig(hidden=(64, 64)),
        optim=OptimConfig(lr=1e-3),
        target=TargetConfig(every=400),
        checkpoint=CheckpointConfig(every=5_000),
        eval=EvalConfig(episodes=100, num_envs=8),
    )


def cartpole() -> Config:
    """CartPole-v1, RL Zoo's DQN network, batch and epsilon (Raffin 2020); Double, 3-step, annealed lr."""
    return Config(
        preset="cartpole",
        total_env_steps=100_000,
        env=EnvConfig(id="CartPole-v1", num_envs=8),
        policy=PolicyConfig(epsilon_end=0.04, epsilon_decay=16_000),
        replay=ReplayConfig(capacity=100_000, batch_size=64, learning_starts=1_000, update_every=4, n_step=3),
        net=NetConfig(hidden=(256, 256)),
        loss=LossConfig(double=True, kind="huber"),
        optim=OptimConfig(lr=1e-3, lr_end=0.0, max_grad_norm=10),
        target=TargetConfig(every=500),
        checkpoint=CheckpointConfig(every=20_000),
        eval=EvalConfig(every=10_000, num_envs=100),
        log=LogConfig(video=True),
    )


def cartpole_cleanrl() -> Config:
    """CartPole-v1 with the settings of CleanRL's dqn.py (Huang et al. 2022)."""
    return Config(
        preset="cartpole-cleanrl",
        total_env_steps=500_000,
        env=EnvConfig(id="CartPole-v1", num_envs=1),
        policy=PolicyConfig(epsilon_end=0.05, epsilon_decay=250_000),
        replay=ReplayConfig(capacity=10_000, batch_size=128, learning_starts=10_000, update_every=10),
        net=NetConfig(hidden=(120, 84)),
        optim=OptimConfig(lr=2.5e-4),
        target=TargetConfig(every=500),
    )


def acrobot() -> Config:
    """Acrobot-v1, RL Zoo's DQN settings (Raffin 2020)."""
    return Config(
        preset="acrobot",
        total_env_steps=100_000,
        env=EnvConfig(id="Acrobot-v1", num_envs=8),
        policy=PolicyConfig(epsilon_end=0.1, epsilon_decay=12_000),
        replay=ReplayConfig(capacity=50_000, batch_size=128, learning_starts=1_000, update_every=1),
        net=NetConfig(hidden=(256, 256)),
        loss=LossConfig(kind="huber"),
        optim=OptimConfig(lr=6.3e-4, max_grad_norm=10),
        target=TargetConfig(every=250),
    )


def mountaincar() -> Config:
    """MountainCar-v0, RL Zoo's DQN settings (Raffin 2020): one environment and updates in bursts of eight."""
    return Config(
        preset="mountaincar",
        total_env_steps=120_000,
        env=EnvConfig(id="MountainCar-v0", num_envs=1),
        policy=PolicyConfig(epsilon_end=0.07, epsilon_decay=24_000),
        replay=ReplayConfig(
            capacity=10_000, batch_size=128, learning_starts=1_000, update_every=2, burst=8, gamma=0.98
        ),
        net=NetConfig(hidden=(256, 256)),
        loss=LossConfig(kind="huber"),
        optim=OptimConfig(lr=4e-3, max_grad_norm=10),
        target=TargetConfig(every=600),
    )


def lunarlander() -> Config:
    """LunarLander-v3, RL Zoo's DQN settings (Raffin 2020), for longer and with Double Q-learning."""
    return Config(
        preset="lunarlander",
        total_env_steps=300_000,
        env=EnvConfig(id="LunarLander-v3", num_envs=8),
        policy=PolicyConfig(epsilon_end=0.05, epsilon_decay=36_000),
        replay=ReplayConfig(capacity=100_000, batch_size=128, learning_starts=2_000, update_every=2),
        net=NetConfig(hidden=(256, 256)),
        loss=LossConfig(double=True, kind="huber"),
        optim=OptimConfig(lr=6.3e-4, lr_end=6.3e-5, max_grad_norm=10),
        target=TargetConfig(every=1_000),
    )
