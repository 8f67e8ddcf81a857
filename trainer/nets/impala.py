"""The residual body of Espeholt et al. 2018, with what 'Beyond the Rainbow' (Clark et al. 2024) adds to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.nets.layers import Linear
from trainer.nets.torsos import ImageTorso

CHANNELS = (16, 32, 32)
SIGMA_STEPS_AT_START = 15


class SpectralConv(nn.Module):
    """A 3x3 convolution with its weights, as a matrix [out, in * 9], divided by its spectral norm (Miyato et al. 2018).

    u estimates the left singular vector; a forward pass that will be differentiated improves it by a power iteration.
    Acting and targets, which need no gradient, leave it alone: so only updates change it, and ranks agree.
    It is a parameter without gradient, so that it is broadcast, compared, saved and copied to the target like a weight.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels_in, channels, 3)
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias
        self.u = nn.Parameter(F.normalize(torch.randn(channels), dim=0), requires_grad=False)
        with torch.no_grad():
            for _ in range(SIGMA_STEPS_AT_START):
                self.u.copy_(F.normalize(self._times_v(), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in, H, W] to [B, out, H, W]."""
        sigma_u = self._times_v()
        sigma = torch.linalg.vector_norm(sigma_u)
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.u.copy_(F.normalize(sigma_u, dim=0))
        out: Tensor = F.conv2d(x, self.weight / sigma.clamp(min=1e-12), self.bias, padding=1)
        return out

    def _times_v(self) -> Tensor:
        """Return W v, [out], for v = W^T u / |W^T u|, through which no gradient flows; its norm is the estimate."""
        matrix = self.weight.flatten(1)
        v = F.normalize(matrix.detach().t() @ self.u, dim=0)
        return matrix @ v


class Residual(nn.Module):
    """x plus two convolutions of it, each preceded by a ReLU."""

    def __init__(self, convs: Sequence[nn.Module], shape: tuple[int, ...], norm: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer for conv in convs for layer in (*_relu(shape, norm), conv)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def impala(
    obs_shape: tuple[int, ...],
    hidden: Sequence[int],
    linear: Linear = nn.Linear,
    norm: bool = False,
    *,
    width: int = 1,
    spectral_norm: bool = False,
    pool: int = 0,
) -> ImageTorso:
    """Return the large body of Espeholt et al. 2018, figure 3 (its `hidden` is 256).

    Three times: convolution, max-pooling that halves the image, two residual blocks. width: multiple of the channels;
    spectral_norm: on the convolutions of the residual blocks; pool: side of an adaptive max-pooling at the end.
    """
    conv: Callable[[int, int], nn.Module] = SpectralConv if spectral_norm else _conv
    layers: list[nn.Module] = []
    shape = obs_shape
    for base in CHANNELS:
        channels = base * width
        layers += [_conv(shape[0], channels), nn.MaxPool2d(3, stride=2, padding=1)]
        shape = (channels, *(math.ceil(side / 2) for side in shape[1:]))
        layers += [Residual([conv(channels, channels) for _ in range(2)], shape, norm) for _ in range(2)]
    layers += [*_relu(shape, norm), *([nn.AdaptiveMaxPool2d(pool)] if pool else [])]
    return ImageTorso(obs_shape, nn.Sequential(*layers), hidden, linear, norm)


def map_side(side: int) -> int:
    """Return the side of the last feature map for images of this side."""
    for _ in CHANNELS:
        side = math.ceil(side / 2)
    return side


def _conv(channels_in: int, channels: int) -> nn.Module:
    return nn.Conv2d(channels_in, channels, 3, padding=1)


def _relu(shape: tuple[int, ...], norm: bool) -> list[nn.Module]:
    return [*([nn.LayerNorm(list(shape))] if norm else []), nn.ReLU()]
