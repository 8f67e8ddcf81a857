"""Prioritized replay beside cpprb's and TorchRL's: drawing a batch and giving it new priorities. See benchmarks.replay.

What each side returns for a batch, and takes back:

- ours: a `Batch` of tensors (obs, action, n-step return, discount, next_obs, index, P(i)), and the importance weights
  as the learner computes them. Priorities are float64; next_obs is not stored twice.
- cpprb: NumPy arrays of obs, action, reward, next_obs, done, indexes and weights. Its tree is float32, in C++.
- TorchRL: a TensorDict of obs, action, reward, next_obs, done, besides index and weights. float32, in C++.

All draw in proportion to |TD error|^0.6; ours and cpprb's draws are stratified. `tree` is our bare tree: find and set.
One thread each, and CPU time on both sides, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks.cases import Case, Filled, uniform
from benchmarks.harness import interleaved, median, spread, table
from benchmarks.peers.venvs import Worker
from trainer.replay import PrioritizedSampler
from trainer.types import UpdateOut

CASE = Case("prioritized vectors, n=1", (4,), "float32", 1, 64, 256, 1_000_000, 1)
LIMIT = 1.0
"""How many times our `sample + update` a peer's takes at least."""
ALPHA, BETA = 0.6, 0.4


def measure(case: Case, worker: Worker | None, repeats: int, calls: int) -> list[dict[str, Any]]:
    """Return one row of ours and, where there is a worker, one for each of its memories."""
    ours = Ours(case, calls)
    works: dict[str, Callable[[], float]] = {
        part: functools.partial(cpu_time, getattr(ours, part)) for part in ("add", "cycle", "tree")
    }
    theirs: dict[str, list[dict[str, float]]] = {"cpprb": [], "torchrl": []} if worker is not None else {}

    def ask(name: str) -> float:
        assert worker is not None
        theirs[name].append(worker.ask("prioritized", name=name, case=asdict(case), calls=calls))
        return 0.0

    works |= {name: functools.partial(ask, name) for name in theirs}
    interleaved(works, 1)  # fills the peers' memories, warms all
    for answers in theirs.values():
        answers.clear()
    took = interleaved(works, repeats)
    fixed = asdict(case) | {"calls": calls, "repeats": repeats, "alpha": ALPHA, "threads": 1}
    us = {part: 1e6 * median(took[part]) / calls for part in ("add", "cycle", "tree")}
    rows = [fixed | {"who": "lockstep", "us": us}]
    versions = worker.ask("versions") if worker is not None else {}
    for name, answers in theirs.items():
        us = {part: 1e6 * median([answer[part] for answer in answers]) / calls for part in ("add", "cycle")}
        ratios = [answer["cycle"] / mine for answer, mine in zip(answers, took["cycle"], strict=True)]
        row = {"who": name, "peer_versions": versions, "us": us, "ratio": median(ratios)}
        row |= {"ratio_spread": [min(ratios), max(ratios)], "limit": LIMIT, "pass": median(ratios) >= LIMIT}
        rows.append(fixed | row)
    return rows


def cpu_time(work: Callable[[], object]) -> float:
    """Return how much of this process's CPU time `work` takes [s]."""
    began = time.process_time()
    work()
    return time.process_time() - began


class Ours:
    """A full prioritized memory whose transitions all have priorities of their own."""

    def __init__(self, case: Case, calls: int) -> None:
        self.filled = Filled(case, replace(uniform(case), kind="prioritized", alpha=ALPHA))
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


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows in words."""
    lines = []
    for row in rows:
        us, against = row["us"], ("-", "-")
        if "ratio" in row:
            against = (f"{row['ratio']:.2f} ({spread(row['ratio_spread'])})", "pass" if row["pass"] else "FAIL")
        tree = f"{us['tree']:.0f}" if "tree" in us else "-"
        lines.append((f"{row['name']}: {row['who']}", f"{us['add']:.0f}", f"{us['cycle']:.0f}", tree, *against))
    header = ("us per call", "add", "sample + update", "tree", "ratio", f"at least {LIMIT}")
    return table(header, lines)
