"""Only the largest elements travel; what stays behind is added to the next gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.sync.finite import forget
from trainer.sync.wire import Wire
from trainer.types import State


class TopK:
    """Each rank's largest elements travel, with their indices, to every peer (Stich et al. 2018, Lin et al. 2018).

    The largest of the whole gradient, not per layer, and without the momentum correction of Lin et al., as momentum
    is the optimizer's here. Each rank sends share * P elements, each with a 4-byte index, to p - 1 peers, which is less
    than an all-reduce up to a share of 1 / p.
    """

    def __init__(self, like: Tensor, wire: Wire, share: float) -> None:
        self.wire = wire
        self.label = f"topk {share}"
        self.count = max(1, round(share * like.numel()))
        self._lost = torch.zeros_like(like)

    def mean_(self, grad: Tensor) -> None:
        """Replace this rank's flat gradient, [P], by the mean of what travels. A collective."""
        if self.wire.world_size == 1:
            return
        whole = self._lost.add_(grad)
        place = whole.abs().topk(self.count, sorted=False).indices
        values, places = self.wire.gather(whole[place]), self.wire.gather(place.to(torch.int32))
        whole[place] = 0.0
        grad.zero_()
        for theirs, at in zip(values, places, strict=True):  # rank by rank: no two additions meet, the order is fixed
            grad.index_add_(0, at, theirs)
        grad.div_(self.wire.world_size)

    def forget(self, norm: Tensor) -> None:
        forget([self._lost], norm)

    def state_dict(self) -> State:
        return {"lost": self._lost.clone()}

    def load_state_dict(self, state: State) -> None:
        self._lost.copy_(state["lost"])
