"""Gradients averaged at every update, optimizer state sharded over the ranks (ZeRO stage 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.sync.flat import FlatParameters
from trainer.sync.step import ClippedOptimizer, long_names
from trainer.sync.strategy import Strategy
from trainer.sync.wire import Wire
from trainer.types import State


class ShardedOptimizer(Strategy):
    """Every rank averages, clips and steps its own part of the buffer, then sends it to all (Rajbhandari et al. 2020).

    clipped: steps this rank's part, `flat.part(rank)`. The same numbers as an all-reduce, with 1/ranks of its moments.
    """

    capturable = True

    def __init__(self, flat: FlatParameters, target: FlatParameters, clipped: ClippedOptimizer, wire: Wire) -> None:
        assert clipped.part == flat.part(wire.rank)
        super().__init__(flat, target, clipped, wire)

    def step(self, max_norm: float) -> Tensor:
        """Average and step this rank's part, gather all; return the norm of the averaged gradient, []. A collective."""
        self.wire.scatter_mean_(self.flat.whole_grad)
        norm = self.wire.norm(self.flat.grad[self.clipped.part])
        self.clipped.step(max_norm, norm)
        self.wire.join_(self.flat.whole)
        return norm

    def state_dict(self) -> State:
        """Return what is the same on every rank: the joined moments, in the format of one optimizer. A collective.

        One buffer at a time is joined on the device; their number follows from the optimizers' kinds.
        """
        state = self.clipped.state_dict()
        stretches = [(stretch, long_names(state[stretch.level.name])) for stretch in self.clipped.stretches]
        for i in range(max(len(names) for _, names in stretches)):
            whole = torch.zeros_like(self.flat.whole)
            present = [(stretch, state[stretch.level.name], names[i]) for stretch, names in stretches if i < len(names)]
            for stretch, moments, name in present:
                whole[stretch.begin : stretch.end] = moments[name]
            self.wire.join_(whole)
            for stretch, moments, name in present:
                moments[name] = whole[stretch.level.begin : stretch.level.end].to("cpu", copy=True)
        return {"optimizer": state}
