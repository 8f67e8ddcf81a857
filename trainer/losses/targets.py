"""Which action's value the next state is worth; shared by the losses on transitions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trainer.types import Batch, Given, QOut, Rates

Target = Literal["max", "sarsa", "expected"]


def next_choice(
    net: nn.Module, after: QOut, batch: Batch, rates: Rates, given: Given, *, target: Target, double: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the best action at next_obs, [B], and, unless only that counts, each action's probability there, [B, A].

    after: the target network's output at next_obs. With `double` the online network picks the best action (van
    Hasselt et al. 2016, eq. 4), otherwise the target network does. The probabilities are those of the behaviour policy,
    epsilon-greedy at this step (`expected`, van Seijen et al. 2009), or 1 for the action that was taken (`sarsa`,
    Rummery & Niranjan 1994). Where none was, because the episode was cut, SARSA takes the expectation too.
    """
    q: Tensor = net(batch.next_obs, given).q if double else after.q
    best = q.argmax(1)
    if target == "max":
        return best, None
    actions = torch.arange(q.shape[1], device=q.device)  # compared with, since one_hot reads its argument on the host
    chance = (1 - rates.epsilon) * (best[:, None] == actions).to(q.dtype) + rates.epsilon / q.shape[1]
    if target == "sarsa":
        assert batch.next_action is not None
        took = batch.next_action[:, None]
        chance = chance.where(took < 0, (took == actions).to(q.dtype))
    return best, chance


def of_action(values: Tensor, action: Tensor) -> Tensor:
    """Return the part of `values` [B, A, ...] for `action` [B], [B, ...]."""
    index = action.view(-1, *(1,) * (values.dim() - 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, index).squeeze(1)
