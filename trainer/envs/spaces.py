"""From Gymnasium's spaces to the three dtypes and the channels-first layout that networks take."""

from __future__ import annotations

import math
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import torch

from trainer.envs.base import Array


class ObsCodec:
    """Turns a batch of observations of one space into a fresh, contiguous array of the normal form.

    uint8 and bool stay, every other number becomes float32, Discrete becomes one-hot float32. Channels-last pictures
    (fewer channels than rows and columns) become channels-first.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __init__(self, space: gym.Space[object], env_id: str) -> None:
        self.one_hot: tuple[int, int] | None = None  # first value, number of values
        self.channels_last = False
        if isinstance(space, gym.spaces.Discrete):
            self.one_hot = (int(space.start), int(space.n))
            self.shape, self._numpy = (int(space.n),), np.dtype(np.float32)
        elif isinstance(space, gym.spaces.Box):
            shape = tuple(int(n) for n in space.shape)
            self.channels_last = len(shape) == 3 and shape[2] < min(shape[:2])
            self.shape = (shape[2], *shape[:2]) if self.channels_last else shape
            kept = space.dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
            self._numpy = np.dtype(space.dtype) if kept else np.dtype(np.float32)
        else:
            raise ValueError(
                f"{env_id} observes {type(space).__name__}; only Box and Discrete observations are supported:"
                " register it wrapped in gymnasium.wrappers.FlattenObservation"
            )
        names = {"float32": torch.float32, "uint8": torch.uint8, "bool": torch.bool}
        self.dtype = names[self._numpy.name]

    def encode(self, obs: Array | Sequence[Array]) -> torch.Tensor:
        """Return obs [N, ...] as a tensor [N, *] that shares no memory with it."""
        batch = np.asarray(obs)
        if self.one_hot is not None:
            first, size = self.one_hot
            out = np.zeros((batch.shape[0], size), dtype=np.float32)
            out[np.arange(batch.shape[0]), batch.reshape(-1).astype(np.int64) - first] = 1.0
            return torch.from_numpy(out)
        if self.channels_last:
            batch = np.moveaxis(batch, -1, 1)
        return torch.from_numpy(np.array(batch, dtype=self._numpy, order="C"))


def discrete_actions(space: gym.Space[object], env_id: str) -> tuple[int, int]:
    """Return (number of actions, value of the first one).

    Raises:
        ValueError: the actions are not Discrete.
    """
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n), int(space.start)
    hint = ""
    if isinstance(space, gym.spaces.MultiDiscrete):
        hint = f" (its {math.prod(space.nvec.reshape(-1).tolist())} combinations can be enumerated by an ActionWrapper)"
    elif isinstance(space, gym.spaces.Box):
        hint = " (some environments have a keyword for it, e.g. LunarLander continuous=False)"
    raise ValueError(f"{env_id} acts in {type(space).__name__}; a Q-network needs Discrete actions{hint}")
