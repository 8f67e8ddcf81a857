"""The loss of bootstrapped DQN (Osband et al. 2016): each head of an ensemble regresses on a target of its own."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.types import Batch, Draws, Given, LossOut, QOut, Rates


def ensemble(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch,
    rates: Rates,
    *,
    double: bool,
    kind: Literal["huber", "mse"],
    draws: Draws | None = None,
) -> LossOut:
    """Regress Q_e(s, a) on ret + discount * max_a' Q_target,e(s', a') for each head e, where the mask lets it learn.

    With `double`, head e of the online network picks a' (van Hasselt et al. 2016, eq. 4). The loss of a sample is the
    sum over heads (Osband et al. 2016, eq. 4); its priority is the mean |TD error| of the heads that learn from it.
    """
    given = Given(draws=draws, task=batch.task)
    with torch.no_grad():
        ahead = _heads(target_net(batch.next_obs, given))  # [B, A, E]
        chooser = _heads(net(batch.next_obs, given)) if double else ahead
        best = chooser.argmax(1, keepdim=True)
        target = batch.ret[:, None] + batch.discount[:, None] * ahead.gather(1, best).squeeze(1)  # [B, E]
    out: QOut = net(batch.obs, given)
    heads = _heads(out)
    q = heads.gather(1, batch.action[:, None, None].expand(-1, 1, heads.shape[2])).squeeze(1)  # [B, E]
    regress = F.huber_loss if kind == "huber" else F.mse_loss
    mask = torch.ones_like(target) if batch.mask is None else batch.mask.to(target.dtype)
    values = q.detach()
    return LossOut(
        loss=(mask * regress(q, target, reduction="none")).sum(1),
        priority=(mask * (target - values).abs()).sum(1) / mask.sum(1).clamp(min=1),
        metrics={"q_values": values.mean(1), "head_spread": values.std(1, correction=0)},
        out=out,
    )


def _heads(out: QOut) -> Tensor:
    assert out.heads is not None, "the network has no ensemble of heads"
    return out.heads
