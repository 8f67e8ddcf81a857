"""Which gradients are in flight at a server, and how old each was when it was applied.

The age of a gradient is the number of updates that the server made between the worker's pull and the application of
the gradient computed from it. To keep every age at `bound` or less, it is not enough to hold back a gradient that would
make another's too old: two that wait for each other could then never be applied. So a pull is a promise to be kept:
the gradients in flight, in the order of their pulls, must be applicable one after another within the bound. Hence

- a pull waits while more than `bound` gradients are in flight (with bound 0 the workers take turns);
- a gradient that has arrived waits while applying it would make it impossible to keep the others within the bound.

The gradient in flight with the oldest pull may always be applied, so nothing waits forever.
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
        """Record that `worker` computes with the current weights."""
        assert worker not in self._pulled, "one gradient of a worker at a time"
        self._pulled[worker] = self.version

    def may_apply(self, worker: int) -> bool:
        """Whether all others in flight could still be applied within the bound after this one."""
        if self.bound is None:
            return True
        others = (version for other, version in self._pulled.items() if other != worker)
        return all(self.version + 1 + ahead - version <= self.bound for ahead, version in enumerate(others))

    def apply(self, worker: int) -> None:
        """Record that the gradient of `worker` is applied."""
        self.seen[self.version - self._pulled.pop(worker)] += 1
        self.version += 1

    def forget(self, worker: int) -> None:
        """Expect no gradient of `worker` any more."""
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
