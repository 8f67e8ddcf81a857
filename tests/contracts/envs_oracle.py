"""What the environment tests share: transitions through the normal form, and the plain loop they must equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.envs import Backend
from trainer.envs.device import DeviceBackend
from trainer.types import Timestep


class Transition(NamedTuple):
    obs: NDArray[Any]
    action: int
    reward: float
    terminated: bool
    truncated: bool
    next_obs: NDArray[Any]


def actions(backend: Backend, steps: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (backend.num_envs,)
    return [torch.randint(backend.num_actions, shape, generator=generator) for _ in range(steps)]


def collect(backend: Backend, steps: int, seed: int = 0) -> list[list[Transition]]:
    """Return the valid transitions of each env; check meanwhile what holds for every timestep."""
    out: list[list[Transition]] = [[] for _ in range(backend.num_envs)]
    timestep = backend.reset()
    assert timestep.reset.all()
    ended = torch.zeros(backend.num_envs, dtype=torch.bool)
    for action in actions(backend, steps, seed):
        before = timestep.obs.clone()
        backend.send(action)
        following = backend.recv()
        check_form(backend, following)
        assert torch.equal(timestep.obs, before), "the backend wrote into a timestep it had handed out"
        for i in range(backend.num_envs):
            row = (following.reward[i].item(), following.terminated[i].item(), following.truncated[i].item())
            if following.reset[i]:
                assert ended[i], "a reset row without an episode's end before it"
                assert row == (0.0, False, False)
                continue
            out[i].append(
                Transition(timestep.obs[i].numpy(), int(action[i]), *row, next_obs=following.final_obs[i].numpy())
            )
        ended = following.terminated | following.truncated
        timestep = following
    return out


def check_form(backend: Backend, timestep: Timestep) -> None:
    n = backend.num_envs
    assert timestep.obs.shape == timestep.final_obs.shape == (n, *backend.obs_shape)
    assert timestep.obs.dtype == timestep.final_obs.dtype == backend.obs_dtype
    assert timestep.reward.shape == (n,)
    assert timestep.reward.dtype == torch.float32
    for flag in (timestep.terminated, timestep.truncated, timestep.life_lost, timestep.reset):
        assert flag.shape == (n,)
        assert flag.dtype == torch.bool
    done = timestep.terminated | timestep.truncated
    assert torch.equal(timestep.obs[~done], timestep.final_obs[~done])
    if not done.any() and not isinstance(backend, DeviceBackend):  # that one would have to read its device
        assert timestep.obs is timestep.final_obs


class Plain(NamedTuple):
    """A single environment as a plain loop sees it."""

    reset: Callable[[], NDArray[Any]]
    step: Callable[[int], tuple[NDArray[Any], float, bool, bool]]


def replayed(env: Plain, played: list[Transition]) -> list[Transition]:
    """Play the same actions in a plain loop that resets where the episode ends."""
    out = []
    obs = env.reset()
    for action in (transition.action for transition in played):
        next_obs, reward, terminated, truncated = env.step(action)
        out.append(Transition(obs, action, reward, terminated, truncated, next_obs))
        obs = env.reset() if terminated or truncated else next_obs
    return out


def assert_same(got: list[Transition], expected: list[Transition]) -> None:
    assert len(got) == len(expected)
    for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        for name, a, b in zip(Transition._fields, ours, theirs, strict=True):
            assert np.array_equal(a, b), f"transition {i}: {name} is {a}, a plain loop says {b}"


def endings(played: list[list[Transition]]) -> tuple[int, int]:
    """Return how many transitions terminated and how many were truncated."""
    flat = [transition for env in played for transition in env]
    return sum(t.terminated for t in flat), sum(t.truncated for t in flat)
