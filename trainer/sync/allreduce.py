"""Gradients all-reduced at every update, in two ways with the same numbers: one flat bucket, or DDP."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.sync.compress import Compression, Exact, Hook
from trainer.sync.flat import FlatParameters
from trainer.sync.noise import NoiseScale
from trainer.sync.step import ClippedOptimizer
from trainer.sync.strategy import Strategy
from trainer.sync.wire import Wire
from trainer.types import State


class AllReduce(Strategy):
    """Averages gradients over ranks, clips, steps: one exchange of the flat gradient after the backward pass.

    compression: how it travels; noise: compares gradients before and after the exchange.
    """

    def __init__(
        self,
        flat: FlatParameters,
        target: FlatParameters,
        clipped: ClippedOptimizer,
        wire: Wire,
        compression: Compression | None = None,
        noise: NoiseScale | None = None,
    ) -> None:
        super().__init__(flat, target, clipped, wire)
        self.compression = compression or Exact(wire)
        self.noise = noise
        self.capturable = compression is None
        self.alone = wire.world_size == 1 and compression is None and noise is None

    def step(self, max_norm: float) -> Tensor:
        """Average, clip, step; return the norm of the averaged gradient, []. A collective."""
        if self.noise is not None:
            self.noise.before(self.flat.grad)
        self.compression.mean_(self.flat.grad)
        norm = self.clipped.step(max_norm)
        self.compression.forget(norm)
        if self.noise is not None:
            self.noise.after(norm)
        return norm

    def report(self) -> dict[str, float]:
        """Return numbers for the log since the last report, and the noise scale. A collective."""
        return super().report() | ({} if self.noise is None else self.noise.report())

    def own_state(self) -> State:
        state = {} if self.noise is None else {"noise": self.noise.state_dict()}
        lost = self.compression.state_dict()
        return state | ({"compression": {"label": self.compression.label, "state": lost}} if lost else {})

    def load_own_state(self, state: State) -> None:
        """Restore what compression owes, if it is of the same kind, and the averages of the noise scale."""
        if self.noise is not None and "noise" in state:
            self.noise.load_state_dict(state["noise"])
        saved = state.get("compression")
        if saved is not None and saved["label"] == self.compression.label:
            self.compression.load_state_dict(saved["state"])


class Overlapped(Strategy):
    """DistributedDataParallel: its buckets travel during the backward pass; losses call what `prepare` returns."""

    def __init__(
        self, flat: FlatParameters, target: FlatParameters, clipped: ClippedOptimizer, wire: Wire, hook: Hook
    ) -> None:
        super().__init__(flat, target, clipped, wire)
        self.device = flat.data.device
        self.hook = hook

    def prepare(self, net: nn.Module) -> nn.Module:
        """Start from rank 0's weights everywhere; return the module that losses must call. A collective."""
        self.replicas.start_equal()
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # gradients stay views of the flat buffer, so DDP may not replace them by views of its buckets;
        # buffers of our networks are constants; the argument that says so was renamed in torch 2.13
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        constant: dict[str, Any] = {buffers: False}
        module = DistributedDataParallel(net, device_ids=device_ids, gradient_as_bucket_view=False, **constant)
        if self.wire.world_size > 1:
            self._form_buckets(module, net)
            self.hook.register(module)
        return module

    def _form_buckets(self, module: DistributedDataParallel, net: nn.Module) -> None:
        """Show DDP an empty backward pass, in the order in which a real one reaches the parameters. A collective.

        DDP rebuilds its buckets after the first pass of each start. A resumed run would otherwise split its first
        gradient differently from the uninterrupted run, and the sum of three numbers depends on their order.
        """

        def nothing() -> Tensor:
            total = torch.zeros((), dtype=self.flat.data.dtype, device=self.device)
            for parameter in net.parameters():  # the one added last is reached first
                total = total + parameter.sum()
            return total

        net.forward = nothing
        module().backward()
        del net.forward
        self.flat.grad.zero_()

    def step(self, max_norm: float) -> Tensor:
        """Clip and step the averaged gradient; return its norm, []."""
        self.wire.note_sum(self.hook.next_bytes())
        norm = self.clipped.step(max_norm)
        self.hook.forget(norm)
        return norm
