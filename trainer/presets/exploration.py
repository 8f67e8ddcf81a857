"""Other ways to explore, on Atari 2600: noise on the weights, repeated actions, an ensemble, a ladder of epsilons."""

from __future__ import annotations

from dataclasses import replace

from trainer.config import (
    Config,
    EnvConfig,
    LossConfig,
    NetConfig,
    OptimConfig,
    PolicyConfig,
    ReplayConfig,
    TargetConfig,
)
from trainer.presets.atari import atari


def noisy_dqn(game: str = "Breakout") -> Config:
    """Atari NoisyNet-DQN (Fortunato et al. 2018): factorised noise, sigma 0.5, epsilon 0; otherwise as `atari`."""
    return replace(
        atari(game),
        preset="noisy-dqn",
        policy=PolicyConfig(epsilon_start=0.0, epsilon_end=0.0, epsilon_decay=0),
        net=NetConfig(hidden=(512,), noisy=True, noisy_shared=True, noisy_sigma=0.5),
    )


def bootstrapped_dqn(game: str = "Breakout") -> Config:
    """Atari bootstrapped DQN (Osband et al. 2016): ten heads of 512 units, no masks, Double; otherwise as `atari`."""
    return replace(
        atari(game),
        preset="bootstrapped-dqn",
        policy=PolicyConfig(epsilon_start=0.0, epsilon_end=0.0, epsilon_decay=0, ensemble="vote"),
        net=NetConfig(hidden=(), head_hidden=(512,), ensemble=10),
        loss=LossConfig(double=True, bootstrap_mask=1.0),
    )


def ez_greedy(game: str = "Breakout") -> Config:
    """Atari epsilon-z-greedy (Dabney et al. 2021): exponent 2, at most 10,000 steps; DQN with the rest of `atari`."""
    base = atari(game)
    policy = replace(base.policy, repeat="zeta", zeta=2.0, zeta_max=10_000)
    return replace(base, preset="ez-greedy", policy=policy)


def apex(game: str = "Breakout") -> Config:
    """Atari Ape-X DQN (Horgan et al. 2018): a ladder of 360 epsilons, priorities, 3 steps, Double, Dueling.

    The paper's actors and learner run separately, at 12,500 transitions and 19 batches a second; here, in one loop,
    there is an update every 640 transitions. 200M frames instead of its 22 billion.
    """
    return replace(
        atari(game),
        preset="apex",
        env=EnvConfig(id=f"ALE/{game}-v5", num_envs=360, sticky=0.0, noop_max=30, life_loss=True, clip_reward=True),
        policy=PolicyConfig(exploration="ladder", ladder_base=0.4, ladder_alpha=7.0),
        replay=ReplayConfig(
            kind="prioritized",
            capacity=2_000_000,
            batch_size=512,
            learning_starts=50_000,
            update_every=640,
            n_step=3,
            alpha=0.6,
            beta=0.4,
            beta_end=0.4,
        ),
        net=NetConfig(hidden=(), head_hidden=(512,), dueling=True),
        loss=LossConfig(double=True),
        optim=OptimConfig(kind="rmsprop", lr=6.25e-5, eps=1.5e-7, rms_decay=0.95, max_grad_norm=40),
        target=TargetConfig(every=2_500 * 640),
    )
