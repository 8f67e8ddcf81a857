"""The losses of DQN (Mnih et al. 2015) and Double DQN (van Hasselt et al. 2016). Pure maths, one number per sample."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from trainer.losses.munchausen import Munchausen
from trainer.losses.targets import Target, next_choice, of_action
from trainer.types import Batch, Draws, Given, LossOut, QOut, Rates


def dqn(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch,
    rates: Rates,
    *,
    double: bool,
    kind: Literal["huber", "mse"],
    target: Target = "max",
    munchausen: Munchausen | None = None,
    draws: Draws | None = None,
) -> LossOut:
    """Regress Q(s, a) on the n-step target ret + discount * V_target(s').

    V is the value of the best action, or what `target` or `munchausen` make of it; with `double` the online network
    picks the action and the target network evaluates it (van Hasselt et al. 2016, eq. 4).
    `mse` is delta^2, as in CleanRL; `huber` is delta^2 / 2 for |delta| <= 1 and linear beyond.
    """
    given = Given(draws=draws, task=batch.task)
    with torch.no_grad():
        after: QOut = target_net(batch.next_obs, given)
        if munchausen is not None:
            ret, value = batch.ret + munchausen.bonus(target_net, batch, given), munchausen.value(after)
        else:
            best, chance = next_choice(net, after, batch, rates, given, target=target, double=double)
            ret, value = batch.ret, of_action(after.q, best) if chance is None else (chance * after.q).sum(1)
        goal = ret + batch.discount * value
    out: QOut = net(batch.obs, given)
    q = of_action(out.q, batch.action)
    regress = F.huber_loss if kind == "huber" else F.mse_loss
    values = q.detach()
    return LossOut(
        loss=regress(q, goal, reduction="none"),
        priority=(goal - values).abs(),
        metrics={"q_values": values},
        out=out,
    )
