"""The gradient noise scale (McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A.1).

It is a batch size: far below it, doubling the batch saves nearly half of the updates; far above it, more samples are
wasted. Measuring it is free: each rank has the gradient of its own part of the batch before the exchange, and that of
the whole batch after it. The expected square of either is |G|^2 + tr(Sigma) / samples, with the true gradient G and
the covariance Sigma of one sample's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.sync.wire import Wire
from trainer.types import State

DECAY = 0.999
"""Of the running averages: single estimates are far too noisy, and the ratio of averages is less biased than an
average of ratios."""


class NoiseScale:
    """Running averages of the squared norms of this rank's gradient and of the mean gradient.

    batch: rows of the batch of all ranks. Nothing waits for the device before `report`.
    """

    def __init__(self, wire: Wire, batch: int, device: torch.device) -> None:
        assert wire.world_size > 1, "there is nothing to compare with"
        self.wire = wire
        self.big, self.small = batch, batch / wire.world_size
        self._squares = torch.zeros(2, dtype=torch.float64, device=device)  # of the small batch, of the big one
        self._updates = 0
        self._local: Tensor | None = None

    def before(self, grad: Tensor) -> None:
        """Record this rank's gradient."""
        self._local = torch.linalg.vector_norm(grad)

    def after(self, norm: Tensor) -> None:
        """Record the norm of the mean gradient; one that is not finite leaves the averages unchanged."""
        assert self._local is not None
        squares = torch.stack((self._local, norm)).to(torch.float64).square_()
        self._squares.lerp_(torch.where(squares.isfinite().all(), squares, self._squares), 1 - DECAY)
        self._updates += 1

    def report(self) -> dict[str, float]:
        """Return the estimates, the same on every rank: |G|^2, tr(Sigma), and their ratio, the noise scale, in rows.

        The last is left out if that of |G|^2 is not positive: noise hides the gradient altogether. A collective.
        """
        if self._updates == 0:
            return {}
        mean = self.wire.mean_(self._squares.clone()) / (1 - DECAY**self._updates)
        small, big = mean.tolist()
        square = (self.big * big - self.small * small) / (self.big - self.small)
        variance = (small - big) / (1 / self.small - 1 / self.big)
        found = {"gradient_squared": square, "gradient_variance": variance}
        if square > 0:
            found["noise_scale"] = variance / square
        return found

    def state_dict(self) -> State:
        return {"squares": self._squares.clone(), "updates": self._updates}

    def load_state_dict(self, state: State) -> None:
        self._squares.copy_(state["squares"])
        self._updates = state["updates"]
