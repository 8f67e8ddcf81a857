"""A network cut by layers: activations go from rank to rank, gradients come back (GPipe, Huang et al. 2019).

torch's `distributed.pipelining` runs forward and backward as one schedule, with the loss on the last stage. Here every
rank has the loss, on outputs of three passes, two of them without gradients (targets, and the choice of Double), so the
exchange is made of autograd functions: a forward pass is an ordinary call, and `loss.backward()` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.sync.wire import Wire

ALIKE = 1e-4
"""Difference of two sums of gradients, relative to their size, that rounding can explain."""


class Handoff:
    """The exchanges of the ranks of one replica, which all run the same program on the same batches.

    wire: those ranks, in the order of their layers. A pass with gradients needs its backward before the next pass.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire, self.stage, self.stages = wire, wire.rank, wire.world_size
        self._seen: Tensor | None = None  # [2] of this pass: sum and size of the gradient w.r.t. the network's outputs
        self._strange: Tensor | None = None  # [stages] updates in which a rank saw another gradient than the last rank

    @property
    def is_last(self) -> bool:
        return self.stage == self.stages - 1

    def arrive(self, empty: Tensor) -> Tensor:
        """Return what the previous stage sends, shaped like `empty`; its gradient goes back there."""
        anchor = torch.zeros((), device=empty.device, requires_grad=True)
        received: Tensor = _Arrive.apply(anchor, empty, self)  # type: ignore[no-untyped-call]
        return received

    def leave(self, x: Tensor) -> Tensor:
        """Send `x` to the next stage; return its token in the graph, [], until its gradient comes back."""
        token: Tensor = _Leave.apply(x, self)  # type: ignore[no-untyped-call]
        return token

    def tell(self, out: Tensor, tokens: Sequence[Tensor]) -> Tensor:
        """Give every stage the last one's `out`; on the other stages its gradient leads to the tokens."""
        self.wire.broadcast_(out.detach(), self.stages - 1)
        told: Tensor = _Tell.apply(out, self, *tokens)  # type: ignore[no-untyped-call]
        return told

    def norm(self, part: Tensor) -> Tensor:
        """Return the norm of the vector spread over the stages, []; record which stages saw another loss."""
        norm: Tensor = torch.linalg.vector_norm(part)
        assert self._seen is not None, "only after a backward pass"
        norms, sums, sizes = self.wire.gather(torch.cat((norm[None], self._seen.to(norm.dtype)))).unbind(1)
        alike = (sums - sums[-1]).abs() <= ALIKE * sizes[-1]
        other = ~(alike | (sums.isnan() & sums[-1].isnan()))
        self._strange = other.long() if self._strange is None else self._strange + other
        self._seen = None
        whole: Tensor = torch.linalg.vector_norm(norms)
        return whole

    @property
    def strange(self) -> Tensor | None:
        """In how many updates each stage learned from another batch than the last stage, [stages]."""
        return self._strange

    def note(self, grad: Tensor) -> None:
        """Record the gradient w.r.t. the outputs, which is the same on every stage if their batches are."""
        self._seen = torch.stack((grad.sum(), grad.abs().sum()))

    def join(self, mine: Tensor) -> Tensor | None:
        """Return the flat parts of all stages concatenated, on the CPU; None except on stage 0. A collective."""
        sizes = self.wire.gather_objects(mine.numel())
        if self.stage > 0:
            self.wire.send(mine, 0)
            return None
        parts = [mine.to("cpu", copy=True)]
        for stage in range(1, self.stages):
            parts.append(self.wire.receive_(mine.new_empty(sizes[stage]), stage).cpu())
        return torch.cat(parts)


class _Arrive(torch.autograd.Function):
    """Forward: receive from the previous stage. Backward: send it the gradient. The anchor puts it in the graph."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, empty: Tensor, handoff: Handoff) -> Tensor:
        ctx.handoff = handoff
        handoff.wire.receive_(empty, handoff.stage - 1)
        ctx.mark_dirty(empty)
        return empty

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ctx.handoff.wire.send(grads[0].contiguous(), ctx.handoff.stage - 1)
        return None, None, None


class _Leave(torch.autograd.Function):
    """Forward: send to the next stage. Backward: receive the gradient from there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, handoff: Handoff) -> Tensor:
        ctx.handoff, ctx.shape = handoff, x.shape
        handoff.wire.send(x.contiguous(), handoff.stage + 1)
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.handoff.wire.receive_(grads[0].new_empty(ctx.shape), ctx.handoff.stage + 1), None


class _Tell(torch.autograd.Function):
    """Forward: identity. Backward: to where the outputs came from, or to the tokens, which receive their gradients."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, handoff: Handoff, *tokens: Tensor) -> Tensor:
        ctx.handoff, ctx.tokens = handoff, len(tokens)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        ctx.handoff.note(grad)
        return grad if ctx.handoff.is_last else None, None, *(grad.new_zeros(()) for _ in range(ctx.tokens))
