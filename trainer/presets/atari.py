"""Atari 2600: hours on a GPU."""

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


def atari(game: str = "Breakout") -> Config:
    """Atari DQN as in Dopamine's dqn.gin (Castro et al. 2018): sticky actions, no life loss; 200M frames."""
    return Config(
        preset="atari",
        total_env_steps=50_000_000,
        env=EnvConfig(id=f"ALE/{game}-v5", num_envs=8, sticky=0.25, clip_reward=True),
        policy=PolicyConfig(epsilon_end=0.01, epsilon_wait=20_000, epsilon_decay=250_000),
        replay=ReplayConfig(capacity=1_000_000, batch_size=32, learning_starts=20_000, update_every=4),
        net=NetConfig(hidden=(512,)),
        loss=LossConfig(kind="mse"),
        optim=OptimConfig(lr=6.25e-5, eps=1.5e-4),
        target=TargetConfig(every=8_000),
        log=LogConfig(every=10_000),
        checkpoint=CheckpointConfig(every=1_000_000),
        eval=EvalConfig(every=1_000_000, episodes=16, num_envs=8, epsilon=0.001),
    )


def atari_nature(game: str = "Breakout") -> Config:
    """Atari DQN as in CleanRL's dqn_atari.py (Huang et al. 2022): no sticky actions, life loss, no-ops; 40M frames."""
    return Config(
        preset="atari-nature",
        total_env_steps=10_000_000,
        env=EnvConfig(
            id=f"ALE/{game}-v5",
            num_envs=8,
            sticky=0.0,
            noop_max=30,
            fire_reset=True,
            life_loss=True,
            clip_reward=True,
        ),
        policy=PolicyConfig(epsilon_end=0.01, epsilon_decay=1_000_000),
        replay=ReplayConfig(capacity=1_000_000, batch_size=32, learning_starts=80_000, update_every=4),
        net=NetConfig(hidden=(512,)),
        loss=LossConfig(kind="mse"),
        optim=OptimConfig(lr=1e-4),
        target=TargetConfig(every=1_000),
        log=LogConfig(every=10_000),
        checkpoint=CheckpointConfig(every=1_000_000),
        eval=EvalConfig(every=1_000_000, episodes=16, num_envs=8, epsilon=0.001),
    )
