"""From the notes of the ranks' environments to gradients per second and the return over time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

BINS = 8
"""Points of the curve; the last quarter of them is the return at the end."""


class Note(NamedTuple):
    """What one rank's environments had done at a moment, since the beginning."""

    time: float  # [s]
    steps: float  # vector steps
    episodes: float
    returns: float  # their sum


class Pace(NamedTuple):
    """What the ranks did in a window of wall time."""

    gradients_per_s: list[float]  # by rank
    curve: list[tuple[float, float]]  # (seconds since the beginning of the window, mean return of the last bin)
    final: float  # mean return of the last quarter


def at(notes: Sequence[Note], moment: float) -> Note:
    """Return what a rank had done at a moment, interpolated: nothing before the first note, the last one after it."""
    before = Note(notes[0].time, 0.0, 0.0, 0.0)
    for note in notes:
        if note.time >= moment:
            if note.time <= before.time:
                return note
            share = (moment - before.time) / (note.time - before.time)
            return Note(*(a + share * (b - a) for a, b in zip(before, note, strict=True)))
        before = note
    return notes[-1]


def pace(told: Sequence[Sequence[Note]], begin: float, seconds: float, *, envs: int, every: int) -> Pace:
    """Count what the ranks did in `seconds` from `begin`. envs: of all ranks; every: env steps per update."""
    moments = [begin + seconds * i / BINS for i in range(BINS + 1)]
    seen = [[at(notes, moment) for moment in moments] for notes in told]
    rates = [(ends[-1].steps - ends[0].steps) * envs / every / seconds for ends in seen]

    def mean_return(first: int, last: int) -> float | None:
        episodes = sum(ends[last].episodes - ends[first].episodes for ends in seen)
        returns = sum(ends[last].returns - ends[first].returns for ends in seen)
        return returns / episodes if episodes > 0 else None

    points = [(seconds * (i + 1) / BINS, mean_return(i, i + 1)) for i in range(BINS)]
    curve = [(round(when, 3), round(value, 4)) for when, value in points if value is not None]
    return Pace(rates, curve, mean_return(BINS - BINS // 4, BINS) or 0.0)
