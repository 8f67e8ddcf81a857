"""Several tasks in one run: observation and action spaces joined into one, so that one network serves them all.

Observations are padded with zeros: vectors to the longest, images of one size to the most channels. Every task has as
many actions as the richest: action a of a task with n actions is its action a modulo n. So every action exists,
and nothing that takes a mean or a maximum over actions needs a mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.envs.base import Backend, EnvSpec, StackPad
from trainer.types import State, Timestep


def join_specs(specs: Mapping[str, EnvSpec]) -> EnvSpec:
    """Return the spec of an environment that may be any of `specs`, by task; its `tasks` are those specs.

    Raises:
        ValueError: their observations cannot be given one shape; one line.
    """
    (first_id, first), *others = specs.items()
    for task, spec in others:
        if not _alike(first, spec):
            raise ValueError(
                f"{first_id} observes {_words(first)}, {task} {_words(spec)}: one network cannot take both;"
                " choose --env.tasks that observe vectors, or images of one size, type and number of stacked frames"
            )
    every = tuple(specs.values())
    return EnvSpec(
        kind=first.kind,
        obs_shape=tuple(max(sizes) for sizes in zip(*(spec.obs_shape for spec in every), strict=True)),
        obs_dtype=first.obs_dtype,
        num_actions=max(spec.num_actions for spec in every),
        stack=first.stack,
        stack_pad=first.stack_pad,
        saves_state=all(spec.saves_state for spec in every),
        tasks=every,
    )


def _alike(a: EnvSpec, b: EnvSpec) -> bool:
    """Whether zeros can give the observations of both the same shape and the same meaning."""
    if (a.obs_dtype, a.stack) != (b.obs_dtype, b.stack) or (a.stack > 1 and a.stack_pad != b.stack_pad):
        return False
    if a.obs_shape == b.obs_shape:
        return True
    dimensions = len(a.obs_shape)
    return a.stack == 1 and dimensions == len(b.obs_shape) in (1, 3) and a.obs_shape[1:] == b.obs_shape[1:]


def _words(spec: EnvSpec) -> str:
    kind = str(spec.obs_dtype).removeprefix("torch.")
    stacked = f", a stack of {spec.stack}" if spec.stack > 1 else ""
    return f"{kind} {spec.obs_shape}{stacked}"


class Padded:
    """A `Backend` with the joint spaces of all tasks of a run.

    It saves its state only if all of them can: after a resume the tasks of a run continue together or restart together.
    """

    def __init__(self, backend: Backend, joined: EnvSpec) -> None:
        self.backend = backend
        self.device, self.num_envs = backend.device, backend.num_envs
        self.num_actions, self.obs_shape, self.obs_dtype = joined.num_actions, joined.obs_shape, joined.obs_dtype
        self.stack: int = joined.stack
        self.stack_pad: StackPad = joined.stack_pad
        self.saves_state = joined.saves_state

    def reset(self) -> Timestep:
        return self._pad(self.backend.reset())

    def send(self, action: Tensor) -> None:
        self.backend.send(action % self.backend.num_actions)

    def recv(self) -> Timestep:
        return self._pad(self.backend.recv())

    def _pad(self, timestep: Timestep) -> Timestep:
        obs = pad(timestep.obs, self.obs_shape)
        final = obs if timestep.final_obs is timestep.obs else pad(timestep.final_obs, self.obs_shape)
        return timestep._replace(obs=obs, final_obs=final)

    def state_dict(self) -> State:
        return self.backend.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.backend.load_state_dict(state)

    def render(self) -> NDArray[np.uint8] | None:
        return self.backend.render()

    def close(self) -> None:
        self.backend.close()


def pad(obs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return observations [N, *] with zeros after the entries of their first dimension, [N, *shape]."""
    if obs.shape[1:] == shape:
        return obs
    missing = obs.new_zeros(len(obs), shape[0] - obs.shape[1], *shape[1:])
    return torch.cat((obs, missing), 1)
