"""The losses of DQN (Mnih et al. 2015) and Double DQN (van Hasselt et al. 2016). Pure maths, one number per sample."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.types import Batch, Draws, Given, LossOut, QOut, Rates


def dqn(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch,
    rates: Rates,
    *,
    double: bool,
    kind: Literal["huber", "mse"],
    draws: Draws | None = None,
) -> LossOut:
    """Regress Q(s, a) on the n-step target ret + discount * max_a' Q_target(s', a').

    With `double` the online network picks a' and the target network values it (van Hasselt et al. 2016, eq. 4).
    `mse` is delta^2, as in CleanRL; `huber` is delta^2 / 2 for |delta| <= 1 and linear beyond.
    """
    given = Given(draws=draws, task=batch.task)
    with torch.no_grad():
        target = batch.ret + batch.discount * bootstrap(net, target_net, batch.next_obs, given, double=double)
    out: QOut = net(batch.obs, given)
    q = out.q.gather(1, batch.action[:, None]).squeeze(1)
    regress = F.huber_loss if kind == "huber" else F.mse_loss
    values = q.detach()
    return LossOut(
        loss=regress(q, target, reduction="none"),
        priority=(target - values).abs(),
        metrics={"q_values": values},
        out=out,
    )


def bootstrap(net: nn.Module, target_net: nn.Module, next_obs: Tensor, given: Given, *, double: bool) -> Tensor:
    """Return the value of the next observations, [B]."""
    q: Tensor = target_net(next_obs, given).q
    if not double:
        return q.amax(1)
    best = net(next_obs, given).q.argmax(1, keepdim=True)
    return q.gather(1, best).squeeze(1)
