"""The loss of C51 (Bellemare et al. 2017): cross-entropy with the target distribution, projected onto the atoms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.losses.targets import Target, next_choice, of_action
from trainer.types import Batch, Draws, Given, LossOut, QOut, Rates


def c51(
    net: nn.Module,
    target_net: nn.Module,
    batch: Batch,
    rates: Rates,
    *,
    v_min: float,
    v_max: float,
    double: bool = False,
    target: Target = "max",
    draws: Draws | None = None,
) -> LossOut:
    """Move the distribution of Z(s, a) towards that of ret + discount * Z_target(s', a').

    With `expected`, or where SARSA takes an expectation, the target is the mixture of the actions' distributions.
    The priority is the KL divergence, which equals the loss up to a constant (Hessel et al. 2018).
    """
    given = Given(draws=draws, task=batch.task)
    with torch.no_grad():
        after: QOut = target_net(batch.next_obs, given)
        assert after.logits is not None
        best, chance = next_choice(net, after, batch, rates, given, target=target, double=double)
        if chance is None:
            mass = of_action(after.logits, best).exp()
        else:
            mass = (chance[..., None] * after.logits.exp()).sum(1)
        goal = project(batch.ret, batch.discount, mass, v_min, v_max)
    out: QOut = net(batch.obs, given)
    assert out.logits is not None
    loss = -(goal * of_action(out.logits, batch.action)).sum(1)
    divergence = loss.detach() + torch.xlogy(goal, goal).sum(1)
    return LossOut(
        loss=loss,
        priority=divergence.clamp(min=0),  # rounding may push it below
        metrics={"q_values": of_action(out.q.detach(), batch.action)},
        out=out,
    )


def project(ret: Tensor, discount: Tensor, mass: Tensor, v_min: float, v_max: float) -> Tensor:
    """Project the distribution of ret + discount * Z onto the atoms of Z (eq. 7).

    ret, discount: [B]; mass: [B, K], probabilities of K evenly spaced atoms from v_min to v_max. Each shifted atom,
    clipped to the bounds, splits its probability between its two neighbours; one that coincides with an atom gives it
    all. Written as sums over all pairs, so that the order of the additions, and thus the result, is fixed on a GPU too.
    """
    count = mass.shape[1]
    atoms = torch.linspace(v_min, v_max, count, dtype=mass.dtype, device=mass.device)
    spacing = (v_max - v_min) / (count - 1)
    shifted = (ret[:, None] + discount[:, None] * atoms).clamp(v_min, v_max)
    shares = (1 - (shifted[:, None] - atoms[:, None]).abs() / spacing).clamp(min=0)  # [B, K to, K from]
    return (shares @ mass[..., None]).squeeze(2)
