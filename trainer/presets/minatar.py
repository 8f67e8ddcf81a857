"""MinAtar (Young & Tian 2019): five small Atari-like games, minutes on a CPU."""

from __future__ import annotations

from dataclasses import replace

from trainer.config import (
    CheckpointConfig,
    Config,
    EnvConfig,
    LogConfig,
    LossConfig,
    NetConfig,
    OptimConfig,
    PolicyConfig,
    ReplayConfig,
    TargetConfig,
)

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


def minatar(game: str = "Breakout") -> Config:
    """MinAtar with the settings of its DQN (Young & Tian 2019): sticky actions, six actions, an update a frame."""
    return Config(
        preset="minatar" if game == "Breakout" else f"minatar-{game.lower()}",
        total_env_steps=1_000_000,
        env=EnvConfig(id=f"MinAtar/{game}-v0", num_envs=4),
        policy=PolicyConfig(epsilon_end=0.1, epsilon_wait=5_000, epsilon_decay=100_000),
        replay=ReplayConfig(capacity=100_000, batch_size=32, learning_starts=5_000, update_every=1),
        net=NetConfig(hidden=(128,)),
        loss=LossConfig(kind="huber"),
        optim=OptimConfig(kind="rmsprop", lr=2.5e-4, eps=0.01, rms_decay=0.95),
        target=TargetConfig(every=1_000),
        log=LogConfig(every=5_000),
        checkpoint=CheckpointConfig(every=250_000),
    )


def minatar_dqn(game: str = "Breakout") -> Config:
    """MinAtar with Dopamine's DQN settings for it (Castro et al. 2018): an update in four frames."""
    base = minatar(game)
    return replace(
        base,
        preset=f"minatar-dqn-{game.lower()}",
        policy=PolicyConfig(epsilon_end=0.01, epsilon_wait=1_000, epsilon_decay=250_000),
        replay=ReplayConfig(capacity=100_000, batch_size=32, learning_starts=1_000, update_every=4),
        loss=LossConfig(kind="huber"),
        optim=OptimConfig(lr=2.5e-4, eps=3.125e-4),
    )
