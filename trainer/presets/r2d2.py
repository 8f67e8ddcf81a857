"""R2D2 (Kapturowski et al. 2019): recurrent networks on Atari, and on CartPole without velocities."""

from __future__ import annotations

from dataclasses import replace

from trainer.config import (
    CheckpointConfig,
    Config,
    EnvConfig,
    EvalConfig,
    LossConfig,
    NetConfig,
    OptimConfig,
    PolicyConfig,
    ReplayConfig,
    TargetConfig,
)
from trainer.presets.atari import atari


def r2d2(game: str = "Breakout") -> Config:
    """Atari R2D2 (Kapturowski et al. 2019): LSTM 512, sequences of 80 after a burn-in of 40, a ladder of 256 epsilons.

    The paper's actors and learner run separately, for 10 billion frames at some 13,000 transitions per update (each is
    learned from 0.4 times). Here, in one loop for 200M frames: an update per 1,280 transitions, each learned from 4
    times. The replay holds 1M transitions, not 4M. Gradients are clipped as in Ape-X (Horgan et al. 2018).
    """
    return replace(
        atari(game),
        preset="r2d2",
        env=EnvConfig(id=f"ALE/{game}-v5", num_envs=256, sticky=0.0, noop_max=30),
        policy=PolicyConfig(exploration="ladder", ladder_base=0.4, ladder_alpha=7.0),
        replay=ReplayConfig(
            kind="sequence",
            capacity=1_000_000,
            batch_size=64,
            learning_starts=50_000,
            update_every=1_280,
            n_step=5,
            gamma=0.997,
            alpha=0.9,
            beta=0.6,
            beta_end=0.6,
            length=80,
            burn_in=40,
            stride=40,
            eta=0.9,
        ),
        net=NetConfig(hidden=(), head_hidden=(512,), dueling=True, lstm=512),
        loss=LossConfig(double=True, rescale=True),
        optim=OptimConfig(lr=1e-4, eps=1e-3, max_grad_norm=40),
        target=TargetConfig(every=2_500 * 1_280),
    )


def r2d2_cartpole() -> Config:
    """CartPole without velocities, a small R2D2 (Kapturowski et al. 2019): a quarter of an hour on a CPU."""
    return Config(
        preset="r2d2-cartpole",
        total_env_steps=200_000,
        env=EnvConfig(id="trainer.envs.partial:CartPoleNoVelocity-v1", num_envs=8),
        policy=PolicyConfig(epsilon_end=0.04, epsilon_decay=10_000),
        replay=ReplayConfig(
            kind="sequence",
            capacity=100_000,
            batch_size=32,
            learning_starts=1_000,
            update_every=4,
            n_step=5,
            alpha=0.9,
            beta=0.6,
            beta_end=0.6,
            length=30,
            burn_in=10,
            stride=10,
        ),
        net=NetConfig(hidden=(64,), lstm=64, dueling=True),
        loss=LossConfig(double=True, kind="huber", rescale=True),
        optim=OptimConfig(lr=1e-3, lr_end=0.0, max_grad_norm=10),
        target=TargetConfig(every=1_000),
        checkpoint=CheckpointConfig(every=20_000),
        eval=EvalConfig(every=20_000, num_envs=100),
    )
