"""Gradients all-reduced at every update, in two ways with the same numbers: one flat bucket, or DDP."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.sync.flat import FlatParameters
from trainer.sync.step import ClippedOptimizer
from trainer.sync.strategy import Strategy
from trainer.sync.wire import Wire


class AllReduce(Strategy):
    """Averages gradients over ranks, clips, steps: one all-reduce of the flat gradient behind the backward pass."""

    capturable = True

    def step(self, max_norm: float) -> Tensor:
        """Average, clip, step; return the norm of the averaged gradient, []. A collective."""
        self.wire.mean_(self.flat.grad)
        return self.clipped.step(max_norm)


class Overlapped(Strategy):
    """DistributedDataParallel: its buckets travel during the backward pass; losses call what `prepare` returns."""

    def __init__(self, flat: FlatParameters, target: FlatParameters, clipped: ClippedOptimizer, wire: Wire) -> None:
        super().__init__(flat, target, clipped, wire)
        self.device = flat.data.device

    def prepare(self, net: nn.Module) -> nn.Module:
        """Start from rank 0's weights everywhere; return the module that losses must call. A collective."""
        self.replicas.start_equal()
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # gradients stay views of the flat buffer, so DDP may not replace them by views of its buckets;
        # buffers of our networks are constants
        return DistributedDataParallel(
            net, device_ids=device_ids, gradient_as_bucket_view=False, broadcast_buffers=False
        )

    def step(self, max_norm: float) -> Tensor:
        """Clip and step the averaged gradient; return its norm, []."""
        self.wire.note_sum(self.flat.grad.nbytes)
        return self.clipped.step(max_norm)
