"""Regression on complete returns, without a target network: PQN (Gallici et al. 2025)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import nn

from trainer.types import Batch, Given, LossOut, QOut, Rates


def returns(
    net: nn.Module, target_net: nn.Module, batch: Batch, rates: Rates, *, kind: Literal["huber", "mse"]
) -> LossOut:
    """Regress Q(s, a) on the return of the batch (Gallici et al. 2025, eq. 9); `target_net` is not used.

    `mse` is delta^2 and `huber` is delta^2 / 2 for |delta| <= 1, as for DQN. A row where `batch.mask` is False is not a
    transition: it has loss 0 and counts as no term.
    """
    out: QOut = net(batch.obs, Given(task=batch.task))
    q = out.q.gather(1, batch.action[:, None]).squeeze(1)
    regress = F.huber_loss if kind == "huber" else F.mse_loss
    loss, values = regress(q, batch.ret, reduction="none"), q.detach()
    terms = None
    if batch.mask is not None:
        terms = batch.mask[:, 0].to(loss.dtype)
        loss = loss * terms
    return LossOut(loss=loss, priority=(batch.ret - values).abs(), metrics={"q_values": values}, terms=terms, out=out)
