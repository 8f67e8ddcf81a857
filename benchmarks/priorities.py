"""Prioritized replay: drawing a batch and giving it new priorities. See benchmarks.replay.

What each side returns for a batch, and takes back:

- ours: a `Batch` of tensors (obs, action, n-step return, discount, next_obs, index, P(i)), and the importance weights
  as the learner computes them. Priorities are float64; next_obs is not stored twice.
- cpprb: NumPy arrays of obs, action, reward, next_obs, done, indexes and weights. Its tree is float32, in C++.
- TorchRL: a TensorDict of obs, action, reward, next_obs, done, besides index and weights. float32, in C++.

All draw in proportion to |TD error|^0.6; ours and cpprb's draws are stratified. `tree` is our bare tree: find and set.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.cases import Case, Filled, uniform
from trainer.replay import PrioritizedSampler
from trainer.types import UpdateOut

CASE = Case("prioritized vectors, n=1", (4,), "float32", 1, 64, 256, 1_000_000, 1)
ALPHA, BETA = 0.6, 0.4


class Ours:
    """A full prioritized memory in which every transition has its own priority."""

    parts = ("add", "cycle", "tree")

    def __init__(self, case: Case, calls: int, *, compiled: bool) -> None:
        self.filled = Filled(case, replace(uniform(case), kind="prioritized", alpha=ALPHA), compiled=[1] * compiled)
        self.memory, self.calls, self.added = self.filled.memory, calls, 0
        self.memory.updates = lambda step: 1
        sampler = self.memory.sampler
        assert isinstance(sampler, PrioritizedSampler)
        self._tree, generator = sampler.tree, torch.Generator().manual_seed(1)
        self._tell(torch.arange(self.memory.ring.blank), torch.rand(self.memory.ring.blank, generator=generator))
        self.errors = [torch.rand(case.batch, generator=generator) for _ in range(16)]

    def _tell(self, index: torch.Tensor, error: torch.Tensor) -> None:
        self.memory.reprioritize(index, UpdateOut(priority=error, highest=error.max()))

    def add(self) -> None:
        for _ in range(self.calls):
            self.added += 1
            self.filled.add(self.added)

    def cycle(self) -> None:
        """Draw a batch, weigh it, give it new priorities."""
        for i in range(self.calls):
            for batch in self.memory.batches(i):
                assert batch.probability is not None
                _ = (batch.probability.amin() / batch.probability) ** BETA
                self._tell(batch.index, self.errors[i % 16])

    def tree(self) -> None:
        """Find as many leaves and set them, and nothing else."""
        for i in range(self.calls):
            leaf = self._tree.find(torch.rand(1, self.filled.case.batch, dtype=torch.float64))
            self._tree.set(leaf.view(-1), self.errors[i % 16].double())
