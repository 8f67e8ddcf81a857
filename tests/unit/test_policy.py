"""Exploration that commits: repeated actions (epsilon-z-greedy), one head of an ensemble per episode, its vote."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.policy import Actor, EpsilonGreedy, Explorer, FollowHead, Greedy, Vote, ZetaGreedy
from trainer.policy.zgreedy import zeta_cdf
from trainer.types import Given, QOut, Rates, State, Timestep

CPU = torch.device("cpu")
GREEDY = 9  # an action that chance never draws: there are 4


def streams(shards: int = 1, seed: int = 0) -> dict[int, torch.Generator]:
    return {s: torch.Generator().manual_seed(100 * seed + s) for s in range(shards)}


def flags(*set_: int, of: int) -> Tensor:
    return torch.tensor([i in set_ for i in range(of)])


def timestep(num_envs: int, **changes: Tensor) -> Timestep:
    no = torch.zeros(num_envs, dtype=torch.bool)
    obs = torch.zeros(num_envs, 1)
    return Timestep(obs, torch.zeros(num_envs), no, no, no, no, obs)._replace(**changes)


def zeta(num_envs: int, generators: dict[int, torch.Generator], **options: Any) -> ZetaGreedy:
    return ZetaGreedy(num_envs, 4, generators, CPU, **({"exponent": 2.0, "longest": 100} | options))


@pytest.mark.parametrize(("exponent", "longest"), [(2.0, 10_000), (1.2, 50), (5.0, 7), (2.0, 1)])
def test_table_is_the_zeta_distribution(exponent: float, longest: int) -> None:
    cdf = zeta_cdf(exponent, longest).tolist()
    weights = [n**-exponent for n in range(1, longest + 1)]
    total, run = sum(weights), 0.0
    for n, weight in enumerate(weights):
        run += weight
        assert cdf[n] == pytest.approx(run / total, abs=1e-12)
    assert cdf[-1] == 1.0


def twin(
    draws: list[np.ndarray[Any, Any]], fresh: np.ndarray[Any, Any], epsilon: float, longest: int
) -> list[list[int]]:
    """Algorithm 1 of Dabney et al. 2021, one environment after the other; draws: [3, N] per step, fresh [T, N]."""
    weights = [n**-2.0 for n in range(1, longest + 1)]
    num_envs = draws[0].shape[1]
    taken: list[list[int]] = [[] for _ in draws]
    for env in range(num_envs):
        n, omega = 0, -1
        for t, (explore, which, last) in enumerate(draw[:, env] for draw in draws):
            if fresh[t, env]:
                n = 0
            if n == 0 and explore < epsilon:
                run, n = 0.0, 0
                while n < longest and run / sum(weights) <= last:
                    run += weights[n]
                    n += 1
                omega = int(which * 4)
            taken[t].append(omega if n > 0 else GREEDY)
            n = max(n - 1, 0)
    return taken


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([1, 3, 60]))
def test_zeta_greedy_equals_the_twin(seed: int, epsilon: float, longest: int) -> None:
    rng = np.random.default_rng(seed)
    shards, each, steps = 2, 3, 40
    fresh = rng.random((3, steps, shards * each)) < 0.04
    policy = zeta(shards * each, streams(shards, seed), longest=longest)
    copies = streams(shards, seed)
    draws = [
        np.concatenate([torch.rand(3, each, generator=g, dtype=torch.float64).numpy() for g in copies.values()], 1)
        for _ in range(steps)
    ]
    greedy = torch.full((shards * each,), GREEDY)
    names = ("reset", "terminated", "truncated")
    taken = [
        policy.explore(
            greedy,
            timestep(6, **{name: torch.from_numpy(fresh[i, t]) for i, name in enumerate(names)}),
            Rates(epsilon=epsilon),
        ).tolist()
        for t in range(steps)
    ]
    assert taken == twin(draws, fresh.any(0), epsilon, longest)


def runs(actions: Tensor) -> list[int]:
    """Lengths of the runs of equal actions that chance took, [T, N] -> over all environments, cut ones left out."""
    found = []
    for column in actions.t().tolist():
        start = 0
        for t in range(1, len(column) + 1):
            if t == len(column) or column[t] != column[start]:
                if column[start] != GREEDY and start > 0 and t < len(column):
                    found.append(t - start)
                start = t
    return found


def act(policy: Explorer, num_envs: int, steps: int, epsilon: float) -> Tensor:
    greedy = torch.full((num_envs,), GREEDY)
    return torch.stack([policy.explore(greedy, timestep(num_envs), Rates(epsilon=epsilon)) for _ in range(steps)])


def test_durations_are_zeta_and_last_longer_than_single_actions() -> None:
    lasting = runs(act(zeta(64, streams(), longest=50), 64, 4000, epsilon=0.02))
    once = runs(act(EpsilonGreedy(64, 4, streams(), CPU), 64, 4000, epsilon=0.02))
    assert np.mean(lasting) > 2 * np.mean(once), "the negative control: single actions do not last"
    assert max(once) <= 4 < max(lasting)
    seen, total = Counter(lasting), len(lasting)
    weights = [n**-2.0 for n in range(1, 51)]
    for n in (1, 2, 3):  # runs may join by chance, with probability 0.02/4
        expected = weights[n - 1] / sum(weights)
        assert seen[n] / total == pytest.approx(expected, abs=5 * math.sqrt(expected / total) + 0.01), n


def far_end(explorer: Explorer, steps: int = 400) -> int:
    """How far a walker on a line gets, whose greedy action (0) leads back to the start."""
    place, best = torch.zeros(32, dtype=torch.int64), 0
    for _ in range(steps):
        action = explorer.explore(torch.zeros(32, dtype=torch.int64), timestep(32), Rates(epsilon=0.2))
        place = torch.where(action == 1, place + 1, 0)
        best = max(best, int(place.max()))
    return best


def test_reaches_places_that_single_actions_do_not() -> None:
    assert far_end(EpsilonGreedy(32, 2, streams(), CPU)) < 8
    assert far_end(ZetaGreedy(32, 2, streams(), CPU, exponent=2.0, longest=100)) > 20


def test_zeta_of_one_step_has_the_rate_of_epsilon_greedy() -> None:
    taken = act(zeta(64, streams(), longest=1), 64, 2000, epsilon=0.3)
    assert (taken != GREEDY).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert not (act(zeta(64, streams()), 64, 100, epsilon=0.0) != GREEDY).any()


def test_a_ladder_replaces_the_schedule() -> None:
    ladder = torch.tensor([0.0, 0.05, 1.0], dtype=torch.float64)
    taken = act(zeta(3, streams(), ladder=ladder), 3, 500, epsilon=0.5) != GREEDY
    assert taken[:, 0].sum() == 0
    assert taken[:, 2].all()
    assert 0 < taken[:, 1].sum() < 400


@pytest.mark.parametrize("end", ["reset", "terminated", "truncated"])
def test_the_end_of_an_episode_ends_a_repetition(end: str) -> None:
    policy = zeta(3, streams())
    policy.left[:], policy.action[:] = torch.tensor([5, 5, 0]), torch.tensor([1, 2, 3])
    said = timestep(3, **{end: flags(0, of=3)})
    taken = policy.explore(torch.full((3,), GREEDY), said, Rates(epsilon=0.0))
    assert taken.tolist() == [GREEDY, 2, GREEDY]
    assert policy.left.tolist() == [0, 4, 0]


class Heads(nn.Module):
    """The observation says what each head prefers: obs [N, E] holds actions; `q` is the mean of what heads say."""

    def forward(self, obs: Tensor, given: Given = Given()) -> QOut:  # noqa: B008  (frozen)
        heads = torch.nn.functional.one_hot(obs.long(), 4).float().transpose(1, 2)  # [N, A, E]
        return QOut(q=heads.mean(2), heads=heads)


def follow(num_envs: int, generators: dict[int, torch.Generator], heads: int = 4) -> FollowHead:
    return FollowHead(Heads(), num_envs, heads, generators, CPU)


def test_an_environment_follows_one_head_for_an_episode() -> None:
    policy = follow(200, streams())
    obs = torch.arange(4.0).expand(200, 4)  # head e prefers action e
    first = policy.choose(timestep(200, obs=obs)).action
    assert (first.bincount(minlength=4) > 25).all(), "all heads are followed"
    for _ in range(20):
        assert torch.equal(policy.choose(timestep(200, obs=obs)).action, first)
    ended = torch.arange(200) < 100
    for name in ("reset", "terminated", "truncated"):
        after = policy.choose(timestep(200, obs=obs, **{name: ended})).action
        assert torch.equal(after[100:], first[100:])
        assert 0.1 < (after[:100] == first[:100]).float().mean() < 0.5, "drawn anew, by chance the same"
        first = after
    lives = timestep(200, obs=obs, life_lost=torch.ones(200, dtype=torch.bool))
    assert torch.equal(policy.choose(lives).action, first), "a lost life is no new episode"


def test_the_ensemble_votes_and_the_mean_breaks_ties() -> None:
    obs = torch.tensor([[1, 1, 1, 0, 2], [3, 3, 0, 0, 1], [2, 2, 2, 2, 2]])
    assert Vote(Heads(), CPU).choose(timestep(3, obs=obs)).action.tolist() == [1, 0, 2]

    class Loud(nn.Module):
        """Heads 0 and 1 elect action 0 by a hair, head 2 shouts for action 1; in the second row each has its own."""

        def forward(self, obs: Tensor, given: Given = Given()) -> QOut:  # noqa: B008  (frozen)
            clear = [[0.1, 0.1, 0.0], [0.0, 0.0, 9.0], [-1.0, -1.0, -1.0]]
            tie = [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.5]]
            heads = torch.tensor([clear, tie])  # [N, A, E]
            return QOut(q=heads.mean(2), heads=heads)

    both = timestep(2)
    assert Vote(Loud(), CPU).choose(both).action.tolist() == [0, 1]
    assert Greedy(Loud(), CPU).choose(both).action.tolist() == [1, 1], "the mean is another policy"


def policies(shards: int) -> Actor:
    each = 3 * shards
    both = streams(shards)
    explorer = ZetaGreedy(each, 4, both, CPU, exponent=1.5, longest=30)
    return Actor(follow(each, both), explorer)


def play(actor: Actor, steps: range, num_envs: int) -> Tensor:
    """Act on inputs that are the same in every call for a step and an environment."""
    taken = []
    for step in steps:
        ended = (torch.arange(num_envs) + step) % 7 == 0
        obs = (torch.arange(4) + step + torch.arange(num_envs)[:, None]) % 4
        said = timestep(num_envs, obs=obs, terminated=ended)
        taken.append(actor.act(said, Rates(epsilon=0.2)).action)
    return torch.stack(taken)


def test_both_resume_bitwise() -> None:
    whole = play(policies(2), range(60), 6)
    actor = policies(2)
    play(actor, range(25), 6)
    state: State = actor.state_dict()
    play(actor, range(25, 40), 6)  # continues without touching what was returned
    fresh = policies(2)
    fresh.load_state_dict(state)
    assert torch.equal(play(fresh, range(25, 60), 6), whole[25:])


def test_a_shard_acts_the_same_wherever_it_lives() -> None:
    """The state of shard 0 of two, loaded by an actor that owns shard 0 alone, continues as before."""
    both, one = policies(2), policies(1)
    play(both, range(10), 6)
    one.load_state_dict({"0": both.state_dict()["0"]})
    assert torch.equal(play(one, range(10, 40), 3), play(both, range(10, 40), 6)[:, :3])
