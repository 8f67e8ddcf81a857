"""Runs that are known to work, each with the source of its hyperparameters. A preset is a function returning a Config.

Imports config alone, never torch, so that `lockstep presets` and `--help` answer at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

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

MINATAR_GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


def debug() -> Config:
    """Catch in seconds on a CPU, for tests and for a first look (environment: bsuite, Osband et al. 2020)."""
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
        eval=EvalConfig(every=10_000),
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
    """Atari DQN by CleanRL's dqn_atari.py (Huang et al. 2022): no sticky actions, life loss, no-ops; 40M frames."""
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


PRESETS: dict[str, Callable[[], Config]] = {
    "debug": debug,
    "cartpole": cartpole,
    "cartpole-cleanrl": cartpole_cleanrl,
    "acrobot": acrobot,
    "mountaincar": mountaincar,
    "lunarlander": lunarlander,
    "minatar": minatar,
    "minatar-asterix": lambda: minatar("Asterix"),
    "minatar-breakout": minatar,
    "minatar-freeway": lambda: minatar("Freeway"),
    "minatar-seaquest": lambda: minatar("Seaquest"),
    "minatar-spaceinvaders": lambda: minatar("SpaceInvaders"),
    **{f"minatar-dqn-{game.lower()}": functools.partial(minatar_dqn, game) for game in MINATAR_GAMES},
    "atari": atari,
    "atari-nature": atari_nature,
}
