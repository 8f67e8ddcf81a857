"""Fully connected layers, plain, normalised or noisy; the only layers that may draw random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.types import Draws

Linear = Callable[[int, int], nn.Module]
"""Makes a layer, [B, in] -> [B, out]."""


class NoisyLinear(nn.Module):
    """A linear layer with factorised Gaussian noise on its weights (Fortunato et al. 2018, section 3b).

    Every row has noise of its own: because it is factorised, (W + sigma * f(e_out) f(e_in)^T) x is
    W x + f(e_out) * (sigma (f(e_in) * x)), a second small product instead of a weight matrix per row.
    """

    def __init__(self, fan_in: int, fan_out: int, sigma: float = 0.5) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(fan_out).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((fan_out, fan_in), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((fan_out,), sigma * bound))

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Map x [B, ..., in] to [B, ..., out]; the noise is a row's own, without draws it is zero."""
        mean: Tensor = F.linear(x, self.weight, self.bias)
        if draws is None:
            return mean
        fan_out, fan_in = self.weight.shape
        noise = scaled_noise(draws, len(x), *(1,) * (x.dim() - 2), fan_in + fan_out)
        e_in, e_out = torch.split(noise, [fan_in, fan_out], dim=-1)
        noisy: Tensor = mean + e_out * F.linear(e_in * x, self.weight_sigma, self.bias_sigma)
        return noisy


def scaled_noise(draws: Draws, rows: int, *shape: int) -> Tensor:
    """Return f(x) = sgn(x) sqrt|x| of standard normal x, [rows, *shape] (Fortunato et al. 2018, section 3b)."""
    noise = draws.normal(rows, *shape)
    return noise.abs().sqrt_().copysign_(noise)


class Layers(nn.Sequential):
    """Modules one behind the other, of which the noisy ones get the draws.

    mixed: products up to the last activation are of bfloat16; what lies behind it, and what comes out, is of float32.
    """

    mixed = False

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        if not self.mixed:
            return through(self, x, draws)
        last = len(self) - (len(self) > 0 and not isinstance(self[-1], nn.ReLU))
        with in_bfloat16(x):
            x = through(list(self)[:last], x, draws)
        return through(list(self)[last:], x.float(), draws)


def through(layers: Iterable[nn.Module], x: Tensor, draws: Draws | None) -> Tensor:
    """Return what comes out of layers one behind the other."""
    for layer in layers:
        x = layer(x, draws) if isinstance(layer, NoisyLinear) else layer(x)
    return x


def in_bfloat16(x: Tensor) -> torch.autocast:
    """Return the context in which torch takes products in bfloat16, whatever their arguments are, where x is."""
    return torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)


def hidden_layers(sizes: Sequence[int], linear: Linear, norm: bool) -> list[nn.Module]:
    """Return layers of these widths, a ReLU behind each, layer normalisation in front of it where asked for."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [linear(fan_in, fan_out), *([nn.LayerNorm(fan_out)] if norm else []), nn.ReLU()]
    return layers
