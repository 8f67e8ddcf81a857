"""The large-margin loss on demonstrations of DQfD (Hester et al. 2018), after Piot et al. 2014."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.types import Batch, Given, LossOut, QOut, Rates


def large_margin(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch,
    rates: Rates,
    said: LossOut,
    *,
    margin: float,
    weight: float,
) -> Tensor:
    """Return weight * (max_a [Q(s, a) + margin * 1(a != a_E)] - Q(s, a_E)) where a demonstrator took a_E, else 0; [B].

    Hester et al. 2018, eq. 2: the demonstrated action has to exceed every other by the margin, which gives actions
    that were never demonstrated a reasonable value.
    """
    if batch.expert is None:
        return torch.zeros_like(said.loss, requires_grad=False)
    out: QOut = net(batch.obs, Given(task=batch.task)) if said.out is None else said.out
    shown = batch.action[:, None]
    others = torch.full_like(out.q, margin, requires_grad=False).scatter(1, shown, 0.0)
    short = (out.q + others).amax(1) - out.q.gather(1, shown).squeeze(1)
    return weight * torch.where(batch.expert, short, torch.zeros_like(short))
