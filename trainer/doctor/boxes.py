"""What the black boxes, the marker and the log of a run say; what is half-written counts as missing."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainer.runtime import machine
from trainer.runtime.blackbox import EVERY, lives

FRESH = 15.0
"""A rank on another machine that was heard from within this time counts as alive [s]."""
_TAIL = 65_536  # bytes of metrics.jsonl that hold its last rows


@dataclass(frozen=True)
class Box:
    """One rank in one life, as `trainer.runtime.blackbox` left it."""

    rank: int
    start: dict[str, Any]
    last: dict[str, Any]
    end: dict[str, Any]  # empty: it could not say why it ended
    fatal: str  # name of the signal that ended it, where the interpreter still saw it
    crash: list[str]  # the lines of the stack that the signal hit, innermost first
    alive: bool
    seen: dict[str, Any] = field(
        default_factory=dict
    )  # step and phase at its end, as another rank of its machine saw them

    @property
    def at(self) -> float:
        """When this rank ended, as far as is known [s since 1970]."""
        heard = float(self.last.get("at", self.start.get("at", 0.0)))
        return float(self.end.get("at", heard if self.alive else heard + EVERY))

    @property
    def step(self) -> int | None:
        return self.end.get("step", self.seen.get("step", self.last.get("step")))

    @property
    def phase(self) -> str:
        return str(self.end.get("phase") or self.seen.get("phase") or self.last.get("phase") or "start")

    @property
    def stale(self) -> bool:
        """Whether what is known of it is slightly older than its end."""
        return not (self.end or self.seen)


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run."""

    run: Path
    config: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    status_at: float = 0.0
    row: dict[str, Any] = field(default_factory=dict)  # the last values in the log
    life: int = 0  # number of the last life that left boxes
    boxes: tuple[Box, ...] = ()  # of that life, by rank
    earlier: int = 0  # lives before it that left boxes as well
    cause: str = ""  # what a batch script left


def gather(run: Path) -> Evidence:
    """Return what a run folder holds. Raises ValueError, in one line, if it is not one."""
    if not run.is_dir():
        raise ValueError(f"doctor {run}: no such folder; name a run folder, as printed at the start of the run")
    found = lives(run)
    marker = run / "status.json"
    if not (found or marker.is_file() or (run / "config.json").is_file()):
        raise ValueError(f"doctor {run}: it contains no run; name a run folder, as printed at the start of the run")
    number, folder = found[-1] if found else (0, run)
    ranks = sorted({int(match[1]) for path in folder.glob("rank-*") if (match := re.match(r"rank-(\d+)\.", path.name))})
    return Evidence(
        run=run,
        config=_json(run / "config.json"),
        status=_json(marker),
        status_at=marker.stat().st_mtime if marker.is_file() else 0.0,
        row=_last_row(run / "metrics.jsonl"),
        life=number,
        boxes=_seen_by_others([read(folder, rank) for rank in ranks]) if found else (),
        earlier=max(0, len(found) - 1),
        cause=_text(run / "cause").strip(),
    )


def read(folder: Path, rank: int) -> Box:
    """Return the box of a rank."""
    stem = folder / f"rank-{rank:05d}"
    start, last, end = (_json(Path(f"{stem}.{name}.json")) for name in ("start", "last", "end"))
    fatal, crash = _crash(_text(Path(f"{stem}.fatal.txt")))
    return Box(rank, start, last, end, fatal, crash, alive=not end and not fatal and is_alive(start, last))


def _seen_by_others(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Return boxes with what others saw of those ranks that could not report it themselves."""
    seen = {note["rank"]: note for box in boxes for note in box.last.get("gone", []) if "step" in note}
    return tuple(box if box.alive else replace(box, seen=seen.get(box.rank, {})) for box in boxes)


def is_alive(start: dict[str, Any], last: dict[str, Any]) -> bool:
    """Whether a rank's process still runs: looked up on its own machine, inferred from its last sign elsewhere."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if start.get("host") == socket.gethostname() and boot.exists() and start.get("boot") == boot.read_text().strip():
        began = machine.began(int(start.get("pid", 0)))
        return began is not None and began == start.get("began")
    return time.time() - float(last.get("at", start.get("at", 0.0))) < FRESH


def _crash(text: str) -> tuple[str, list[str]]:
    """Return what a fatal signal left: its name in words, and the stack of the thread that it hit."""
    match = re.search(r"^Fatal Python error: (.*)$", text, re.MULTILINE)
    if match is None:
        return "", []
    stack = re.search(r"^Current thread .*\n((?:  .*\n)*)", text[match.end() :], re.MULTILINE)
    return match[1], [line.strip() for line in stack[1].splitlines()] if stack else []


def _last_row(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    last: dict[str, Any] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            last |= {name: value for name, value in row.items() if value is not None}
    return last


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path) or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
