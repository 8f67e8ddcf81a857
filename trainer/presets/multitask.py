"""Several environments in one run, learned by one network."""

from __future__ import annotations

from dataclasses import replace

from trainer.config import Config, EvalConfig
from trainer.presets.minatar import GAMES, minatar_dqn


def minatar_multitask() -> Config:
    """MinAtar's five games (Young & Tian 2019) by one network, with the settings of `minatar-dqn-*` for each."""
    one, games = minatar_dqn(), len(GAMES)
    policy, replay = one.policy, one.replay
    return replace(
        one,
        preset="minatar-multitask",
        shards=games,
        total_env_steps=games * one.total_env_steps,
        env=replace(
            one.env,
            id=f"MinAtar/{GAMES[0]}-v0",
            tasks=tuple(f"MinAtar/{game}-v0" for game in GAMES),
            num_envs=games * one.env.num_envs,
        ),
        policy=replace(policy, epsilon_wait=games * policy.epsilon_wait, epsilon_decay=games * policy.epsilon_decay),
        replay=replace(
            replay,
            capacity=games * replay.capacity,
            batch_size=games * replay.batch_size,
            learning_starts=games * replay.learning_starts,
            update_every=games * replay.update_every,
        ),
        target=replace(one.target, every=games * one.target.every),
        log=replace(one.log, every=games * one.log.every),
        checkpoint=replace(one.checkpoint, every=games * one.checkpoint.every),
        eval=EvalConfig(episodes=100 * games, num_envs=10 * games),
    )
