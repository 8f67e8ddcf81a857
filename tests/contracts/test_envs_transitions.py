"""Every backend and autoreset mode yields the transitions of a plain single-environment loop."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from envs_oracle import Plain, Transition, assert_same, collect, endings, replayed
from numpy.typing import NDArray

from trainer.envs import Backend, make_backend
from trainer.envs.minatar import GAMES

SEEDS = [11, 12, 13]


class Reused(gym.Env[NDArray[np.uint8], int]):
    """Writes every observation, a picture with its channels last, into one buffer; actions begin at 2."""

    observation_space = gym.spaces.Box(0, 255, (6, 5, 3), np.uint8)
    action_space = gym.spaces.Discrete(3, start=2)

    def __init__(self) -> None:
        self.buffer = np.zeros((6, 5, 3), dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.buffer[:] = self.np_random.integers(200, size=(6, 5, 3))
        return self.buffer, {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        assert action in (2, 3, 4)
        self.buffer[0, 0, 0] += action
        self.buffer[1:] += 1
        return self.buffer, float(action), bool(self.np_random.random() < 0.15), False, {}


gym.register("test/Reused-v0", entry_point=Reused, max_episode_steps=6)


def plain_gym(env_id: str, seed: int, kwargs: dict[str, Any]) -> Plain:
    """The hand-rolled loop over gym.make, in the layout that networks take."""
    env = gym.make(env_id, **kwargs)
    env.reset(seed=seed)
    first = [True]

    def layout(obs: Any) -> NDArray[Any]:
        if isinstance(env.observation_space, gym.spaces.Discrete):
            return np.eye(int(env.observation_space.n), dtype=np.float32)[int(obs)]
        obs = np.array(obs)
        return np.ascontiguousarray(obs.transpose(2, 0, 1)) if obs.ndim == 3 else obs.astype(np.float32)

    def reset() -> NDArray[Any]:
        seeded, first[0] = first[0], False
        return layout(env.reset(seed=seed if seeded else None)[0])

    def step(action: int) -> tuple[NDArray[Any], float, bool, bool]:
        obs, reward, terminated, truncated, _ = env.step(action + getattr(env.action_space, "start", 0))
        return layout(obs), float(np.float32(reward)), terminated, truncated

    return Plain(reset, step)


@pytest.mark.filterwarnings("ignore:.*share an object")  # the point of Reused
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {"max_episode_steps": 18}),
        ("Acrobot-v1", {"max_episode_steps": 40}),
        ("FrozenLake-v1", {"max_episode_steps": 6}),
        ("test/Reused-v0", {}),
    ],
)
def test_gymnasium(kind: str, autoreset: str, env_id: str, kwargs: dict[str, Any]) -> None:
    backend = make_backend(kind, env_id, 3, SEEDS, autoreset=autoreset, kwargs=kwargs)
    try:
        played = collect(backend, 200)
    finally:
        backend.close()
    for seed, env in zip(SEEDS, played, strict=True):
        assert_same(env, replayed(plain_gym(env_id, seed, kwargs), env))
    terminated, truncated = endings(played)
    assert truncated
    assert terminated or env_id == "Acrobot-v1"


@pytest.mark.parametrize("kind", ["native", "torch"])
def test_cartpole_by_physics(kind: str) -> None:
    """Its envs share one stream: put one CartPole where each transition begins, and step it."""
    limit = 20
    backend = make_backend(kind, "CartPole-v1", 4, [3, 4, 5, 6], kwargs={"max_episode_steps": limit})
    played = collect(backend, 300)
    env = gym.make("CartPole-v1").unwrapped
    env.reset()
    for transitions in played:
        length = 0
        for t in transitions:
            if length == 0:
                assert np.abs(t.obs).max() <= 0.05
            length += 1
            env.state = t.obs.astype(np.float64)  # type: ignore[attr-defined]
            env.steps_beyond_terminated = None  # type: ignore[attr-defined]
            next_obs, reward, terminated, _, _ = env.step(t.action)
            np.testing.assert_allclose(t.next_obs, next_obs, atol=1e-5)
            assert (t.reward, t.terminated, t.truncated) == (reward, terminated, length == limit)
            length = 0 if t.terminated or t.truncated else length
    assert all(endings(played))
    assert (len(played[0]) < 300) == (kind == "native"), "NEXT_STEP has reset rows"


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("game", sorted(GAMES))
def test_minatar(game: str, version: str) -> None:
    from minatar import Environment

    limit = 12 if game == "Breakout" else 60
    env_id = f"MinAtar/{game}-{version}"
    backend = make_backend("auto", env_id, 2, SEEDS[:2], kwargs={"max_episode_steps": limit}, sticky=0.3)

    def plain(seed: int) -> Plain:
        env = Environment(GAMES[game], sticky_action_prob=0.3)
        env.seed(seed)
        table = env.minimal_action_set() if version == "v1" else list(range(6))
        length = [0]

        def reset() -> NDArray[Any]:
            env.reset()
            length[0] = 0
            return np.ascontiguousarray(env.state().transpose(2, 0, 1))

        def step(action: int) -> tuple[NDArray[Any], float, bool, bool]:
            reward, terminated = env.act(table[action])
            length[0] += 1
            return env.state().transpose(2, 0, 1), float(reward), terminated, length[0] == limit

        return Plain(reset, step)

    played = collect(backend, 500)
    for seed, transitions in zip(SEEDS, played, strict=False):
        assert_same(transitions, replayed(plain(seed), transitions))
    terminated, truncated = endings(played)
    assert truncated
    assert terminated or game == "Freeway"  # it ends after 2500 steps
    assert backend.num_actions == (6 if version == "v0" else len(Environment(GAMES[game]).minimal_action_set()))


def catch_step(t: Transition) -> tuple[list[float], float, bool]:
    """The rules of Catch on one board, written out."""
    board = t.obs.reshape(10, 5)
    cells = [tuple(cell) for cell in np.argwhere(board).tolist()]
    paddle = next(column for row, column in cells if row == 9)
    row, column = next(cell for cell in cells if cell[0] < 9)
    paddle = min(max(paddle + (-1, 0, 1)[t.action], 0), 4)
    following = np.zeros((10, 5))
    following[row + 1, column] = following[9, paddle] = 1
    ended = row + 1 == 9
    return following.reshape(-1).tolist(), (1.0 if paddle == column else -1.0) if ended else 0.0, ended


def chain_step(t: Transition) -> tuple[list[float], float, bool]:
    place = int(np.argmax(t.obs))
    place = place + 1 if t.action == 1 else 0
    reward = 0.001 if t.action == 0 else float(place == 7)
    return np.eye(8)[place].tolist(), reward, place == 7


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize(
    ("env_id", "rules", "limit"),
    [("toy/Catch", catch_step, 9), ("toy/Catch", catch_step, 4), ("toy/Chain", chain_step, 24)],
)
def test_toys(env_id: str, rules: Any, limit: int, autoreset: str) -> None:
    backend = make_backend(
        "auto", env_id, 20, list(range(20)), autoreset=autoreset, kwargs={"max_episode_steps": limit}
    )
    played = collect(backend, 150)
    for transitions in played:
        length = 0
        for t in transitions:
            length += 1
            following, reward, terminated = rules(t)
            assert t.next_obs.tolist() == following
            assert (t.reward, t.terminated) == (pytest.approx(reward), terminated)
            assert t.truncated == (length == limit)
            if t.terminated or t.truncated:
                length = 0
    terminated_count, truncated_count = endings(played)
    assert truncated_count
    assert terminated_count or (env_id, limit) == ("toy/Catch", 4)


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_memory_pays_for_the_cue_that_was_seen_first(autoreset: str) -> None:
    seen = []
    for transitions in collect(make_backend("auto", "toy/Memory", 20, list(range(20)), autoreset=autoreset), 150):
        episodes = [transitions[i : i + 7] for i in range(0, len(transitions) - 6, 7)]
        for *corridor, last in episodes:
            cue = int(np.argmax(corridor[0].obs))
            assert [np.argmax(t.obs) for t in (*corridor, last)] == [cue, 2, 2, 2, 2, 2, 3]
            assert all((t.reward, t.terminated, t.truncated) == (0, False, False) for t in corridor)
            assert (last.reward, last.terminated) == (1 if last.action == cue else -1, True)
            assert not last.next_obs.any()
            seen.append((cue, last.reward))
    assert set(seen) == {(0, 1), (0, -1), (1, 1), (1, -1)}


def test_toy_returns() -> None:
    backend = make_backend("auto", "toy/Chain", 1, [0])
    backend.reset()
    total = 0.0
    for _ in range(7):
        backend.send(torch.ones(1, dtype=torch.int64))
        timestep = backend.recv()
        total += timestep.reward.item()
    assert timestep.terminated.all()
    assert total == 1.0


@pytest.mark.parametrize(
    ("kind", "env_id"),
    [("sync", "CartPole-v1"), ("async", "CartPole-v1"), ("auto", "MinAtar/Asterix-v1"), ("auto", "ALE/Breakout-v5")],
)
def test_distinct_seeds_give_distinct_streams(kind: str, env_id: str) -> None:
    """Env i depends on seeds[i] alone, not on its neighbours."""

    def stream(seeds: list[int], row: int) -> list[torch.Tensor]:
        backend: Backend = make_backend(kind, env_id, len(seeds), seeds)
        try:
            out = [backend.reset().obs[row]]
            for i in range(80):
                backend.send(torch.full((len(seeds),), i % backend.num_actions))
                out.append(backend.recv().obs[row])
        finally:
            backend.close()
        return out

    base = stream([5, 6], 0)
    assert all(map(torch.equal, base, stream([7, 5], 1)))
    assert not all(map(torch.equal, base, stream([5, 6], 1)))
