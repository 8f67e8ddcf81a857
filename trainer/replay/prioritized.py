"""Proportional prioritized sampling (Schaul et al. 2016) over the living transitions of each shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

import torch
from torch import Tensor

from trainer.replay.draws import StreamSampler
from trainer.replay.ring import Ring
from trainer.replay.tree import SumTree
from trainer.types import State

EPS = 1e-6
"""Added to |TD error|, so that every living transition can be drawn again (section 3.3)."""


class PrioritizedSampler(StreamSampler):
    """Draws equally from every shard, and within a shard transition i with p_i / sum(p), p = (|TD error| + eps)^alpha.

    The draws of a batch are stratified: the shard's sum is cut into equal parts, one per draw (appendix B.2.1).
    New transitions enter at the largest |TD error| so far on any rank, initially 1. Dead and incomplete ones have
    p = 0. generators: one random stream per shard, in the order of the shards' lanes, on the ring's device; shards: of
    the whole run, so that P(i) does not depend on the number of ranks. Nothing here is differentiated, and inference
    mode, which skips autograd, makes it an eighth faster.
    """

    def __init__(self, ring: Ring, generators: Mapping[int, torch.Generator], *, shards: int, alpha: float) -> None:
        super().__init__(ring, generators)
        self.shards, self.alpha = shards, alpha
        self.lanes_per_shard = ring.lanes // len(generators)
        self.tree = SumTree(ring.rows * self.lanes_per_shard, len(generators), ring.device)
        self.highest = torch.ones((), dtype=torch.float64, device=ring.device)  # |TD error|; equal on all ranks
        self._mature, self._tail = ring.mature.clone(), ring.tail.clone()  # the cursors as the tree last saw them
        self._parts = torch.empty(0)  # 0, 1, ..., one for each draw of a shard for a batch
        shard = torch.arange(len(generators), device=ring.device)
        self._first_leaf, self._first_lane = shard[:, None] * self.tree.size, shard[:, None] * self.lanes_per_shard
        self._surplus = (shard * (self.tree.size - self.lanes_per_shard)).repeat_interleave(self.lanes_per_shard)

    def buffers(self) -> list[Tensor]:
        """Return every tensor that ever changes, except the ring's."""
        return [*self.tree.buffers(), self.highest, self._mature, self._tail]

    def over(self, ring: Ring, buffers: Iterator[Tensor]) -> Self:
        """Return the same sampler over another ring and other buffers, taking as many as it needs."""
        other = super().over(ring, buffers)
        other.tree = self.tree.over(buffers)
        other.highest, other._mature, other._tail = next(buffers), next(buffers), next(buffers)
        return other

    @torch.inference_mode()
    def index(self, draws: Tensor) -> Tensor:
        """Return flat ring indices, [updates, batch_size], shard after shard within a batch."""
        here, updates, each = draws.shape
        if len(self._parts) != each:
            self._parts = torch.arange(each, dtype=torch.float64, device=self.ring.device)
        share = (draws + self._parts).div_(each)
        index = self._index(self.tree.find(share.view(here, -1)))
        if updates == 1:
            return index.view(1, here * each)
        return index.view(here, updates, each).transpose(0, 1).reshape(updates, here * each)

    @torch.inference_mode()
    def probability(self, index: Tensor) -> Tensor:
        """Return P(i) of the transitions at flat ring indices [K], float64."""
        return self.tree.share(self._leaf(index)) / self.shards

    @torch.inference_mode()
    def follow(self) -> None:
        """Add what the ring's last `add` or `cut` completed, and remove what it forgot."""
        index, happened = self.ring.changes(self._mature, self._tail)
        self._mature.copy_(self.ring.mature)
        self._tail.copy_(self.ring.tail)
        leaf = torch.where(happened, self._leaf(index), self.tree.dummy)
        priority = happened * self._priority(self.highest)
        priority[self.ring.horizon :] = 0
        self.tree.put(leaf.flatten(), priority.flatten())

    @torch.inference_mode()
    def reprioritize(self, index: Tensor, error: Tensor, highest: Tensor) -> None:
        """Take the |TD errors| of transitions; those that died meanwhile stay dead.

        index: [K] flat ring indices; error: [K]; highest: [] the largest of this update over all ranks.
        """
        leaf = self._leaf(index)
        self.tree.set(leaf, self._priority(error.double()) * (self.tree.get(leaf) > 0))
        self.highest.copy_(torch.maximum(self.highest, highest.double()))

    def _priority(self, error: Tensor) -> Tensor:
        return (error + EPS) ** self.alpha

    def _leaf(self, index: Tensor) -> Tensor:
        """Return the leaves of flat ring indices: a shard's leaves are its part of the rows, row after row."""
        if len(self.generators) == 1:
            return index
        leaf = torch.sub(index, index // self.ring.lanes, alpha=self.ring.lanes - self.lanes_per_shard)
        return leaf + self._surplus.take(index % self.ring.lanes)

    def _index(self, leaf: Tensor) -> Tensor:
        """Return the flat ring indices of leaves, [S, K]."""
        if len(self.generators) == 1:
            return leaf
        leaf = leaf - self._first_leaf
        row = leaf // self.lanes_per_shard
        return torch.add(leaf, row, alpha=self.ring.lanes - self.lanes_per_shard) + self._first_lane

    def state_dict(self) -> State:
        used = self.ring.used_rows() * self.lanes_per_shard
        return {
            str(shard): {
                "generator": generator.get_state(),
                "priority": self.tree.leaves[i, :used],
                "highest": self.highest,
            }
            for i, (shard, generator) in enumerate(self.generators.items())
        }

    def load_state_dict(self, state: State) -> None:
        """Continue with a ring that is already loaded, from the highest of all priorities where replicas differed."""
        self.highest.copy_(torch.stack([saved["highest"].view(()) for saved in state.values()]).max())
        for i, (shard, generator) in enumerate(self.generators.items()):
            saved = state[str(shard)]
            generator.set_state(saved["generator"])
            self.tree.load(i, saved["priority"])
        self._mature.copy_(self.ring.mature)
        self._tail.copy_(self.ring.tail)
