"""What every environment backend promises, and how its arrays become a `Timestep`.

A backend is the vector environment of one shard. It knows no ranks and no configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.types import State, Timestep

Autoreset = Literal["next_step", "same_step"]
StackPad = Literal["repeat", "zero"]
Array = NDArray[np.generic]
Flags = NDArray[np.bool_]
CPU = torch.device("cpu")


class Backend(Protocol):
    """The vector environment of one shard, on the CPU or, where a step is tensor operations, on the rank's device.

    Tensors in a `Timestep` belong to the caller: the backend never writes to them again.
    `reset` seeds the streams the first time; later calls begin new episodes and continue the streams.
    """

    device: torch.device  # where it takes actions and returns timesteps; on a GPU it never waits
    num_envs: int
    num_actions: int
    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype  # uint8, bool or float32
    stack: int  # frames along dim 0 of an observation, newest last; 1: not a stack
    stack_pad: StackPad  # what comes before the first frame of an episode in its stack
    saves_state: bool

    def reset(self) -> Timestep: ...

    def send(self, action: Tensor) -> None:
        """Begin a step; action is [N] int64."""

    def recv(self) -> Timestep: ...

    def state_dict(self) -> State:
        """Return everything that the next step depends on, between `recv` and `send`; only where `saves_state`."""

    def load_state_dict(self, state: State) -> None: ...

    def render(self) -> NDArray[np.uint8] | None:
        """Return env 0 as an RGB picture, [H, W, 3], or None if this backend cannot."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class EnvSpec:
    """What an environment looks like from outside, known before any of a run's environments is built."""

    kind: str  # resolved backend
    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    num_actions: int
    stack: int
    stack_pad: StackPad
    saves_state: bool
    tasks: tuple[EnvSpec, ...] = ()  # in multi-task training: each task before its shapes were joined into those above


def opening(obs: Tensor) -> Timestep:
    """Return the timestep of a reset: obs is [N, *] and no transition leads to it."""
    n = obs.shape[0]
    no = torch.zeros(n, dtype=torch.bool, device=obs.device)
    return Timestep(
        obs=obs,
        reward=torch.zeros(n, device=obs.device),
        terminated=no,
        truncated=no.clone(),
        life_lost=no.clone(),
        reset=~no,
        final_obs=obs,
    )


def stepped(
    obs: Tensor,
    reward: Array,
    terminated: Flags,
    truncated: Flags,
    *,
    final_obs: Tensor | None = None,
    life_lost: Flags | None = None,
    reset: Flags | None = None,
) -> Timestep:
    """Return the timestep of a step; obs [N, *] is handed over, the small arrays [N] are copied.

    final_obs None means that it is obs in every row.
    """

    def flags(array: Flags | None) -> Tensor:
        if array is None:
            return torch.zeros(obs.shape[0], dtype=torch.bool)
        return torch.from_numpy(np.array(array, dtype=np.bool_))

    return Timestep(
        obs=obs,
        reward=torch.from_numpy(np.array(reward, dtype=np.float32)),
        terminated=flags(terminated),
        truncated=flags(truncated),
        life_lost=flags(life_lost),
        reset=flags(reset),
        final_obs=obs if final_obs is None else final_obs,
    )


def choose_autoreset(wanted: str, supported: tuple[Autoreset, ...], kind: str) -> Autoreset:
    """Return the wanted mode; for `auto`, the first supported one.

    Raises:
        ValueError: the backend cannot do it.
    """
    if wanted == "auto":
        return supported[0]
    for mode in supported:
        if mode == wanted:
            return mode
    raise ValueError(
        f"autoreset {wanted}: the {kind} backend does {' or '.join(supported)}; use auto or another backend"
    )


def take_limit(kwargs: dict[str, Any], default: int | None) -> int | None:
    """Pop max_episode_steps from an environment's kwargs.

    Raises:
        ValueError: it is not a positive int.
    """
    limit = kwargs.pop("max_episode_steps", default)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"max_episode_steps {limit}: must be a number of steps, 1 or more")
    return limit


def refuse_unknown(kwargs: dict[str, Any], env_id: str, known: tuple[str, ...]) -> None:
    """Raise ValueError if kwargs, which are those left over, is not empty."""
    if kwargs:
        raise ValueError(f"{env_id} takes no argument {', '.join(kwargs)}; it takes {', '.join(known)}")
