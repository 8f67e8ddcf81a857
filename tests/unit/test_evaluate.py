"""Playing a fixed number of episodes per environment, and the numbers that describe them."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch

from trainer.atari_scores import RANDOM_AND_HUMAN, game_of, human_normalized
from trainer.build import EVAL_ENVS, EVAL_SETS, build_envs, inspect_env
from trainer.build import envs as build
from trainer.commands.evaluate import table
from trainer.commands.record import _frames
from trainer.envs.base import opening
from trainer.evaluate import interquartile_mean, play, quotas, score
from trainer.layout import Layout
from trainer.presets.classic import debug
from trainer.types import Choice, Episode, Rates, Timestep


class FakeEnvs:
    """Environment `first + i` plays episodes of lengths[i] steps, forever; the return counts its episodes."""

    num_actions, obs_shape, obs_dtype, saves_state = 2, (1,), torch.float32, False

    def __init__(self, lengths: list[int], first: int) -> None:
        self.lengths, self.first, self.num_envs, self.steps = lengths, first, len(lengths), 0
        self.stale = [Episode(first, -1.0, 1)]  # from before the evaluation

    def reset(self) -> Timestep:
        return opening(torch.zeros(self.num_envs, 1))

    def send(self, action: torch.Tensor) -> None:
        assert action.shape == (self.num_envs,)

    def recv(self) -> Timestep:
        self.steps += 1
        assert self.steps < 1000, "play does not end"
        ended = torch.tensor([self.steps % length == 0 for length in self.lengths])
        return self.reset()._replace(reward=torch.full((self.num_envs,), 0.5), terminated=ended)

    def episodes(self) -> list[Episode]:
        if self.stale:
            stale, self.stale = self.stale, []
            return stale
        return [
            Episode(self.first + i, float(self.steps // length), length)
            for i, length in enumerate(self.lengths)
            if self.steps % length == 0
        ]

    def render(self) -> None:
        return None


class FakePolicy:
    def act(self, timestep: Timestep, rates: Rates) -> Choice:
        return Choice(torch.zeros(timestep.obs.shape[0], dtype=torch.int64))


def play_fake(envs: Any, quota: dict[int, int], max_steps: int = 500) -> list[Episode]:
    return play(envs, FakePolicy(), quota, 0.0, max_steps)  # type: ignore[arg-type]


def test_each_environment_plays_its_quota_however_short_its_episodes() -> None:
    played = play_fake(FakeEnvs([2, 7, 3], first=4), {4: 2, 5: 3, 6: 1})
    expected = [(4, 1.0, 2), (4, 2.0, 2), (5, 1.0, 7), (5, 2.0, 7), (5, 3.0, 7), (6, 1.0, 3)]
    assert sorted(map(tuple, played)) == expected


def test_an_episode_that_never_ends_is_cut_and_counted_as_it_stands() -> None:
    played = play_fake(FakeEnvs([2, 10**9, 30], first=4), {4: 2, 5: 3, 6: 1}, max_steps=40)
    assert sorted(map(tuple, played)) == [(4, 1.0, 2), (4, 2.0, 2), (5, 20.0, 40), (6, 1.0, 30)]


def test_a_rank_without_a_quota_plays_nothing() -> None:
    envs = FakeEnvs([2, 3], first=0)
    assert play_fake(envs, {0: 0, 1: 0}) == []
    assert envs.steps == 0


@pytest.mark.parametrize(("episodes", "num_envs"), [(10, 4), (3, 5), (8, 8), (1, 1)])
def test_quotas_sum_to_the_episodes_and_differ_by_one_at_most(episodes: int, num_envs: int) -> None:
    quota = quotas(episodes, num_envs)
    assert list(quota) == list(range(num_envs))
    assert sum(quota.values()) == episodes
    assert max(quota.values()) - min(quota.values()) <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7], 7.0),
        ([6, 2], 4.0),
        ([0, 3, 9], (0.25 * 0 + 3 + 0.25 * 9) / 1.5),
        ([100, 0, 3, 1], 2.0),
        ([0, 1, 2, 10, 100], (0.75 * 1 + 2 + 0.75 * 10) / 2.5),
        ([90, 0, 1, 2, 6, 7], (0.5 * 1 + 2 + 6 + 0.5 * 7) / 3),
        ([0, 0, 1, 2, 3, 4, 9, 9], 2.5),
    ],
)
def test_interquartile_mean_by_hand(values: list[float], expected: float) -> None:
    assert interquartile_mean(values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_is_the_middle_half_of_every_value_taken_four_times(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    middle = np.sort(np.repeat(values, 4))[count : 3 * count]
    assert interquartile_mean(values.tolist()) == pytest.approx(middle.mean(), abs=1e-12)


def test_score_depends_on_the_episodes_and_not_on_their_order() -> None:
    returns = [3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    played = [Episode(i, ret, 10 + i) for i, ret in enumerate(returns)]
    first = score(played)
    assert first == score(played) == score(played[::-1])
    assert (first.episodes, first.median, first.length) == (7, 3.0, 13.0)
    assert first.mean == pytest.approx(23 / 7)
    assert first.std == pytest.approx(float(np.std(returns)))
    assert min(returns) <= first.ci_low < first.iqm < first.ci_high <= max(returns)


def test_no_evaluation_set_shares_a_seed_with_training_or_another_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config = debug()
    spec = inspect_env(config)
    layout = Layout(config, shards=2, world_size=1, rank=0)
    real = build.make_backend
    seen: list[int] = []

    def spy(kind: str, env_id: str, count: int, seeds: list[int], **options: Any) -> Any:
        seen.extend(seeds)
        return real(kind, env_id, count, seeds, **options)

    monkeypatch.setattr(build, "make_backend", spy)
    build_envs(config, layout, spec, torch.device("cpu"))
    for eval_set in (0, 1, 2, EVAL_SETS - 1):
        build_envs(config, layout, spec, torch.device("cpu"), evaluation=True, eval_set=eval_set)
    assert len(seen) == len(set(seen)) == 5 * 8
    training = seen[0]
    offsets = sorted((seed - training) % 2**31 for seed in seen[8:])
    assert offsets[0] >= 2**30
    assert offsets[-1] < 2**30 + EVAL_ENVS * EVAL_SETS == 2**31


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match=r"my/Env cannot be drawn: its render\(\) gives no picture"):
        _frames("my/Env", FakeEnvs([2], first=0), FakePolicy(), 0.0, 10)  # type: ignore[arg-type]


def test_random_is_zero_and_human_is_one_in_all_57_games() -> None:
    assert len(RANDOM_AND_HUMAN) == 57
    for game, (random, human) in RANDOM_AND_HUMAN.items():
        assert human > random
        assert human_normalized(game, random) == 0
        assert human_normalized(game, human) == 1
    assert human_normalized("Breakout", 401.2) == pytest.approx(13.87, abs=0.01)  # Mnih et al. 2015 state 1327%
    assert human_normalized("Pong", -20.7 + 35.3 / 2) == pytest.approx(0.5)


def test_the_games_are_ale_s() -> None:
    ale_py = pytest.importorskip("ale_py")
    import gymnasium as gym

    gym.register_envs(ale_py)
    assert [game for game in RANDOM_AND_HUMAN if f"ALE/{game}-v5" not in gym.registry] == []


@pytest.mark.parametrize(
    ("env_id", "game"),
    [
        ("ALE/SpaceInvaders-v5", "SpaceInvaders"),
        ("ALE/Tetris-v5", None),
        ("MinAtar/Breakout-v1", None),
        ("Breakout-v5", None),
        ("CartPole-v1", None),
    ],
)
def test_game_of_an_id(env_id: str, game: str | None) -> None:
    assert game_of(env_id) == game


def test_table_has_the_human_scale_for_atari_only() -> None:
    values = cycle([1.7, 30.5])
    played = [Episode(i, next(values), 100 + i) for i in range(8)]
    columns = {str(c.header): list(c.cells) for c in table(score(played), played, "Breakout").columns}
    assert columns["return"] == ["16.10", "14.40", "16.10", "16.10", "1.70 to 30.50", "1.70", "30.50"]
    assert columns["human-normalised"] == ["0.500", "", "0.500", "0.500", "0.000 to 1.000", "", ""]
    assert columns["length"] == ["103.5", "2.3", "103.5", "", "", "100.0", "107.0"]
    assert "human-normalised" not in [c.header for c in table(score(played), played, None).columns]
