"""Play whole episodes and summarise them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trainer.types import Envs, Episode, Policy, Rates


class Score(NamedTuple):
    """Returns of evaluation episodes; the interval is a 95% percentile bootstrap of the IQM."""

    episodes: int
    mean: float
    std: float
    median: float
    iqm: float
    ci_low: float
    ci_high: float
    length: float


def play(
    envs: Envs,
    policy: Policy,
    quota: dict[int, int],
    epsilon: float,
    max_steps: int,
    note: Callable[[], object] = lambda: None,
) -> list[Episode]:
    """Play until every environment (global index, in the order of `envs`) has finished its quota; return the episodes.

    The number per environment is fixed: taking whichever end first would favour short episodes. An environment
    still in one episode after `max_steps` counts it as it stands and plays no further. note: called at every step.
    """
    left = dict(quota)
    played: list[Episode] = []
    ret, length = np.zeros(len(quota)), np.zeros(len(quota), dtype=np.int64)
    envs.episodes()
    timestep = envs.reset()
    while any(left.values()):
        envs.send(policy.act(timestep, Rates(epsilon=epsilon)).action)
        timestep = envs.recv()
        note()
        for episode in envs.episodes():
            if left[episode.env] > 0:
                left[episode.env] -= 1
                played.append(episode)
        ret += timestep.reward.cpu().numpy()
        length += 1
        ended = (timestep.terminated | timestep.truncated).cpu().numpy()
        ret[ended], length[ended] = 0.0, 0
        for i, env in enumerate(quota):
            if length[i] >= max_steps and left[env] > 0:
                left[env] = 0
                played.append(Episode(env, float(ret[i]), int(length[i])))
    return played


def quotas(episodes: int, num_envs: int, per_shard: int | None = None) -> dict[int, int]:
    """Return how many of `episodes` each of `num_envs` environments plays.

    per_shard: deal them out in turn to shards of this many environments, so that tasks, which are assigned by shard,
    play equally often (within one episode).
    """
    each = per_shard or num_envs
    turn = {env: env % each * (num_envs // each) + env // each for env in range(num_envs)}
    return {env: episodes // num_envs + (turn[env] < episodes % num_envs) for env in range(num_envs)}


def by_task(played: Sequence[Episode], tasks: Sequence[str], per_shard: int) -> dict[str, list[Episode]]:
    """Group episodes by task: shard s, of `per_shard` environments, plays task s % len(tasks)."""
    return {
        task: [episode for episode in played if episode.env // per_shard % len(tasks) == i]
        for i, task in enumerate(tasks)
    }


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half, with fractional weights at its ends (Agarwal et al. 2021)."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    position = np.arange(count)
    # how much of each value, an interval of width 1, lies in [count/4, 3 count/4]
    weight = np.clip(np.minimum(position + 1, 0.75 * count) - np.maximum(position, 0.25 * count), 0, 1)
    return float((ordered * weight).sum() / weight.sum())


def score(played: Sequence[Episode], *, resamples: int = 2_000) -> Score:
    """Summarise episodes; the bootstrap is seeded, so the same episodes give the same interval."""
    returns = np.asarray(sorted(e.ret for e in played), dtype=np.float64)
    rng = np.random.default_rng(0)
    draws = returns[rng.integers(0, len(returns), (resamples, len(returns)))]
    low, high = np.percentile([interquartile_mean(draw) for draw in draws], [2.5, 97.5])
    return Score(
        episodes=len(returns),
        mean=float(returns.mean()),
        std=float(returns.std()),
        median=float(np.median(returns)),
        iqm=interquartile_mean(returns.tolist()),
        ci_low=float(low),
        ci_high=float(high),
        length=float(np.mean([e.length for e in played])),
    )
