"""Bodies of Q-networks: observation in, features out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.nets.layers import Layers, Linear, hidden_layers, in_bfloat16
from trainer.types import Draws


class VectorTorso(nn.Module):
    """A multilayer perceptron on a flattened observation (or only the flattening), [B, *] -> [B, features]."""

    def __init__(
        self, obs_shape: tuple[int, ...], hidden: Sequence[int], linear: Linear = nn.Linear, norm: bool = False
    ) -> None:
        super().__init__()
        sizes = (torch.Size(obs_shape).numel(), *hidden)
        self.layers = Layers(*hidden_layers(sizes, linear, norm))
        self.features = sizes[-1]

    def forward(self, obs: Tensor, draws: Draws | None = None) -> Tensor:
        x: Tensor = self.layers(obs.flatten(1), draws)
        return x

    def chain(self) -> list[nn.Module]:
        """Return the modules that in sequence do the same, without draws."""
        return [nn.Flatten(), *self.layers]


class ChannelsLast(nn.Module):
    """Puts channels last in memory, shape [B, C, H, W] unchanged: convolutions are then fastest and keep the layout."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


class ImageTorso(nn.Module):
    """Convolutions, then fully connected layers (or none), on channels-first images, [B, C, H, W] -> [B, features].

    mixed: convolutions and layers in bfloat16, see `Layers`.
    """

    mixed = False

    def __init__(
        self, obs_shape: tuple[int, ...], convs: nn.Sequential, hidden: Sequence[int], linear: Linear, norm: bool
    ) -> None:
        super().__init__()
        self.convs, self.layout = convs, ChannelsLast()
        with torch.no_grad():
            flat = convs(torch.zeros(1, *obs_shape)).numel()
        self.layers = Layers(*hidden_layers((flat, *hidden), linear, norm))
        self.features = (flat, *hidden)[-1]

    def forward(self, obs: Tensor, draws: Draws | None = None) -> Tensor:
        x: Tensor = self.layers(self.maps(obs).flatten(1), draws)
        return x

    def maps(self, obs: Tensor) -> Tensor:
        """Return the outputs of the convolutions, [B, c, h, w]."""
        images = self.layout(obs)
        if not self.mixed:
            plain: Tensor = self.convs(images)
            return plain
        with in_bfloat16(images):
            maps: Tensor = self.convs(images)
        return maps.float()

    def chain(self) -> list[nn.Module]:
        """Return the modules that in sequence do the same, without draws."""
        return [self.layout, *self.convs, nn.Flatten(), *self.layers]


def use_bfloat16(net: nn.Module, on: bool = True) -> None:
    """Make convolutions and hidden layers compute their products in bfloat16, by torch.autocast, or no longer.

    Weights, output layers and all that follows stay in float32: values of neighbouring actions often differ by less
    than the 0.4 % that bfloat16 resolves.
    """
    for module in net.modules():
        if isinstance(module, (Layers, ImageTorso)):
            module.mixed = on


def conv_layers(obs_shape: tuple[int, ...], convs: Sequence[tuple[int, int, int]], norm: bool) -> nn.Sequential:
    """Return convolutions (channels, kernel, stride), a ReLU after each, layer normalisation before it if `norm`."""
    layers: list[nn.Module] = []
    shape = torch.Size(obs_shape)
    for channels, kernel, stride in convs:
        layers.append(nn.Conv2d(shape[0], channels, kernel, stride=stride))
        shape = torch.Size((channels, *((side - kernel) // stride + 1 for side in shape[1:])))
        layers += [*([nn.LayerNorm(list(shape))] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


def nature(
    obs_shape: tuple[int, ...], hidden: Sequence[int], linear: Linear = nn.Linear, norm: bool = False
) -> ImageTorso:
    """Return the network body of Mnih et al. 2015 (its `hidden` is 512)."""
    convs = conv_layers(obs_shape, ((32, 8, 4), (64, 4, 2), (64, 3, 1)), norm)
    return ImageTorso(obs_shape, convs, hidden, linear, norm)


def minatar(
    obs_shape: tuple[int, ...], hidden: Sequence[int], linear: Linear = nn.Linear, norm: bool = False
) -> ImageTorso:
    """Return the network body of Young & Tian 2019 (its `hidden` is 128)."""
    return ImageTorso(obs_shape, conv_layers(obs_shape, ((16, 3, 1),), norm), hidden, linear, norm)
