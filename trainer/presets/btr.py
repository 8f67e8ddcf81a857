"""'Beyond the Rainbow' (Clark et al. 2024, arXiv 2411.03820): Rainbow's parts and six more, on a desktop PC."""

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


def btr(game: str = "Breakout") -> Config:
    """Atari BTR (Clark et al. 2024), the numbers of its repository: 64 environments, an update per step; 200M frames.

    There, epsilon decays exponentially with a constant of 2M env steps and is switched off halfway through the run;
    here it falls linearly over 2M and stays at its final value.
    """
    return Config(
        preset="btr",
        total_env_steps=50_000_000,
        env=EnvConfig(id=f"ALE/{game}-v5", num_envs=64, sticky=0.25, noop_max=30, clip_reward=True),
        policy=PolicyConfig(epsilon_start=1.0, epsilon_end=0.01, epsilon_decay=2_000_000),
        replay=ReplayConfig(
            kind="prioritized",
            capacity=2**20,
            batch_size=256,
            learning_starts=200_000,
            update_every=64,
            n_step=3,
            gamma=0.997,
            alpha=0.2,
            beta=0.45,
            beta_end=0.45,
        ),
        net=NetConfig(
            torso="impala",
            width=2,
            spectral_norm=True,
            pool=6,
            hidden=(),
            head="iqn",
            head_hidden=(512,),
            dueling=True,
            noisy=True,
            noisy_shared=True,
            noisy_sigma=0.5,
            cosines=64,
            acting_fractions=8,
        ),
        loss=LossConfig(
            munchausen=True,
            munchausen_alpha=0.9,
            munchausen_tau=0.03,
            munchausen_min=-1.0,
            kappa=1.0,
            fractions=8,
            target_fractions=8,
        ),
        optim=OptimConfig(lr=1e-4, eps=0.005 / 256, max_grad_norm=10),
        target=TargetConfig(every=500 * 64),
        log=LogConfig(every=10_000),
        checkpoint=CheckpointConfig(every=1_000_000),
        eval=EvalConfig(every=1_000_000, episodes=16, num_envs=16, epsilon=0.01),
    )
