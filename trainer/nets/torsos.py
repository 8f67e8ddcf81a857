"""Bodies of Q-networks: observation in, features out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Return fully connected layers of these widths, a ReLU behind each."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers)


class VectorTorso(nn.Module):
    """A multilayer perceptron on a flattened observation, [B, *] -> [B, hidden[-1]]."""

    def __init__(self, obs_shape: tuple[int, ...], hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = mlp((torch.Size(obs_shape).numel(), *hidden))
        self.features = hidden[-1]

    def forward(self, obs: Tensor) -> Tensor:
        x: Tensor = self.layers(obs.flatten(1))
        return x

    @property
    def dtype(self) -> torch.dtype:
        return cast(nn.Linear, self.layers[0]).weight.dtype


class ImageTorso(nn.Module):
    """Convolutions, then fully connected layers, on channels-first images, [B, C, H, W] -> [B, hidden[-1]]."""

    def __init__(self, obs_shape: tuple[int, ...], convs: nn.Sequential, hidden: Sequence[int]) -> None:
        super().__init__()
        self.convs = convs
        with torch.no_grad():
            flat = convs(torch.zeros(1, *obs_shape)).numel()
        self.layers = mlp((flat, *hidden))
        self.features = hidden[-1]

    def forward(self, obs: Tensor) -> Tensor:
        x: Tensor = self.layers(self.convs(obs).flatten(1))
        return x

    @property
    def dtype(self) -> torch.dtype:
        return cast(nn.Linear, self.layers[0]).weight.dtype


def nature(obs_shape: tuple[int, ...], hidden: Sequence[int]) -> ImageTorso:
    """Return the network body of Mnih et al. 2015 (its `hidden` is 512)."""
    convs = nn.Sequential(
        nn.Conv2d(obs_shape[0], 32, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=1),
        nn.ReLU(),
    )
    return ImageTorso(obs_shape, convs, hidden)


def minatar(obs_shape: tuple[int, ...], hidden: Sequence[int]) -> ImageTorso:
    """Return the network body of Young & Tian 2019 (its `hidden` is 128)."""
    return ImageTorso(obs_shape, nn.Sequential(nn.Conv2d(obs_shape[0], 16, 3, stride=1), nn.ReLU()), hidden)
