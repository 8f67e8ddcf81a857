"""The loss of R2D2 (Kapturowski et al. 2019): Q-learning along sequences, with a recurrent network."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.losses.rescale import rescale, unscale
from trainer.types import Draws, Given, LossOut, QOut, Rates, Sequences


def sequence(
    net: nn.Module,
    target_net: nn.Module,
    batch: Sequences,
    rates: Rates,
    *,
    burn_in: int,
    double: bool,
    kind: Literal["huber", "mse"],
    rescaled: bool,
    eta: float,
    draws: Draws | None = None,
) -> LossOut:
    """Regress Q(h_t, a_t) on h(ret + discount * h^-1(Q_target(h_{t+m}, a'))) at every learning step (section 2.3).

    Both networks start from the stored state and are unrolled over the first `burn_in` steps without gradient, which
    updates that state to the current weights (section 3); a sequence without burn-in starts after them. One unroll of
    each network over the rest gives values and bootstraps; a' is the online network's best (`double`) or the target's.
    The loss of a sequence is the sum over its learning steps, `terms` their number; its priority is
    eta max|delta| + (1 - eta) mean|delta| over them. A sequence without learning steps has loss and priority 0.
    """
    given = Given(draws=draws, state=batch.state)
    with torch.no_grad():
        states = [burned(module, batch, given, burn_in) for module in (net, target_net)]
    rest, ahead = slice(burn_in, None), batch.ahead[:, burn_in:]
    out = unroll(net, batch, rest, given._replace(state=states[0]))
    with torch.no_grad():
        q_target = unroll(target_net, batch, rest, given._replace(state=states[1])).q  # [B, L', A]
        best = (out.q if double else q_target).argmax(2, keepdim=True)
        steps = torch.arange(ahead.shape[1], device=ahead.device)
        reached = (steps + ahead).clamp(max=ahead.shape[1] - 1)  # may be beyond the end where nothing learns
        value = q_target.gather(2, best).squeeze(2).gather(1, reached)
        ret, discount = batch.ret[:, burn_in:], batch.discount[:, burn_in:]
        target = rescale(ret + discount * unscale(value)) if rescaled else ret + discount * value
    learns = batch.learns[:, burn_in:]
    q = out.q.gather(2, batch.action[:, burn_in:, None]).squeeze(2)
    regress = F.huber_loss if kind == "huber" else F.mse_loss
    loss, terms = regress(q, target, reduction="none").where(learns, 0).sum(1), learns.sum(1)
    delta = (target - q.detach()).abs().where(learns, 0)
    count = terms.clamp(min=1)
    return LossOut(
        loss=loss,
        priority=eta * delta.amax(1) + (1 - eta) * delta.sum(1) / count,
        metrics={"q_values": q.detach().where(learns, 0).sum(1) / count},
        terms=terms,
    )


def burned(module: nn.Module, batch: Sequences, given: Given, burn_in: int) -> Tensor:
    """Return the recurrent state after the burn-in, [B, ...]; where there is none, the stored one."""
    if burn_in == 0:
        return batch.state
    state = unroll(module, batch, slice(burn_in), given).state
    assert state is not None, "needs a recurrent network"
    warm = batch.warm.view(-1, *(1 for _ in state.shape[1:]))
    return torch.where(warm, state, batch.state.to(state.dtype))


def unroll(module: nn.Module, batch: Sequences, steps: slice, given: Given) -> QOut:
    """Return a network's output along these steps of sequences, q [B, L', A], starting from given.state."""
    told = given._replace(last_action=batch.last_action[:, steps], last_reward=batch.last_reward[:, steps])
    out: QOut = module(batch.obs[:, steps], told)
    return out
