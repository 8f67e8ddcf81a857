"""A rank's interface over its shards: episode statistics, joining, and backends that cannot save their state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from envs_oracle import actions

from trainer.envs import Backend, ShardedEnvs, env_spec, make_backend
from trainer.types import Episode, Timestep

CPU = torch.device("cpu")


class Scripted:
    """A backend that replays a test's script: rows of (reward, terminated, truncated, life_lost, reset)."""

    device, num_envs, num_actions, obs_shape, obs_dtype = CPU, 1, 2, (1,), torch.float32
    stack, stack_pad, saves_state = 1, "repeat", False

    def __init__(self, rows: list[tuple[float, bool, bool, bool, bool]]) -> None:
        self.rows = iter(rows)

    def reset(self) -> Timestep:
        return self._say(0.0, False, False, False, True)

    def send(self, action: torch.Tensor) -> None:
        pass

    def recv(self) -> Timestep:
        return self._say(*next(self.rows))

    def _say(self, reward: float, *flags: bool) -> Timestep:
        obs = torch.zeros(1, 1)
        return Timestep(obs, torch.tensor([reward]), *(torch.tensor([flag]) for flag in flags), final_obs=obs)


def scripted(rows: list[tuple[float, bool, bool, bool, bool]], first_env: int = 0) -> ShardedEnvs:
    backend: Backend = Scripted(rows)  # type: ignore[assignment]
    return ShardedEnvs({3: backend}, CPU, {3: first_env})


def test_statistics() -> None:
    no = False
    rows = [
        (1.0, no, no, no, no),
        (2.0, no, no, True, no),  # a lost life does not end an episode
        (4.0, True, no, no, no),
        (0.0, no, no, no, True),  # a reset row is not a step
        (8.0, no, True, no, no),
        (16.0, True, True, no, no),  # both at once are one ending
        (32.0, no, no, no, no),
    ]
    envs = scripted(rows, first_env=40)
    envs.reset()
    for _ in rows:
        envs.send(torch.zeros(1, dtype=torch.int64))
        envs.recv()
    assert envs.episodes() == [Episode(40, 7.0, 3), Episode(40, 8.0, 1), Episode(40, 16.0, 1)]
    assert envs.episodes() == []
    envs.reset()  # forgets the 32


def test_statistics_do_not_depend_on_when_somebody_asks() -> None:
    draws = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)).tolist()
    # of magnitudes so far apart that sums in double precision are rounded
    rows = [(reward * 10.0 ** (t % 17 - 8), end < 0.02, False, False, False) for t, (reward, end) in enumerate(draws)]

    def told(every: int) -> list[Episode]:
        envs, found = scripted(rows), []
        envs.reset()
        for step in range(len(rows)):
            envs.recv()
            if step % every == every - 1:
                found += envs.episodes()
        return found + envs.episodes()

    one_by_one = told(1)
    assert len(one_by_one) > 3
    assert told(7) == one_by_one, "not even in the last bit"
    assert told(len(rows)) == one_by_one
    expected, ret = [], 0.0
    for reward, end, *_ in rows:
        ret += float(torch.tensor(reward))  # in single precision, as it arrives
        if end:
            expected.append(ret)
            ret = 0.0
    assert [episode.ret for episode in one_by_one] == expected


def test_statistics_restart_where_the_backend_cannot_save() -> None:
    row = (1.0, False, False, False, False)
    envs = scripted([row, row])
    envs.reset()
    envs.recv()
    state = envs.state_dict()
    assert list(state) == ["3"]
    assert state["3"]["backend"] is None
    other = scripted([row, (1.0, True, False, False, False)])
    other.load_state_dict(state)
    other.reset()
    other.recv()
    other.recv()
    assert other.episodes() == [Episode(0, 2.0, 2)]


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_statistics_of_catch(autoreset: str) -> None:
    """Every episode of Catch is 9 steps, in both modes."""
    backend = make_backend("toy", "toy/Catch", 4, [0] * 4, autoreset=autoreset)
    envs = ShardedEnvs({0: backend}, CPU, {0: 0})
    envs.reset()
    for action in actions(backend, 60):
        envs.send(action)
        envs.recv()
    episodes = envs.episodes()
    assert len(episodes) == 24
    assert {episode.length for episode in episodes} == {9}
    assert {episode.ret for episode in episodes} == {1.0, -1.0}
    assert {episode.env for episode in episodes} == {0, 1, 2, 3}


def test_join_keeps_one_tensor_for_obs_and_final_obs() -> None:
    backends = {s: make_backend("toy", "toy/Catch", 2, [s] * 2) for s in (1, 0)}
    envs = ShardedEnvs(backends, CPU, {0: 0, 1: 2})
    timestep = envs.reset()
    assert timestep.obs is timestep.final_obs
    for _ in range(9):
        envs.send(torch.ones(4, dtype=torch.int64))
        timestep = envs.recv()
    assert timestep.obs is not timestep.final_obs
    assert envs.num_envs == 4
    assert [episode.env for episode in envs.episodes()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "env_id"),
    [
        ("sync", "CartPole-v1"),
        ("async", "CartPole-v1"),
        ("native", "CartPole-v1"),
        ("auto", "MinAtar/Seaquest-v1"),
        ("torch", "MinAtar/Seaquest-v1"),
        ("auto", "ALE/Breakout-v5"),
        ("auto", "toy/Catch"),
        ("auto", "toy/Chain"),
        ("auto", "toy/Memory"),
    ],
)
def test_render(kind: str, env_id: str) -> None:
    envs = ShardedEnvs({0: make_backend(kind, env_id, 1, [0], render=True)}, CPU, {0: 0})
    try:
        envs.reset()
        frame = envs.render()
    finally:
        envs.close()
    assert frame is not None
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    assert frame.shape[2] == 3
    assert frame.max() > frame.min()


def test_spec_equals_what_is_built() -> None:
    cases = [("async", "CartPole-v1"), ("auto", "MinAtar/Freeway-v1"), ("auto", "ALE/Pong-v5")]
    for kind, env_id in [*cases, ("torch", "CartPole-v1"), ("torch", "MinAtar/Freeway-v1")]:
        spec = env_spec(kind, env_id)
        backend = make_backend(spec.kind, env_id, 2, [0, 1])
        backend.close()
        for name in ("obs_shape", "obs_dtype", "num_actions", "stack", "stack_pad", "saves_state"):
            assert getattr(spec, name) == getattr(backend, name)
    assert env_spec("auto", "CartPole-v1").kind == "native"
    assert env_spec("auto", "CartPole-v1", num_envs=1).kind == "sync"
    assert env_spec("auto", "MinAtar/Freeway-v1").kind == "minatar", "torch draws other numbers: it is asked for"
