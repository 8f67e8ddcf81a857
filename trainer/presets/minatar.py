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
    """MinAtar with the settings of its DQN (Young & Tian 2019): sticky actions, six actions, an update per frame."""
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
    """MinAtar with Dopamine's DQN settings for it (Castro et al. 2018): an update every four frames."""
    base = minatar(game)
    return replace(
        base,
        preset=f"minatar-dqn-{game.lower()}",
        policy=PolicyConfig(epsilon_end=0.01, epsilon_wait=1_000, epsilon_decay=250_000),
        replay=ReplayConfig(capacity=100_000, batch_size=32, learning_starts=1_000, update_every=4),
        loss=LossConfig(kind="huber"),
        optim=OptimConfig(lr=2.5e-4, eps=3.125e-4),
    )


def minatar_ddp(game: str = "Breakout") -> Config:
    """MinAtar, `minatar-dqn-*` with Double, Dueling (Wang et al. 2016) and prioritized replay (Schaul et al. 2016)."""
    base = minatar_dqn(game)
    return replace(
        base,
        preset=f"minatar-ddp-{game.lower()}",
        replay=replace(base.replay, kind="prioritized", alpha=0.6, beta=0.4, beta_end=1.0),
        net=NetConfig(hidden=(), head_hidden=(128,), dueling=True),
        loss=replace(base.loss, double=True),
    )


def minatar_rainbow(game: str = "Breakout") -> Config:
    """MinAtar, `minatar-dqn-*` with all of Rainbow (Hessel et al. 2018); atoms of Dopamine's MinAtar settings."""
    base = minatar_dqn(game)
    return replace(
        base,
        preset=f"minatar-rainbow-{game.lower()}",
        policy=PolicyConfig(epsilon_start=0.0, epsilon_end=0.0, epsilon_decay=0),
        replay=replace(base.replay, kind="prioritized", n_step=3, alpha=0.5, beta=0.4, beta_end=1.0),
        net=NetConfig(
            head="c51",
            atoms=51,
            v_min=-100.0,
            v_max=100.0,
            hidden=(),
            head_hidden=(128,),
            dueling=True,
            noisy=True,
            noisy_shared=True,
            noisy_sigma=0.5,
        ),
        loss=LossConfig(double=True),
    )
