"""The n-step fold: the one place where gamma, n and termination become a return and a discount."""

from __future__ import annotations

import torch
from torch import Tensor


def fold(reward: Tensor, terminal: Tensor, stop: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (ret, discount, length) of the windows that begin at column 0.

    ret = sum_{i<m} gamma^i r_i and discount = gamma^m, 0 where the window ran into a terminal transition; the window
    has m <= n transitions and ends after the first one with `stop` set (Sutton 1988; multi-step Q-learning as in
    Hessel et al. 2018, eq. 1).
    reward: [B, n] in the precision of the result; terminal, stop: [B, n] bool. Returns [B], [B], [B] int64.
    """
    steps = reward.shape[1]
    if steps == 1:  # the same numbers as below, in three operations instead of nine
        length = torch.ones_like(stop[:, 0], dtype=torch.int64)
        return reward[:, 0], torch.full_like(reward[:, 0], gamma).masked_fill_(terminal[:, 0], 0), length
    open_after = (~stop).to(torch.int64).cumprod(1)
    inside = torch.cat((torch.ones_like(open_after[:, :1]), open_after[:, :-1]), 1)  # [B, n] 1 within the window
    powers = gamma ** torch.arange(steps + 1, dtype=reward.dtype, device=reward.device)
    length = inside.sum(1)
    alive = ~(terminal & inside.bool()).any(1)
    return (reward * inside * powers[:-1]).sum(1), powers[length] * alive, length
