"""PQN (Gallici et al. 2025): many environments, no replay memory, no target network. Minutes on a CPU.

The source is the authors' purejaxql. Its loss is half the squared error, ours the whole: a gradient clip of 10 there
is one of 20 here, and RAdam is invariant to the factor. Its layer normalisation of convolutions is over channels,
ours over the whole image. The period of the target network only sets how often replicas are compared.
"""

from __future__ import annotations

from trainer.config import (
    CheckpointConfig,
    Config,
    EnvConfig,
    EvalConfig,
    LogConfig,
    NetConfig,
    OptimConfig,
    PolicyConfig,
    ReplayConfig,
    TargetConfig,
)

_CLIP = 20.0


def pqn_cartpole() -> Config:
    """CartPole-v1, PQN with purejaxql's settings (Gallici et al. 2025), without its reward scaling by 0.1."""
    return Config(
        preset="pqn-cartpole",
        total_env_steps=500_000,
        env=EnvConfig(id="CartPole-v1", num_envs=32),
        policy=PolicyConfig(epsilon_end=0.2, epsilon_decay=100_000),
        replay=ReplayConfig(kind="rollout", rollout=64, epochs=4, batch_size=128, trace=0.95),
        net=NetConfig(hidden=(256, 256), norm="layer"),
        optim=OptimConfig(kind="radam", lr=1e-4, lr_end=0.0, max_grad_norm=_CLIP),
        target=TargetConfig(every=50_000),
    )


def pqn_minatar(game: str | None = None) -> Config:
    """MinAtar, PQN with purejaxql's settings (Gallici et al. 2025), for a tenth of its 10M env steps."""
    total = 1_000_000
    return Config(
        preset=f"pqn-minatar-{game.lower()}" if game else "pqn-minatar",
        total_env_steps=total,
        env=EnvConfig(id=f"MinAtar/{game or 'Breakout'}-v0", num_envs=128),
        policy=PolicyConfig(epsilon_end=0.05, epsilon_decay=total // 10),
        replay=ReplayConfig(kind="rollout", rollout=32, epochs=2, batch_size=128, trace=0.65),
        net=NetConfig(hidden=(128,), norm="layer"),
        optim=OptimConfig(kind="radam", lr=5e-4, lr_end=0.0, max_grad_norm=_CLIP),
        target=TargetConfig(every=50_000),
        log=LogConfig(every=5_000),
        checkpoint=CheckpointConfig(every=250_000),
    )


def pqn_atari(game: str = "Breakout") -> Config:
    """Atari, PQN with purejaxql's settings (Gallici et al. 2025): no sticky actions, life loss, no-ops; 40M frames."""
    total = 10_000_000
    return Config(
        preset="pqn-atari",
        total_env_steps=total,
        env=EnvConfig(
            id=f"ALE/{game}-v5",
            num_envs=128,
            sticky=0.0,
            noop_max=30,
            life_loss=True,
            clip_reward=True,
        ),
        policy=PolicyConfig(epsilon_end=0.001, epsilon_decay=total // 10),
        replay=ReplayConfig(kind="rollout", rollout=32, epochs=2, batch_size=128, trace=0.65),
        net=NetConfig(hidden=(512,), norm="layer"),
        optim=OptimConfig(kind="radam", lr=2.5e-4, max_grad_norm=_CLIP),
        target=TargetConfig(every=100_000),
        log=LogConfig(every=10_000),
        checkpoint=CheckpointConfig(every=1_000_000),
        eval=EvalConfig(every=1_000_000, episodes=16, num_envs=8, epsilon=0.001),
    )
