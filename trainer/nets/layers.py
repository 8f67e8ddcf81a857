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

    Where every row has its own noise, (W + sigma * f(e_out) f(e_in)^T) x is W x + f(e_out) * (sigma (f(e_in) * x)),
    because the noise is factorised: a second product instead of a weight matrix per row.
    """

    def __init__(self, fan_in: int, fan_out: int, sigma: float = 0.5) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(fan_out).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((fan_out, fan_in), sigma * bound))
        self.bias_sigma = nn.Parameter(torch.full((fan_out,), sigma * bound))

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Map x [B, ..., in] to [B, ..., out]; draws decide whether rows share noise; without them there is none."""
        if draws is None:
            mean: Tensor = F.linear(x, self.weight, self.bias)
            return mean
        fan_out, fan_in = self.weight.shape
        noise = scaled_noise(draws, len(x), *(1,) * (x.dim() - 2), fan_in + fan_out)
        e_in, e_out = torch.split(noise, [fan_in, fan_out], dim=-1)
        noisy: Tensor
        if len(noise) < len(x):
            e_in, e_out = e_in.flatten(), e_out.flatten()
            weight = torch.addcmul(self.weight, self.weight_sigma, e_out[:, None] * e_in)
            noisy = F.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, e_out))
        else:
            apart = F.linear(e_in * x, self.weight_sigma, self.bias_sigma)
            noisy = F.linear(x, self.weight, self.bias) + e_out * apart
        return noisy


def scaled_noise(draws: Draws, rows: int, *shape: int) -> Tensor:
    """Return f(x) = sgn(x) sqrt|x| of x ~ N(0, 1), [rows or 1, *shape] (Fortunato et al. 2018, section 3b)."""
    noise = draws.noise(rows, *shape)
    return noise.abs().sqrt_().copysign_(noise)


class Layers(nn.Sequential):
    """Modules in sequence; the noisy ones receive the draws.

    mixed: products up to the last activation are in bfloat16; everything after it, and the output, is in float32.
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
    """Apply layers in sequence."""
    for layer in layers:
        x = layer(x, draws) if isinstance(layer, NoisyLinear) else layer(x)
    return x


def in_bfloat16(x: Tensor) -> torch.autocast:
    """Return the context in which torch computes products in bfloat16, whatever their arguments, on x's device."""
    return torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)


def hidden_layers(sizes: Sequence[int], linear: Linear, norm: bool) -> list[nn.Module]:
    """Return layers of these widths, a ReLU after each, with layer normalisation before it if `norm`."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [linear(fan_in, fan_out), *([nn.LayerNorm(fan_out)] if norm else []), nn.ReLU()]
    return layers
