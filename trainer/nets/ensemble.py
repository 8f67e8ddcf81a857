"""An ensemble of value heads on a shared body (bootstrapped DQN, Osband et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.nets.layers import scaled_noise
from trainer.types import Draws, Given, QOut


class StackedLinear(nn.Module):
    """E linear layers side by side, [E, B, in] -> [E, B, out], in one product; with noise as in `NoisyLinear`.

    sigma: initial standard deviation of the noise, times 1/sqrt(in); None: no noise.
    """

    def __init__(self, heads: int, fan_in: int, fan_out: int, sigma: float | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(heads, fan_in, fan_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(heads, 1, fan_out).uniform_(-bound, bound))
        self.noisy = sigma is not None
        if sigma is not None:
            self.weight_sigma = nn.Parameter(torch.full_like(self.weight, sigma * bound))
            self.bias_sigma = nn.Parameter(torch.full_like(self.bias, sigma * bound))

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        if draws is None or not self.noisy:
            return torch.baddbmm(self.bias, x, self.weight)
        heads, fan_in, fan_out = self.weight.shape
        noise = scaled_noise(draws, x.shape[1], heads, fan_in + fan_out).transpose(0, 1)  # [E, B or 1, in + out]
        e_in, e_out = torch.split(noise, [fan_in, fan_out], dim=2)
        if noise.shape[1] < x.shape[1]:
            weight = torch.addcmul(self.weight, self.weight_sigma, e_in.transpose(1, 2) * e_out)
            return torch.baddbmm(torch.addcmul(self.bias, self.bias_sigma, e_out), x, weight)
        apart = torch.baddbmm(self.bias_sigma, e_in * x, self.weight_sigma)
        return torch.baddbmm(self.bias, x, self.weight) + e_out * apart


class StackedNorm(nn.Module):
    """Layer normalisation of [E, B, F] with each head's own scales and offsets."""

    def __init__(self, heads: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, features))
        self.bias = nn.Parameter(torch.zeros(heads, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[2:]) * self.weight + self.bias


class StackedLayers(nn.Sequential):
    """Modules in sequence; the linear ones receive the draws."""

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        for layer in self:
            x = layer(x, draws) if isinstance(layer, StackedLinear) else layer(x)
        return x


class EnsembleHead(nn.Module):
    """Features [B, F] to values by each of E heads, [B, A, E], and their mean; nothing is shared between heads.

    Every head sends its gradient into the features; there it is divided by E (Osband et al. 2016, appendix).
    hidden: widths of the hidden layers, separate for each stream of each head.
    """

    def __init__(
        self,
        features: int,
        num_actions: int,
        heads: int,
        *,
        hidden: Sequence[int] = (),
        dueling: bool = False,
        noisy_sigma: float | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads

        def stream(out: int) -> StackedLayers:
            layers: list[nn.Module] = []
            for fan_in, fan_out in pairwise((features, *hidden)):
                layers += [StackedLinear(heads, fan_in, fan_out, noisy_sigma)]
                layers += [*([StackedNorm(heads, fan_out)] if norm else []), nn.ReLU()]
            return StackedLayers(*layers, StackedLinear(heads, (features, *hidden)[-1], out, noisy_sigma))

        self.value = stream(1) if dueling else None
        self.advantage = stream(num_actions)

    def forward(self, x: Tensor, given: Given) -> QOut:
        """Map features [B, F] to heads [B, A, E] and q [B, A]."""
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda grad: grad / self.heads)  # type: ignore[no-untyped-call]
        each = x.expand(self.heads, *x.shape)
        q = self.advantage(each, given.draws)  # [E, B, A]
        if self.value is not None:
            q = self.value(each, given.draws) + q - q.mean(2, keepdim=True)
        heads = q.permute(1, 2, 0)
        return QOut(q=heads.mean(2), heads=heads)
