"""A sum tree: draws a leaf with probability proportional to its priority, in a handful of tensor operations."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

FAN_BITS = 5
"""log2 of a node's children. For a million leaves 16, 32 and 64 children take the same time on a CPU, 128 take more."""


class SumTree:
    """One tree per shard, all of one shape: [S, C] sums at the top, [S, 32 C] below, [S, 1024 C] leaves, in float64.

    Leaves are identified by their flat index over all shards. Leaf `dummy` represents nothing and stays 0. Sums are
    recomputed from their children whenever one of those changes, so they never drift; those at the top all at once,
    which up to about two million leaves is faster than selecting some. Nothing here waits for the device.
    """

    def __init__(self, leaves: int, shards: int, device: torch.device, fan_bits: int = FAN_BITS) -> None:
        self.fan, self.bits, self.dummy = 2**fan_bits, fan_bits, leaves
        top = _top(leaves, fan_bits)
        self.size = top << 2 * fan_bits  # leaves of a shard, padded; shard s has those from s * size on
        self.shards = shards
        self._adopt(
            *(torch.zeros(shards * (top << depth * fan_bits), dtype=torch.float64, device=device) for depth in range(3))
        )
        self._first = torch.arange(0, shards * top, top, device=device)[:, None]

    def _adopt(self, sums: Tensor, lower: Tensor, leaves: Tensor) -> None:
        self._flat_sums, self._flat_lower, self._flat = sums, lower, leaves
        self.sums, self.lower, self.leaves = (level.view(self.shards, -1) for level in (sums, lower, leaves))
        self._down = [level.view(-1, self.fan) for level in (lower, leaves)]  # children, by their parent

    def buffers(self) -> list[Tensor]:
        """Return every tensor that ever changes."""
        return [self._flat_sums, self._flat_lower, self._flat]

    def over(self, buffers: Iterator[Tensor]) -> Self:
        """Return the same tree over other buffers, taking as many as it needs."""
        other = copy.copy(self)
        other._adopt(next(buffers), next(buffers), next(buffers))
        return other

    @staticmethod
    def shard_bytes(leaves: int, fan_bits: int = FAN_BITS) -> int:
        """Return the memory of one shard's tree [bytes]."""
        return 8 * sum(_top(leaves, fan_bits) << depth * fan_bits for depth in range(3))

    def find(self, share: Tensor) -> Tensor:
        """Return the flat leaves at which the running sum reaches `share` of each shard's total, [S, K].

        share: [S, K] in [0, 1]. Taking the first child whose running sum exceeds the rest skips those that are 0.
        Where rounding carries the rest beyond the children, or a device sums them in another order, the leaf could
        still be dead; the heaviest of the shard's draws then takes its place.
        """
        upto = self.sums.cumsum(1)
        rest = share * upto[:, -1:]
        node = torch.searchsorted(upto, rest, right=True).clamp_(max=self.sums.shape[1] - 1)
        rest = (rest - (upto.gather(1, node) - self.sums.gather(1, node))).view(-1, 1)
        node = (node + self._first).view(-1, 1)
        for level in self._down:
            children = level.index_select(0, node.view(-1))  # [S*K, fan]
            upto = children.cumsum(1)
            child = torch.searchsorted(upto, rest, right=True).clamp_(max=self.fan - 1)
            priority = children.gather(1, child)
            node = torch.add(child, node, alpha=self.fan)
            if level is not self._down[-1]:
                rest = rest - (upto.gather(1, child) - priority)
        leaf, priority = node.view_as(share), priority.view_as(share)
        return torch.where(priority > 0, leaf, leaf.gather(1, priority.argmax(1, keepdim=True)))

    def get(self, leaf: Tensor) -> Tensor:
        """Return the priorities of flat leaves, [K]."""
        return self._flat.index_select(0, leaf)

    def share(self, leaf: Tensor) -> Tensor:
        """Return the priorities of flat leaves as shares of their shard's total, [K]."""
        total = self.sums.sum(1)
        return self.get(leaf) / (total if len(total) == 1 else total.index_select(0, leaf // self.size))

    def set(self, leaf: Tensor, priority: Tensor) -> None:
        """Give flat leaves [K] new priorities >= 0, [K] float64; a leaf that occurs twice gets the larger."""
        self._flat.scatter_reduce_(0, leaf, priority, "amax", include_self=False)
        self._add_up(leaf)

    def put(self, leaf: Tensor, priority: Tensor) -> None:
        """Do the same where a leaf occurs twice only with the same priority."""
        self._flat.index_copy_(0, leaf, priority)
        self._add_up(leaf)

    def _add_up(self, leaf: Tensor) -> None:
        parent = leaf >> self.bits
        self._flat_lower.index_copy_(0, parent, self._down[1].index_select(0, parent).sum(1))
        self._flat_sums.copy_(self._down[0].sum(1))

    def load(self, shard: int, priority: Tensor) -> None:
        """Give a shard's first leaves [K] their priorities, and the others 0."""
        self.leaves[shard].zero_()[: len(priority)] = priority.to(self.leaves.device)
        self.lower[shard] = self.leaves[shard].view(-1, self.fan).sum(1)
        self.sums[shard] = self.lower[shard].view(-1, self.fan).sum(1)


def _top(leaves: int, fan_bits: int) -> int:
    return (leaves >> 2 * fan_bits) + 1
