"""The loss of QR-DQN and IQN (Dabney et al. 2018a, 2018b): quantile regression on the distributional TD error."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.losses.munchausen import Munchausen
from trainer.losses.targets import Target, next_choice, of_action
from trainer.types import Batch, Draws, Given, LossOut, QOut, Rates


def quantile(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch,
    rates: Rates,
    *,
    kappa: float,
    double: bool = False,
    target: Target = "max",
    munchausen: Munchausen | None = None,
    fractions: int = 0,
    target_fractions: int = 0,
    draws: Draws | None = None,
) -> LossOut:
    """Regress the quantiles of Z(s, a) on samples of ret + discount * Z_target(s', a').

    fractions, target_fractions: how many an implicit network is asked for, N and N' of IQN. With `expected`, or where
    SARSA takes an expectation, the samples are those of all actions, weighted by the policy.
    The priority is the mean |TD error| over all pairs, as in Beyond the Rainbow (Clark et al. 2024).
    """
    given = Given(draws=draws, task=batch.task)  # the same query as in acting
    with torch.no_grad():
        after: QOut = target_net(batch.next_obs, given._replace(fractions=target_fractions))
        assert after.quantiles is not None
        weight: Tensor | None = None
        ret = batch.ret
        if munchausen is not None:
            ret = ret + munchausen.bonus(target_net, batch, given)
            samples = munchausen.value(after)
        else:
            best, chance = next_choice(net, after, batch, rates, given, target=target, double=double)
            if chance is None:
                samples = of_action(after.quantiles, best)
            else:
                samples = after.quantiles.flatten(1)  # [B, A K]
                weight = chance.repeat_interleave(after.quantiles.shape[2], 1) / after.quantiles.shape[2]
        goal = ret[:, None] + batch.discount[:, None] * samples
    out: QOut = net(batch.obs, given._replace(fractions=fractions))
    assert out.quantiles is not None
    assert out.fractions is not None
    guess = of_action(out.quantiles, batch.action)
    error = goal[:, None] - guess[..., None]  # [B, K, samples]
    regress = quantile_huber(error, out.fractions[..., None], kappa)
    distance = error.detach().abs()
    return LossOut(
        loss=mean(regress, weight).sum(1),
        priority=mean(distance, weight).mean(1),
        metrics={"q_values": guess.detach().mean(1)},
        out=out,
    )


def quantile_huber(error: Tensor, fraction: Tensor, kappa: float) -> Tensor:
    """Return |fraction - 1{error < 0}| L_kappa(error) / kappa (2018b, eq. 3); kappa 0: L / kappa becomes |error|."""
    size = error.abs() if kappa == 0 else F.huber_loss(error, torch.zeros_like(error), "none", kappa) / kappa
    return (fraction - (error.detach() < 0).to(error.dtype)).abs() * size


def mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean over the last dimension of [B, K, samples], with weights [B, samples] that sum to one."""
    return values.mean(2) if weight is None else (values * weight[:, None]).sum(2)
