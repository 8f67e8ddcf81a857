"""Atari 100k: what can be learned from 100,000 steps (400,000 frames, two hours of play); an hour or so on a GPU.

The settings are those of Dopamine's labs/atari_100k (Agarwal et al. 2021): one environment, no sticky actions, lost
lives end the bootstrap, a replay that forgets nothing. Its jitter of the image brightness is left out.
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
    PixelsConfig,
    PolicyConfig,
    ReplayConfig,
    TargetConfig,
)


def drq(game: str = "Pong") -> Config:
    """Atari 100k DrQ(eps) (Yarats et al. 2021), DrQ_eps.gin of Agarwal et al. 2021: Double, dueling, 10 steps."""
    return Config(
        preset="drq",
        total_env_steps=100_000,
        env=EnvConfig(id=f"ALE/{game}-v5", num_envs=1, sticky=0.0, life_loss=True, clip_reward=True),
        policy=PolicyConfig(epsilon_end=0.01, epsilon_wait=1_600, epsilon_decay=5_000),
        replay=ReplayConfig(capacity=100_000, batch_size=32, learning_starts=1_600, update_every=1, n_step=10),
        net=NetConfig(hidden=(512,), dueling=True),
        loss=LossConfig(kind="huber", double=True),
        pixels=PixelsConfig(shift=4),
        optim=OptimConfig(lr=1e-4, eps=1.5e-4),
        target=TargetConfig(every=1),
        log=LogConfig(every=1_000),
        checkpoint=CheckpointConfig(every=25_000),
        eval=EvalConfig(episodes=100, num_envs=10, epsilon=0.001),
    )


def der(game: str = "Pong") -> Config:
    """Atari 100k data-efficient Rainbow (van Hasselt et al. 2019), DER.gin of Agarwal et al. 2021.

    As in the latter, and unlike the paper: the network of Nature DQN, 10 steps instead of 20.
    """
    base = drq(game)
    prioritized = replace(base.replay, kind="prioritized", alpha=0.5, beta=0.5, beta_end=0.5)
    return replace(
        base,
        preset="der",
        policy=PolicyConfig(epsilon_start=0.01, epsilon_end=0.01, epsilon_decay=0),
        replay=prioritized,
        net=NetConfig(
            head="c51", atoms=51, v_min=-10.0, v_max=10.0, hidden=(512,), dueling=True, noisy=True, noisy_shared=True
        ),
        loss=LossConfig(double=True),
        pixels=PixelsConfig(),
        target=TargetConfig(every=2_000),
    )


def spr(game: str = "Pong") -> Config:
    """Atari 100k SPR with augmentation (Schwarzer et al. 2021), SPR.gin of Agarwal et al. 2021: two updates per step.

    The target network is at most two updates old, in place of the paper's online encoder without gradient.
    """
    base = der(game)
    return replace(
        base,
        preset="spr",
        policy=PolicyConfig(epsilon_start=0.0, epsilon_end=0.0, epsilon_decay=0),
        replay=replace(base.replay, learning_starts=2_000, update_every=0.5),
        pixels=PixelsConfig(shift=4, spr=5.0, spr_steps=5),
        target=TargetConfig(every=1),
    )
