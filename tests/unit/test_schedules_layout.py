"""Everything that follows from (step, config, rank) alone: periods, update counts, epsilons, shares and seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import Config, EnvConfig, EvalConfig, OptimConfig, PolicyConfig, ReplayConfig, ScaleConfig
from trainer.layout import Layout, scaled
from trainer.runtime.seeding import env_seeds, stream_seed
from trainer.schedules import ladder, linear, multiples

EVERY = st.one_of(st.integers(1, 300), st.sampled_from([0.1, 0.25, 0.5, 1.5, 2.7, 10.0, 33.3]))


def layouts(config: Config, shards: int, world_size: int) -> list[Layout]:
    return [Layout(config, shards, world_size, rank) for rank in range(world_size)]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), EVERY, st.integers(0, 200), st.integers(0, 120))
def test_multiples_sum_to_the_exact_count(num_envs: int, every: float, start: int, steps: int) -> None:
    each = [multiples(step, num_envs, every, start) for step in range(1, steps + 1)]
    assert min(each, default=0) >= 0
    assert sum(each) == math.floor(max(steps * num_envs - start, 0) / every)
    if len(each) > 2 and start == 0:
        assert max(each) - min(each) <= 1, "evenly spread"


def test_a_period_of_zero_is_never() -> None:
    assert multiples(7, 8, 0) == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 16), EVERY, st.integers(0, 500), st.integers(1, 3_000))
def test_updates_of_a_whole_run(num_envs: int, every: float, starts: int, total: int) -> None:
    replay = ReplayConfig(learning_starts=starts, update_every=every)
    layout = Layout(Config(total_env_steps=total, env=EnvConfig(num_envs=num_envs), replay=replay), 1, 1, 0)
    counts = [layout.updates(step) for step in range(1, layout.num_steps + 1)]
    played = layout.num_steps * num_envs
    assert total <= played < total + num_envs
    assert sum(counts) == math.floor(max(played - starts, 0) / every)
    assert not any(count for step, count in enumerate(counts, 1) if step * num_envs <= starts)


def test_bursts_gather_updates_and_keep_their_number() -> None:
    replay = ReplayConfig(learning_starts=8, update_every=2, burst=8)
    layout = Layout(Config(total_env_steps=72, env=EnvConfig(num_envs=4), replay=replay), 1, 1, 0)
    counts = [layout.updates(step) for step in range(1, 19)]
    assert [step for step, count in enumerate(counts, 1) if count] == [6, 10, 14, 18]
    assert set(counts) == {0, 8}
    assert sum(counts) == (72 - 8) / 2


@pytest.mark.parametrize(
    ("every", "counts"), [(8, [1, 1, 1, 1]), (16, [0, 1, 0, 1]), (12, [0, 1, 1, 0]), (3, [2, 3, 3, 2])]
)
def test_due_by_hand(every: int, counts: list[int]) -> None:
    layout = Layout(Config(env=EnvConfig(num_envs=8)), 1, 1, 0)
    assert [multiples(step, 8, every) for step in range(1, 5)] == counts
    assert [layout.due(step, every) for step in range(1, 5)] == [bool(count) for count in counts]


def test_linear() -> None:
    def at(x: int) -> float:
        return linear(x, 1.0, 0.1, wait=100, length=900)

    assert [at(0), at(100), at(1000), at(5000)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert at(550) == pytest.approx(0.55)
    assert linear(0, 1.0, 0.1, wait=0, length=0) == pytest.approx(0.1)
    assert linear(4, 1.0, 0.1, wait=5, length=0) == 1.0


def test_epsilon_and_lr_count_env_steps_before_the_step() -> None:
    config = Config(
        total_env_steps=1_000,
        env=EnvConfig(num_envs=10),
        policy=PolicyConfig(epsilon_end=0.0, epsilon_wait=100, epsilon_decay=500),
        optim=OptimConfig(lr=1.0, lr_end=0.0),
    )
    layout = Layout(config, 1, 1, 0)
    assert [layout.epsilon(s) for s in (1, 11, 36, 61, 100)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert [layout.lr(s) for s in (1, 51)] == [1.0, 0.5]
    assert layout.lr(100) > 0
    assert Layout(replace(config, optim=OptimConfig(lr=0.5)), 1, 1, 0).lr(99) == 0.5


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ladder_runs_over_all_ranks(world_size: int) -> None:
    config = Config(env=EnvConfig(num_envs=16), policy=PolicyConfig(exploration="ladder"))
    parts = [layout.ladder() for layout in layouts(config, 8, world_size)]
    joined = [epsilon for part in parts for epsilon in part or []]
    assert joined == [0.4 ** (1 + 7 * i / 15) for i in range(16)], "Horgan et al. 2018, section 4.1"
    told = [layout.mean_epsilon(step) for layout in layouts(config, 8, world_size) for step in (1, 9_000)]
    assert told == pytest.approx([sum(joined) / 16] * len(told)), "what a row tells is what is done"
    assert Layout(Config(), 1, 1, 0).ladder() is None
    assert Layout(Config(), 1, 1, 0).mean_epsilon(500) == Layout(Config(), 1, 1, 0).epsilon(500)
    assert ladder(0, 1, 0.4, 7) == 0.4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_shares_partition_the_whole(world_size: int, per_rank: int, envs: int, batch: int) -> None:
    shards = world_size * per_rank
    config = Config(env=EnvConfig(num_envs=shards * envs), replay=ReplayConfig(batch_size=shards * batch))
    every = layouts(config, shards, world_size)
    assert [shard for layout in every for shard in layout.owned] == list(range(shards))
    assert sum(layout.envs_per_rank for layout in every) == config.env.num_envs
    assert sum(layout.batch_per_rank for layout in every) == config.replay.batch_size
    assert all(layout.batch_per_rank % layout.shards_per_rank == 0 for layout in every)
    assert all(layout.eval_envs_per_shard * shards >= config.eval.num_envs for layout in every)


def test_rows_hold_the_capacity() -> None:
    for capacity, envs in ((1000, 8), (1001, 8), (7, 7)):
        config = Config(env=EnvConfig(num_envs=envs), replay=ReplayConfig(capacity=capacity, n_step=3))
        rows = Layout(config, 1, 1, 0).rows_per_lane(4)
        assert (rows - 3 - 4 - 4) * envs >= capacity


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_env_seeds_are_disjoint_over_shards_and_from_evaluation(seed: int) -> None:
    config = Config(env=EnvConfig(num_envs=12), eval=EvalConfig(num_envs=10))
    layout = Layout(config, 4, 2, 0)
    training = [s for shard in range(4) for s in env_seeds(seed, shard * layout.envs_per_shard, 3)]
    per = layout.eval_envs_per_shard
    evaluation = [s for shard in range(4) for s in env_seeds(seed, shard * per, per, evaluation=True)]
    assert len(set(training + evaluation)) == 12 + 12
    assert training == env_seeds(seed, 0, 12), "keyed by the global environment, not by shard or rank"
    assert all(0 <= s < 2**31 for s in training + evaluation)


def test_streams_differ_by_seed_purpose_and_shard() -> None:
    purposes = ("weights", "envs", "policy", "replay", "evaluation")
    seeds = {stream_seed(s, p, shard) for s in range(5) for p in purposes for shard in range(8)}
    assert len(seeds) == 5 * 5 * 8
    assert all(0 <= s < 2**63 for s in seeds)
    assert stream_seed(1, "envs", 3) == stream_seed(1, "envs", 3)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_weak_scaling_multiplies_the_work_and_keeps_the_replay_ratio(rule: str, factor: float) -> None:
    stated = Config(scale=ScaleConfig(world="weak", lr_rule=rule), optim=OptimConfig(lr=1e-3, lr_end=1e-4))  # type: ignore[arg-type]
    got, one = scaled(stated, 4), stated
    assert got.env.num_envs == 4 * one.env.num_envs
    for name in ("capacity", "batch_size", "learning_starts", "update_every"):
        assert getattr(got.replay, name) == 4 * getattr(one.replay, name), name
    ratio = one.replay.batch_size / one.replay.update_every
    assert got.replay.batch_size / got.replay.update_every == ratio
    assert got.optim.lr == pytest.approx(factor * 1e-3)
    assert got.optim.lr_end == pytest.approx(factor * 1e-4)
    assert got.total_env_steps == one.total_env_steps
    assert (got.target, got.policy) == (one.target, one.policy)
    assert scaled(replace(stated, scale=ScaleConfig(world="strong")), 4).env == one.env
    assert scaled(stated, 1) == stated
