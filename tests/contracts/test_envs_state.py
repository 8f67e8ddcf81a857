"""2k steps == k steps, state_dict through JSON and tensors, a new backend, k steps: bitwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from envs_oracle import actions

from trainer.envs import Backend, ShardedEnvs, make_backend
from trainer.envs.minatar import GAMES
from trainer.types import State, Timestep

CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    *(
        (kind, env_id, autoreset, {"max_episode_steps": 17})
        for kind in ("sync", "async")
        for env_id in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
        for autoreset in ("same_step", "next_step")
    ),
    ("native", "CartPole-v1", "next_step", {"max_episode_steps": 17}),
    *(("minatar", f"MinAtar/{game}-v1", "same_step", {"max_episode_steps": 90}) for game in sorted(GAMES)),
    *(("torch", f"MinAtar/{game}-v1", "same_step", {"max_episode_steps": 17}) for game in sorted(GAMES)),
    *(
        ("torch", env_id, "same_step", {"max_episode_steps": 17})
        for env_id in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
    ),
    *(
        ("toy", env_id, mode, {})
        for env_id in ("toy/Catch", "toy/Chain", "toy/Memory")
        for mode in ("same_step", "next_step")
    ),
]


def through_storage(state: Any) -> Any:
    """Return what a checkpoint gives back: JSON values through text, tensors as copies, and nothing else."""
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        assert all(isinstance(key, str) for key in state)
        return {key: through_storage(value) for key, value in state.items()}
    if isinstance(state, list):
        return [through_storage(item) for item in state]
    back = json.loads(json.dumps(state))
    assert type(back) is type(state)
    return back


def play(backend: Backend, some: list[torch.Tensor]) -> list[Timestep]:
    out = []
    for action in some:
        backend.send(action)
        out.append(backend.recv())
    return out


def assert_equal(got: list[Timestep], expected: list[Timestep]) -> None:
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        for name, x, y in zip(Timestep._fields, a, b, strict=True):
            assert torch.equal(x, y), f"step {i} after the restore: {name}"


@pytest.mark.parametrize(("kind", "env_id", "autoreset", "kwargs"), CASES)
def test_round_trip(kind: str, env_id: str, autoreset: str, kwargs: dict[str, Any]) -> None:
    n = 3
    made: list[Backend] = []

    def make(seeds: list[int]) -> Backend:
        made.append(make_backend(kind, env_id, n, seeds, autoreset=autoreset, kwargs=kwargs))
        return made[-1]

    try:
        original = make([1, 2, 3])
        assert original.saves_state
        original.reset()
        first, second = (actions(original, 120, seed) for seed in (0, 1))
        restored, dirty = make([4, 5, 6]), make([7, 8, 9])
        dirty.reset()
        play(dirty, first[:50])
        for k in (17, 34, 119):  # 17, 34: right after every env's episode was cut, where NEXT_STEP has a reset pending
            start = [17, 34, 119].index(k)
            play(original, first[[0, 17, 34][start] : k])
            state: State = through_storage(original.state_dict())
            expected = play(original, second)
            for other in (restored, dirty):  # one that was never stepped, one that was
                other.load_state_dict(state)
                assert_equal(play(other, second), expected)
            original.load_state_dict(state)
    finally:
        for backend in made:
            backend.close()


def test_sharded_round_trip_on_another_split() -> None:
    """Two shards on one rank == the same two shards on two ranks, before and after a restore."""

    def shard(number: int) -> Backend:
        return make_backend("toy", "toy/Catch", 3, [number] * 3)

    def rank(*shards: int) -> ShardedEnvs:
        return ShardedEnvs({s: shard(s) for s in shards}, torch.device("cpu"), {s: 3 * s for s in shards})

    together, apart = rank(0, 1), [rank(0), rank(1)]

    def both(action: torch.Tensor) -> None:
        together.send(action)
        for part, envs in zip(action.split(3), apart, strict=True):
            envs.send(part)
        joined = together.recv()
        parts = [envs.recv() for envs in apart]
        for name, x, *ys in zip(Timestep._fields, joined, *parts, strict=True):
            assert torch.equal(x, torch.cat(ys)), name
        assert together.episodes() == [episode for envs in apart for episode in envs.episodes()]

    joined = together.reset()
    assert torch.equal(joined.obs, torch.cat([envs.reset().obs for envs in apart]))
    steps = actions(shard(0), 40) + actions(shard(0), 40, seed=1)
    steps = [torch.cat([a, b]) for a, b in zip(steps[:40], steps[40:], strict=True)]
    for action in steps[:21]:
        both(action)
    state = through_storage(together.state_dict())
    assert sorted(state) == ["0", "1"]
    apart = [rank(0), rank(1)]
    for envs in apart:
        envs.load_state_dict(state)
    for action in steps[21:]:
        both(action)
