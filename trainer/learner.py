"""One gradient step: the only place where per-sample losses are weighted and averaged."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.types import Batch, Loss, LossOut, Rates, Sequences, State, Sync, UpdateOut


class Learner:
    """Turns batches into updates of the online network.

    net: what losses call (as `Sync.prepare` returned it); target_net: the raw target network, no gradients.
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
    ) -> None:
        self.net, self.target_net, self.loss, self.sync = net, target_net, loss, sync
        self.max_grad_norm = max_grad_norm
        self.updates = 0
        self._recent: list[tuple[Tensor, ...]] = []  # what `drain` has not read yet, one entry an update
        self._names: tuple[str, ...] = ()
        self._uniform: Tensor | None = None

    def update(self, batch: Batch | Sequences, rates: Rates) -> UpdateOut:
        """Step the online network once on `batch`. A collective."""
        out = self.loss(self.net, self.target_net, batch, rates)
        weights, highest = self._weigh(batch.probability, out, rates.beta)
        self.sync.zero_grad()
        out.loss.backward(weights)  # type: ignore[no-untyped-call]
        self.sync.set_lr(rates.lr)
        grad_norm = self.sync.step(self.max_grad_norm)
        self.updates += 1
        self._names = ("td_loss", "grad_norm", *out.metrics)
        loss = out.loss.detach() if out.terms is None else out.loss.detach() / out.terms.clamp(min=1)
        self._recent.append((loss, grad_norm[None], *out.metrics.values()))  # averaged when read
        return UpdateOut(priority=out.priority, highest=highest)

    def _weigh(self, probability: Tensor | None, out: LossOut, beta: float) -> tuple[Tensor, Tensor | None]:
        """Return the weight of each sample in the gradient, [B], and the largest priority over all ranks. A collective.

        The gradient is later averaged over ranks, so each divides by its share of the terms of all. Importance weights
        are (N P(i))^-beta over their largest in the batches of all ranks (Schaul et al. 2016, section 3.4): N cancels.
        """
        loss = out.loss
        if probability is None and out.terms is None:
            if self._uniform is None or self._uniform.shape != loss.shape:
                self._uniform = torch.full_like(loss, 1 / loss.numel(), requires_grad=False)
            return self._uniform, None
        terms = loss.new_tensor(loss.numel()) if out.terms is None else out.terms.sum().to(loss.dtype)
        least = loss.new_ones(()) if probability is None else probability.amin().to(loss.dtype)
        mine = torch.stack((least, out.priority.amax().to(loss.dtype), terms))
        least, highest, terms = self.sync.gather(mine).unbind(1)
        share = terms.sum().clamp(min=1) / len(terms)
        if probability is None:
            return (1 / share).expand_as(loss), highest.amax()
        return ((least.amin() / probability) ** beta / share).to(loss.dtype), highest.amax()

    def drain(self) -> dict[str, list[float]]:
        """Read the metrics of the updates since the last drain; waits for the device."""
        if not self._recent:
            return {}
        columns = torch.stack([torch.stack(column).mean(1) for column in zip(*self._recent, strict=True)]).tolist()
        self._recent = []
        return dict(zip(self._names, columns, strict=True))

    def state_dict(self) -> State:
        return {"updates": self.updates}

    def load_state_dict(self, state: State) -> None:
        self.updates = state["updates"]


def first_bad(values: list[float]) -> int | None:
    """Return the position of the first non-finite value."""
    return next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
