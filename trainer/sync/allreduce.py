"""Gradients all-reduced at every update, in two ways with the same numbers: one flat bucket, or DDP."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.runtime.ranks import Ranks
from trainer.runtime.spans import Spans
from trainer.sync.flat import FlatParameters
from trainer.sync.replicas import Replicas
from trainer.sync.step import ClippedOptimizer
from trainer.types import State


class AllReduce:
    """Averages gradients over ranks, clips, steps.

    overlap=False: one all-reduce of the flat gradient behind the backward pass. overlap=True: DistributedDataParallel,
    whose buckets travel during the backward pass; losses must call the module that `prepare` returns.
    """

    def __init__(
        self,
        flat: FlatParameters,
        target: FlatParameters,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks,
        spans: Spans,
        *,
        overlap: bool,
    ) -> None:
        self.flat, self.ranks, self.spans, self.overlap = flat, ranks, spans, overlap
        self.capturable = not overlap
        self.replicas = Replicas(flat, target, ranks)
        self.clipped = ClippedOptimizer(optimizer, flat)
        self.zero_grad, self.set_lr = self.clipped.zero_grad, self.clipped.set_lr
        self.refresh, self.diverged, self.blame = self.replicas.refresh, self.replicas.diverged, self.replicas.blame

    def prepare(self, net: nn.Module) -> nn.Module:
        """Start from rank 0's weights everywhere; return the module that losses must call. A collective."""
        self.replicas.start_equal()
        if not self.overlap:
            return net
        device_ids = [self.ranks.device.index] if self.ranks.device.type == "cuda" else None
        # gradients stay views of the flat buffer, so DDP may not replace them by views of its buckets;
        # buffers of our networks are constants
        return DistributedDataParallel(
            net, device_ids=device_ids, gradient_as_bucket_view=False, broadcast_buffers=False
        )

    def step(self, max_norm: float) -> Tensor:
        """Average, clip, step; return the norm of the averaged gradient, []. A collective."""
        if not self.overlap and self.ranks.world_size > 1:  # alone, gloo's own hand-over would cost 10% of an update
            with self.spans("sync"):
                dist.all_reduce(self.flat.grad)
                self.flat.grad.div_(self.ranks.world_size)
        return self.clipped.step(max_norm)

    def gather(self, values: Tensor) -> Tensor:
        """Return every rank's few numbers, [K] -> [ranks, K]. A collective."""
        if self.ranks.world_size == 1:
            return values[None]
        everyone = [torch.empty_like(values) for _ in range(self.ranks.world_size)]
        with self.spans("sync"):
            dist.all_gather(everyone, values)
        return torch.stack(everyone)

    def state_dict(self) -> State:
        return {"optimizer": self.clipped.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.clipped.load_state_dict(state["optimizer"])
