"""Which gradients are under way at a server, and how old each was when it was applied.

The age of a gradient is the number of updates that the server made between the worker's pull and the application of
what it computed from it. To keep every age at `bound` or less, it is not enough to hold a gradient back that would make
another's too old: two that wait for each other could neither be applied. So a pull is a promise that has to be kept:
the gradients under way, in the order of their pulls, must be applicable one after another within the bound. Hence

- a pull waits while more than `bound` gradients are under way (with bound 0 the workers take turns);
- a gradient that came waits while, with it applied, the others could no longer be within the bound.

The gradient under way with the oldest pull may always be applied, so nothing waits for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Ages:
    """One server's account. bound: the highest age allowed; None: any."""

    def __init__(self, bound: int | None) -> None:
        self.bound = bound
        self.version = 0  # updates so far
        self.seen: Counter[int] = Counter()  # age -> gradients applied at that age
        self._pulled: dict[int, int] = {}  # worker -> version it computes with; the oldest first

    def may_pull(self) -> bool:
        return self.bound is None or len(self._pulled) <= self.bound

    def pull(self, worker: int) -> None:
        """Note that `worker` computes with the present weights."""
        assert worker not in self._pulled, "one gradient of a worker at a time"
        self._pulled[worker] = self.version

    def may_apply(self, worker: int) -> bool:
        """Whether all others under way could still be applied within the bound, behind this one."""
        if self.bound is None:
            return True
        others = (version for other, version in self._pulled.items() if other != worker)
        return all(self.version + 1 + ahead - version <= self.bound for ahead, version in enumerate(others))

    def apply(self, worker: int) -> None:
        """Note that the gradient of `worker` is applied."""
        self.seen[self.version - self._pulled.pop(worker)] += 1
        self.version += 1

    def forget(self, worker: int) -> None:
        """Expect nothing more of `worker`."""
        self._pulled.pop(worker, None)


def summary(seen: Mapping[int, int]) -> dict[str, float]:
    """Return mean, 95th percentile and maximum of a distribution of ages; zeros for an empty one."""
    total, below = sum(seen.values()), 0
    percentile = 0
    for age in sorted(seen):
        below += seen[age]
        percentile = age
        if below >= 0.95 * total:
            break
    mean = sum(age * count for age, count in seen.items()) / max(1, total)
    return {"staleness_mean": mean, "staleness_p95": float(percentile), "staleness_max": float(max(seen, default=0))}
