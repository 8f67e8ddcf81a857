"""Which rank ended first, and how: the reason why all others ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from trainer.doctor.boxes import Box
from trainer.runtime.blackbox import EVERY

AT_ONCE = 3.0
"""Ranks that fall silent within this time of each other vanished together [s]."""
_HANGS = re.compile(r"rank (\d+) hangs: (.*)", re.DOTALL)


class Cause(NamedTuple):
    """What ended a run. `box` is the culprit's, if there is one and it left one."""

    kind: str  # signal | failed | agreed | hung | orphaned | interrupted | vanished | together | asked | peer
    box: Box
    words: str  # the cause as reported
    rank: int  # the rank at fault, or the one that reported it
    teller: Box  # the rank that reported it


def first_cause(boxes: Sequence[Box]) -> Cause | None:
    """Return the first end that did not follow from another; None while every rank is alive."""
    causes = [cause for box in boxes if not box.alive for cause in [_cause(box, boxes)]]
    if not causes:
        return None
    hung = {cause.rank for cause in causes if cause.kind == "hung"}
    own = [c for c in causes if c.kind not in ("peer", "asked") and not (c.kind == "vanished" and c.rank in hung)]
    if not own:  # all only followed, or were asked to stop: the most telling one
        return min(causes, key=lambda cause: (cause.kind != "asked", cause.box.at))
    first = min(own, key=lambda cause: _when(cause, boxes))
    vanished = [cause for cause in own if cause.kind == "vanished"]
    if len(boxes) > 1 and len(vanished) == len(boxes) and _together(vanished):
        return first._replace(kind="together")
    return first


def _cause(box: Box, boxes: Sequence[Box]) -> Cause:
    """Return why this rank ended, as far as its own box goes."""
    words = str(box.end.get("cause", ""))
    if box.fatal:
        return Cause("signal", box, box.fatal, box.rank, box)
    if box.end.get("kind") == "watch" and (match := _HANGS.search(words)):
        culprit = next((other for other in boxes if other.rank == int(match[1])), box)
        return Cause("hung", culprit, match[2], int(match[1]), box)
    if box.end.get("kind") == "watch":
        return Cause("orphaned", box, words, box.rank, box)
    if words.startswith("KeyboardInterrupt"):
        return Cause("interrupted", box, words, box.rank, box)
    if box.end:
        return Cause(str(box.end.get("kind", "failed")), box, words, box.rank, box)
    asked = box.last.get("asked")
    return Cause("asked" if asked else "vanished", box, str(asked or ""), box.rank, box)


def _when(cause: Cause, boxes: Sequence[Box]) -> float:
    """Return when it happened; a rank that another one missed before ending was gone before that."""
    box = cause.teller
    missed = any(note["rank"] == box.rank for other in boxes if other.end for note in other.last.get("gone", []))
    return box.at - EVERY if cause.kind == "vanished" and missed else box.at


def _together(causes: Sequence[Cause]) -> bool:
    times = [cause.box.at for cause in causes]
    return max(times) - min(times) <= AT_ONCE
