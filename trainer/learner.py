"""One gradient step: the only place where per-sample losses are weighted and averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.types import Batch, Loss, LossOut, Rates, Sequences, State, Sync, UpdateOut


class Found(NamedTuple):
    """What differentiating the loss of a batch returns besides the gradient, which is in the buffer of `sync`.

    Unless there is a norm: then the weights were stepped as well.
    """

    names: tuple[str, ...]
    means: Tensor  # [M] under these names
    priority: Tensor  # [B]
    highest: Tensor | None  # [] largest priority over all ranks; None: not needed
    norm: Tensor | None = None  # [] of the gradient before clipping, as `Sync.step` returns it


Differentiate = Callable[[Any, Rates], Found | None]
"""(Batch or Sequences, rates) -> Found; None if it cannot, and then has touched nothing. A collective.

The step size was set before (`Sync.set_lr`).
"""


class Learner:
    """Turns batches into updates of the online network.

    net: what losses call (as `Sync.prepare` returned it); target_net: the raw target network, no gradients;
    compiled: another way from a batch to its gradient, or through the whole update, tried first.
    Metrics stay on the device until `drain`: the update itself never waits for it.
    """

    def __init__(
        self,
        net: nn.Module,
        target_net: nn.Module,
        loss: Loss,
        sync: Sync,
        *,
        max_grad_norm: float,
        compiled: Differentiate = lambda batch, rates: None,
    ) -> None:
        self.net, self.target_net, self.loss, self.sync = net, target_net, loss, sync
        self.max_grad_norm, self.compiled = max_grad_norm, compiled
        self.updates = 0
        self._recent: list[tuple[Tensor, Tensor]] = []  # means, norm; not yet read by `drain`, one entry per update
        self._names: tuple[str, ...] = ()
        self._uniform: Tensor | None = None

    def update(self, batch: Batch | Sequences, rates: Rates) -> UpdateOut:
        """Step the online network once on `batch`. A collective."""
        self.sync.set_lr(rates.lr)
        found = self.compiled(batch, rates) or self._differentiate(batch, rates)
        grad_norm = self.sync.step(self.max_grad_norm) if found.norm is None else found.norm
        self.updates += 1
        self._names = found.names
        self._recent.append((found.means, grad_norm))
        return UpdateOut(priority=found.priority, highest=found.highest)

    def _differentiate(self, batch: Batch | Sequences, rates: Rates) -> Found:
        """Leave the gradient of the weighted loss in the buffer of `sync`. A collective."""
        out = tame(self.loss(self.net, self.target_net, batch, rates))
        weights, highest = self._weigh(batch.probability, out, rates.beta)
        self.sync.zero_grad()
        # like loss.backward(weights), which would make torch import sympy: half a second of every start
        torch.dot(out.loss, spoiled(weights, out.loss)).backward()  # type: ignore[no-untyped-call]
        return Found(names(out), means(out), out.priority, highest)

    def _weigh(self, probability: Tensor | None, out: LossOut, beta: float) -> tuple[Tensor, Tensor | None]:
        """Return the weight of each sample in the gradient, [B], and the largest priority over all ranks. A collective.

        Gradients are later averaged over ranks, so each rank divides by the mean number of terms per rank. Importance
        weights are (N P(i))^-beta over their maximum on all ranks (Schaul et al. 2016, section 3.4): N cancels.
        """
        loss = out.loss
        if probability is None and out.terms is None:
            if self._uniform is None or self._uniform.shape != loss.shape:
                self._uniform = torch.full_like(loss, 1 / loss.numel(), requires_grad=False)
            return self._uniform, None
        least, highest, terms = self.sync.gather(measured(probability, out)).unbind(1)
        share = terms.sum().clamp(min=1) / len(terms)
        return weighted(loss, probability, beta, least.amin(), share), highest.amax()

    def drain(self) -> dict[str, list[float]]:
        """Read the metrics of the updates since the last drain; waits for the device."""
        if not self._recent:
            return {}
        found, norms = (torch.stack(column) for column in zip(*self._recent, strict=True))
        self._recent = []
        return {**dict(zip(self._names, found.t().tolist(), strict=True)), "grad_norm": norms.tolist()}

    def state_dict(self) -> State:
        return {"updates": self.updates}

    def load_state_dict(self, state: State) -> None:
        self.updates = int(state["updates"])


def tame(out: LossOut) -> LossOut:
    """Return `out` with priorities that are not finite set to 0."""
    return out._replace(priority=out.priority.nan_to_num(0.0, 0.0, 0.0))


def spoiled(weights: Tensor, loss: Tensor) -> Tensor:
    """Return the weights, non-finite where the loss is; then so is the gradient, and all ranks skip this update."""
    return weights + 0.0 * loss.detach()


def measured(probability: Tensor | None, out: LossOut) -> Tensor:
    """Return what ranks exchange about their batches, [3]: least P(i), largest priority, number of terms."""
    loss = out.loss.detach()
    terms = loss.new_full((), loss.numel()) if out.terms is None else out.terms.sum().to(loss.dtype)
    least = loss.new_ones(()) if probability is None else probability.amin().to(loss.dtype)
    return torch.stack((least, out.priority.amax().to(loss.dtype), terms))


def weighted(loss: Tensor, probability: Tensor | None, beta: Any, least: Tensor, share: Tensor) -> Tensor:
    """Return the weight of each sample, [B]; least: smallest P(i) on all ranks, share: mean terms per rank."""
    if probability is None:
        return (1 / share).expand_as(loss)
    each: Tensor = (least / probability) ** beta / share
    return each.to(loss.dtype)


def names(out: LossOut) -> tuple[str, ...]:
    """Return the names of `means`."""
    return ("td_loss", *out.metrics)


def means(out: LossOut) -> Tensor:
    """Return the means over the batch of the loss per term and of the metrics, [M]."""
    loss = out.loss.detach() if out.terms is None else out.loss.detach() / out.terms.clamp(min=1)
    return torch.stack([loss, *(metric.detach() for metric in out.metrics.values())]).mean(1)
