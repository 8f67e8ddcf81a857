"""From the rows of a run's metrics to speed, shares, bytes and returns; from rows of results to efficiency. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

SPS, UPDATES, RETURN, SENT = "charts/SPS", "charts/updates", "charts/episodic_return", "sync/megabytes_sent"
SHARE = "time/share_"
PARTS = ("act", "env", "learn", "sync")
"""The parts shown separately; the rest (replay, log, polls) is `other`."""
POINTS = 40
"""Points kept of a curve."""


class Speed(NamedTuple):
    """What a run did once it learned, by rank 0's clock."""

    seconds: float
    env_steps_per_s: float
    updates_per_s: float
    shares: dict[str, float]  # part -> share of the wall time, sum 1
    megabytes_per_update: float  # that one rank put on the wire, mean over ranks


class Estimate(NamedTuple):
    """A median over repeats, with the smallest and the largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:,.3g} ({self.low:,.3g}-{self.high:,.3g})"


def estimate(values: Sequence[float]) -> Estimate:
    return Estimate(statistics.median(values), min(values), max(values))


def seconds_of(rows: Iterable[Row]) -> list[float]:
    """Return how long each logged row took [s]: the rows with a speed, in order."""
    took, before = [], 0
    for row in rows:
        if row.get(SPS):
            took.append((row["global_step"] - before) / row[SPS])
            before = row["global_step"]
    return took


def speed(rows: Sequence[Row]) -> Speed:
    """Sum up a run's metrics after the row in which learning began. Raises ValueError where there are none."""
    logged = [row for row in rows if row.get(SPS)]
    first = next((i for i, row in enumerate(logged) if row.get(UPDATES)), len(logged))
    window, took = logged[first + 1 :], seconds_of(logged)[first + 1 :]
    if not window:
        raise ValueError("the run ended before two rows were logged with learning under way: give it more env steps")
    seconds = sum(took)
    updates = window[-1][UPDATES] - logged[first][UPDATES]
    shares = {part: sum(row.get(SHARE + part, 0.0) * s for row, s in zip(window, took, strict=True)) for part in PARTS}
    shares = {part: spent / seconds for part, spent in shares.items()}
    sent = sum(row.get(SENT, 0.0) for row in window)
    return Speed(
        seconds=seconds,
        env_steps_per_s=(window[-1]["global_step"] - logged[first]["global_step"]) / seconds,
        updates_per_s=updates / seconds,
        shares=shares | {"other": 1.0 - sum(shares.values())},
        megabytes_per_update=sent / max(updates, 1.0),
    )


def curve(rows: Sequence[Row]) -> list[tuple[int, float, float]]:
    """Return (env steps, seconds of training, mean return of the episodes that ended since the last point)."""
    logged = [row for row in rows if row.get(SPS)]
    points, elapsed = [], 0.0
    for row, took in zip(logged, seconds_of(logged), strict=True):
        elapsed += took
        if row.get(RETURN) is not None:
            points.append((int(row["global_step"]), elapsed, float(row[RETURN])))
    return thinned(points)


def thinned(points: Sequence[tuple[int, float, float]], most: int = POINTS) -> list[tuple[int, float, float]]:
    """Return at most `most` points: the last position and the mean return of equal groups."""
    each = -(-len(points) // most) if points else 1
    groups = [points[i : i + each] for i in range(0, len(points), each)]
    return [(group[-1][0], round(group[-1][1], 3), round(statistics.fmean(p[2] for p in group), 4)) for group in groups]


def efficiency(row: Row, base: Row) -> Estimate:
    """Return env steps/s per rank, as a share of the base's; within each repeat where both have equally many.

    Under weak and strong scaling alike, 1 means that n ranks do n times the env steps of one rank per second.
    """
    mine = [rate / row["ranks"] for rate in row["env_steps_per_s"]]
    theirs = [rate / base["ranks"] for rate in base["env_steps_per_s"]]
    if len(mine) == len(theirs) and row.get("time") == base.get("time"):
        return estimate([a / b for a, b in zip(mine, theirs, strict=True)])
    middle = statistics.median(theirs)
    return estimate([a / middle for a in mine])


def base_of(row: Row, rows: Iterable[Row]) -> Row | None:
    """Return what a row's efficiency is measured against: the same work on the fewest ranks, of the same invocation.

    If that invocation had a single number of ranks (an allocation is measured node count by node count), it is the
    newest on the same kind of machine.
    """
    same = [
        other
        for other in rows
        if all(other.get(key) == row.get(key) for key in ("work", "mode", "cpu", "cores", "gpus", "env_steps"))
        and other["ranks"] < row["ranks"]
    ]
    together = [other for other in same if other.get("time") == row.get("time")] or same
    if not together:
        return None
    fewest = min(other["ranks"] for other in together)
    return [other for other in together if other["ranks"] == fewest][-1]


def latest(rows: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """Return the newest row of each combination of the values of `keys`, in the order of their first appearance."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        found[tuple(_hashable(row.get(key)) for key in keys)] = row
    return list(found.values())


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
