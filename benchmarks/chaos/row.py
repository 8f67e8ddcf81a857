"""A row of the table: a fault, what is expected of a run that meets it, and one trial of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Outcome:
    """The result of one trial. why: empty if all was as expected; measures: name -> number, for the table."""

    why: str = ""
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def survived(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class Size:
    """How long the runs of a trial are [env steps]; they store a checkpoint four times, and evaluate twice."""

    env_steps: int

    @property
    def every(self) -> int:
        return self.env_steps // 4

    def step(self, share: float) -> int:
        """Return the step, of all environments at once, at which this share of the run is over."""
        return int(share * self.env_steps / ENVS)

    @property
    def flags(self) -> tuple[str, ...]:
        each = {"total_env_steps": 1, "checkpoint.every": 4, "eval.every": 2, "log.every": 8}
        return tuple(word for name, part in each.items() for word in (f"--{name}", str(self.env_steps // part)))


ENVS = 8
"""Environments of these runs, over all ranks."""
WHOLE, SHORT = Size(16_000), Size(4_000)
"""For the table, and for the tests."""


class Draw(Random):
    """The random stream of one trial, its number in the row (for rows that go through cases in order), and its size."""

    def __init__(self, row: str, number: int, size: Size = WHOLE) -> None:
        super().__init__(f"{row} {number}")
        self.number = number
        self.size = size


Trial = Callable[[Path, Draw], Outcome]
"""(an empty folder, the trial's own random stream) -> what happened."""


@dataclass(frozen=True)
class Row:
    name: str  # for --rows
    fault: str
    expected: str
    wanted: str  # the figure to reach
    trial: Trial
    trials: int  # of the whole table
    short: int = 1  # of the short form, which the tests run; 0: none


def outcome(checks: dict[str, bool], **measures: float) -> Outcome:
    """Return the outcome of a trial whose checks, each named by what it says, must all hold."""
    failed = [what for what, held in checks.items() if not held]
    return Outcome(f"not so: {'; '.join(failed)}" if failed else "", measures)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by this share of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
