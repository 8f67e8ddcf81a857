"""Heads of Q-networks: features in, a value or return distribution of each action out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.nets.layers import Layers, Linear, hidden_layers
from trainer.types import Draws, Given, QOut


class ActionOutputs(nn.Module):
    """K numbers for each action, [..., F] -> [..., A, K], by one stream or by two (dueling, Wang et al. 2016, eq. 9).

    hidden: widths of the hidden layers, separate for each stream.
    """

    def __init__(
        self,
        features: int,
        num_actions: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (),
        dueling: bool = False,
        linear: Linear = nn.Linear,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_actions, self.outputs = num_actions, outputs

        def stream(out: int) -> Layers:
            sizes = (features, *hidden)
            return Layers(*hidden_layers(sizes, linear, norm), linear(sizes[-1], out))

        self.value = stream(outputs) if dueling else None
        self.advantage = stream(num_actions * outputs)

    def forward(self, x: Tensor, draws: Draws | None = None) -> Tensor:
        """Map features [..., F] to [..., A, K]; dueling adds value and advantage less its mean, for each of the K."""
        advantage: Tensor = self.advantage(x, draws).unflatten(-1, (self.num_actions, self.outputs))
        if self.value is None:
            return advantage
        value: Tensor = self.value(x, draws)
        return value.unsqueeze(-2) + advantage - advantage.mean(-2, keepdim=True)


class ValueHead(nn.Module):
    """One value per action."""

    def __init__(self, outputs: ActionOutputs) -> None:
        super().__init__()
        assert outputs.outputs == 1
        self.outputs = outputs

    def forward(self, x: Tensor, given: Given) -> QOut:
        """Map features [B, F] to q [B, A]."""
        return QOut(q=self.outputs(x, given.draws).squeeze(2))


class CategoricalHead(nn.Module):
    """The return of an action as a histogram over K atoms between two bounds (C51, Bellemare et al. 2017).

    The atoms are computed when needed, not stored: replicas exchange parameters only.
    """

    def __init__(self, outputs: ActionOutputs, v_min: float, v_max: float) -> None:
        super().__init__()
        self.outputs, self.v_min, self.v_max = outputs, v_min, v_max

    def forward(self, x: Tensor, given: Given) -> QOut:
        """Map features [B, F] to log-probabilities [B, A, K] and their mean."""
        logits = self.outputs(x, given.draws).log_softmax(2)
        atoms = torch.linspace(self.v_min, self.v_max, self.outputs.outputs, dtype=x.dtype, device=x.device)
        return QOut(q=logits.exp() @ atoms, logits=logits)


class QuantileHead(nn.Module):
    """K quantiles of the return of an action, at the midpoints of K equal intervals (QR-DQN, Dabney et al. 2018a)."""

    def __init__(self, outputs: ActionOutputs) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor, given: Given) -> QOut:
        """Map features [B, F] to quantiles [B, A, K] and their mean."""
        quantiles = self.outputs(x, given.draws)
        fractions = middles(self.outputs.outputs, x).expand(x.shape[0], -1)
        return QOut(q=quantiles.mean(2), quantiles=quantiles, fractions=fractions)


class ImplicitQuantileHead(nn.Module):
    """Quantiles of the return of an action at any requested fractions (IQN, Dabney et al. 2018b).

    acting: how many fractions a greedy decision uses; risk: they cover [0, risk), so that `q` is the mean of the worst
    share of the returns (CVaR, its section 3.2). `q` is always the value used for acting. Where a loss asks for
    fractions over [0, 1) and risk is 1, it is the mean of their quantiles; the paper draws separate fractions for it.
    The layer after the cosines is never noisy.
    """

    def __init__(self, features: int, outputs: ActionOutputs, *, cosines: int, acting: int, risk: float) -> None:
        super().__init__()
        assert outputs.outputs == 1
        self.embed = nn.Linear(cosines, features)
        self.outputs, self.cosines, self.acting, self.risk = outputs, cosines, acting, risk

    def forward(self, x: Tensor, given: Given) -> QOut:
        """Map features [B, F] to quantiles [B, A, K] at K = `given.fractions` or `acting` fractions, and to q."""
        count, share = (given.fractions, 1.0) if given.fractions else (self.acting, self.risk)
        drawn = (
            middles(count, x).expand(x.shape[0], -1) if given.draws is None else given.draws.uniform(x.shape[0], count)
        )
        fractions = share * drawn
        quantiles = self._quantiles(x, fractions, given)
        q = quantiles.mean(2) if share == self.risk else self.forward(x, given._replace(fractions=0)).q
        return QOut(q=q, quantiles=quantiles, fractions=fractions)

    def _quantiles(self, x: Tensor, fractions: Tensor, given: Given) -> Tensor:
        """Return the quantiles at fractions [B, K], [B, A, K] (eq. 4)."""
        i = torch.arange(self.cosines, dtype=x.dtype, device=x.device)
        embedded = self.embed(torch.cos(math.pi * i * fractions[..., None])).relu()  # [B, K, F]
        quantiles: Tensor = self.outputs(x[:, None] * embedded, given.draws)  # [B, K, A, 1]
        return quantiles.squeeze(3).transpose(1, 2)


def middles(count: int, like: Tensor) -> Tensor:
    """Return the midpoints of `count` equal intervals of [0, 1], [count], on the device of `like`."""
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count
