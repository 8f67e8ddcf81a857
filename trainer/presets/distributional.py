"""Distributional, Munchausen and Rainbow agents on Atari 2600 as published; hours to days on a GPU.

Eight environments step together where the papers have one; everything else is counted in env steps, as there.
The learning rates of 5e-5 and epsilons of 0.01/32 are those of the papers.
"""

from __future__ import annotations

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
from trainer.presets.atari import atari


def c51(game: str = "Breakout") -> Config:
    """Atari C51 (Bellemare et al. 2017): 51 atoms in [-10, 10], no sticky actions, life loss; 200M frames."""
    return Config(
        preset="c51",
        total_env_steps=50_000_000,
        env=EnvConfig(id=f"ALE/{game}-v5", num_envs=8, sticky=0.0, noop_max=30, life_loss=True, clip_reward=True),
        policy=PolicyConfig(epsilon_end=0.01, epsilon_wait=50_000, epsilon_decay=1_000_000),
        replay=ReplayConfig(capacity=1_000_000, batch_size=32, learning_starts=50_000, update_every=4),
        net=NetConfig(head="c51", atoms=51, v_min=-10.0, v_max=10.0, hidden=(512,)),
        optim=OptimConfig(lr=2.5e-4, eps=3.125e-4),
        target=TargetConfig(every=10_000),
        log=LogConfig(every=10_000),
        checkpoint=CheckpointConfig(every=1_000_000),
        eval=EvalConfig(every=1_000_000, episodes=16, num_envs=8, epsilon=0.001),
    )


def qr_dqn(game: str = "Breakout") -> Config:
    """Atari QR-DQN-1 (Dabney et al. 2018a): 200 quantiles, Huber kappa 1; otherwise as `c51`."""
    return replace(
        c51(game),
        preset="qr-dqn",
        net=NetConfig(head="qr", quantiles=200, hidden=(512,)),
        loss=LossConfig(kappa=1.0),
        optim=OptimConfig(lr=5e-5, eps=3.125e-4),
    )


def iqn(game: str = "Breakout") -> Config:
    """Atari IQN (Dabney et al. 2018b): 64 and 64 fractions, 32 in acting; otherwise as `qr-dqn`."""
    return replace(
        qr_dqn(game),
        preset="iqn",
        net=NetConfig(head="iqn", cosines=64, acting_fractions=32, hidden=(), head_hidden=(512,)),
        loss=LossConfig(kappa=1.0, fractions=64, target_fractions=64),
    )


def munchausen_dqn(game: str = "Breakout") -> Config:
    """Atari M-DQN (Vieillard et al. 2020): alpha 0.9, tau 0.03, l0 -1 on `atari`'s settings, Huber, Adam at 5e-5."""
    return replace(
        atari(game),
        preset="munchausen-dqn",
        loss=LossConfig(kind="huber", munchausen=True, munchausen_alpha=0.9, munchausen_tau=0.03, munchausen_min=-1.0),
        optim=OptimConfig(lr=5e-5, eps=3.125e-4),
    )


def munchausen_iqn(game: str = "Breakout") -> Config:
    """Atari M-IQN (Vieillard et al. 2020): `munchausen-dqn` with the head and the fractions of `iqn`."""
    base, head = munchausen_dqn(game), iqn(game)
    loss = replace(base.loss, kind="mse", kappa=1.0, fractions=64, target_fractions=64)
    return replace(base, preset="munchausen-iqn", net=head.net, loss=loss)


def rainbow(game: str = "Breakout") -> Config:
    """Atari Rainbow, all six parts (Hessel et al. 2018, Table 1): no sticky actions, life loss; 200M frames."""
    return replace(
        c51(game),
        preset="rainbow",
        policy=PolicyConfig(epsilon_start=0.0, epsilon_end=0.0, epsilon_decay=0),
        replay=ReplayConfig(
            kind="prioritized",
            capacity=1_000_000,
            batch_size=32,
            learning_starts=20_000,
            update_every=4,
            n_step=3,
            alpha=0.5,
            beta=0.4,
            beta_end=1.0,
        ),
        net=NetConfig(
            head="c51",
            atoms=51,
            v_min=-10.0,
            v_max=10.0,
            hidden=(),
            head_hidden=(512,),
            dueling=True,
            noisy=True,
            noisy_shared=True,
            noisy_sigma=0.5,
        ),
        loss=LossConfig(double=True),
        optim=OptimConfig(lr=6.25e-5, eps=1.5e-4),
        target=TargetConfig(every=8_000),
        eval=EvalConfig(every=1_000_000, episodes=16, num_envs=8, epsilon=0.0),
    )


def dopamine_rainbow(game: str = "Breakout") -> Config:
    """Atari Rainbow as in Dopamine's rainbow.gin (Castro et al. 2018): C51, 3 steps and priorities; sticky actions."""
    base = atari(game)
    return replace(
        base,
        preset="dopamine-rainbow",
        replay=replace(base.replay, kind="prioritized", n_step=3, alpha=0.5, beta=0.5, beta_end=0.5),
        net=NetConfig(head="c51", atoms=51, v_min=-10.0, v_max=10.0, hidden=(512,)),
        loss=LossConfig(),
    )
