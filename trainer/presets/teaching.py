"""Learning from others: presets that need input prepared first (docs/teaching.md says how)."""

from __future__ import annotations

from trainer.config import (
    CheckpointConfig,
    Config,
    DemosConfig,
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


def dqfd(game: str = "Breakout") -> Config:
    """Atari DQfD (Hester et al. 2018, appendix): 750k updates on demos.safetensors, then prioritized replay with it.

    Unlike there, the loss has only the 10-step return and no L2 term, rewards are clipped, not log-scaled, and
    demonstrations have a fixed share of the batch, not a priority bonus; the optimizer is Rainbow's.
    """
    return Config(
        preset="dqfd",
        total_env_steps=50_000_000,
        env=EnvConfig(id=f"ALE/{game}-v5", num_envs=8, sticky=0.0, noop_max=30, life_loss=True, clip_reward=True),
        policy=PolicyConfig(epsilon_start=0.01, epsilon_end=0.01, epsilon_decay=0),
        replay=ReplayConfig(
            kind="prioritized",
            capacity=1_000_000,
            batch_size=32,
            learning_starts=10_000,
            update_every=4,
            n_step=10,
            alpha=0.4,
            beta=0.6,
        ),
        net=NetConfig(hidden=(), head_hidden=(512,), dueling=True),
        loss=LossConfig(double=True, kind="huber"),
        demos=DemosConfig(path="demos.safetensors", ratio=0.25, weight=1.0, margin=0.8, pretrain=750_000),
        optim=OptimConfig(lr=6.25e-5, eps=1.5e-4),
        target=TargetConfig(every=40_000),
        log=LogConfig(every=10_000),
        checkpoint=CheckpointConfig(every=1_000_000),
        eval=EvalConfig(every=1_000_000, episodes=16, num_envs=8, epsilon=0.001),
    )
