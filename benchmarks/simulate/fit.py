"""From measured rows of few ranks to a prediction for more, on a machine whose cores they share.

Rows are those of benchmarks/scaling.py. Parts of a rank's time are treated by their nature: acting, learning and the
rest need a core, for which ranks queue; an environment that waits for something needs none; the exchange is messages,
whose time is mostly that of being woken up, and grows with their number alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

MEET = 0.5
"""Share of the ranks waiting for environments that need a core at the same time. Fitted to quiet runs here."""
LIMIT = 0.2
"""The most that a prediction for 4 ranks from rows of 1 and 2 may be off."""


class Measured(NamedTuple):
    """What a rank spent on one update [s], and what all did in it."""

    ranks: int
    parts: dict[str, float]
    env_steps: float

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def env_steps_per_s(self) -> float:
        return self.env_steps / self.seconds


class Check(NamedTuple):
    """A prediction, and the measurement that it did not know."""

    work: str
    mode: str
    strategy: str
    ranks: int
    predicted: float  # env steps/s
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    @property
    def passed(self) -> bool:
        return abs(self.error) <= LIMIT


def read(row: Row) -> Measured:
    """Return one row's seconds per update."""
    rate, updates = statistics.median(row["env_steps_per_s"]), statistics.median(row["updates_per_s"])
    return Measured(row["ranks"], {part: share / updates for part, share in row["shares"].items()}, rate / updates)


def messages(strategy: str, ranks: int) -> float:
    """Return how many successive messages a rank's update waits for, relative to two ranks.

    All-reduce, reduce-scatter and all-gather go around a ring, a server serves one rank after another; in gossip a rank
    is held up by as many neighbours as the exponential graph has distances.
    """
    return math.log2(ranks) if strategy == "gossip" else ranks - 1


def extrapolate(
    one: Measured, two: Measured, ranks: int, cores: int, *, weak: bool, waits: bool, strategy: str = ""
) -> Measured:
    """Predict `ranks` ranks from one and from two.

    weak: every rank's work stays the same. waits: environments need no core. Under strong scaling the part of the time
    that halves from one to two ranks keeps shrinking with their number; the rest stays. Learning time beyond that of
    one rank is exchange, which some strategies hide there.
    """
    meet = MEET if waits else 1.0
    crowd, crowd_two = (1 + meet * max(0.0, many / cores - 1) for many in (ranks, 2))
    hidden = max(0.0, two.parts["learn"] - one.parts["learn"] * crowd_two)
    parts = {}
    for name, before in two.parts.items():
        if name == "sync":
            continue
        alone = one.parts.get(name, before)
        compute = before - hidden if name == "learn" else before
        uncrowded = compute if name == "env" and waits else compute / crowd_two
        if not weak:
            shared = min(max(0.0, 2 * (alone - uncrowded)), alone)  # t = fixed + shared / ranks
            uncrowded = alone - shared + shared / ranks
        parts[name] = uncrowded if name == "env" and waits else uncrowded * crowd
    woken = 1.0 if waits else crowd / crowd_two  # where cores are never idle, being woken means queueing
    parts["sync"] = (two.parts["sync"] + hidden) * messages(strategy, ranks) * woken
    return Measured(ranks, parts, one.env_steps * (ranks if weak else 1))


def checks(rows: Iterable[Row], ranks: int = 4) -> list[Check]:
    """Check the model against every row of `ranks` ranks that has counterparts with one rank and with two."""
    found: dict[tuple[str, str], dict[tuple[str, int], Row]] = {}
    for row in rows:
        found.setdefault((row["work"], row["mode"]), {})[row["strategy"], row["ranks"]] = row
    told = []
    for (work, mode), group in found.items():
        alone = [row for (_, count), row in group.items() if count == 1]
        for (strategy, count), row in group.items():
            pair = group.get((strategy, 2))
            if count == ranks and alone and pair is not None:
                cores, waits = row["cores"], work.startswith("paced")
                ahead = extrapolate(
                    read(alone[0]), read(pair), ranks, cores, weak=mode == "weak", waits=waits, strategy=strategy
                )
                told.append(Check(work, mode, strategy, ranks, ahead.env_steps_per_s, read(row).env_steps_per_s))
    return told


def report(found: Sequence[Check]) -> str:
    """Return the checks as text."""
    lines = [
        f"{one.work}, {one.mode}, {one.strategy}: {one.ranks} ranks predicted {one.predicted:,.0f} env steps/s,"
        f" measured {one.measured:,.0f}: {one.error:+.0%}, limit {LIMIT:.0%}: {'pass' if one.passed else 'FAIL'}"
        for one in found
    ]
    return "\n".join(lines) if lines else "no rows of 1, 2 and 4 ranks of the same work, mode and strategy"
