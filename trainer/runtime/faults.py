"""Deliberate faults at exact points, for tests: LOCKSTEP_FAULT=name:rank:step:action[:passage], comma-separated.

A fault happens on `rank` at the first (or the given) passage of the point `name` after `step` whole steps. Points are
the spans of a run (act, env, learn, sync, replay, poll, eval, save), the same with `_end` on leaving them, and start
(of the process), loss (of an update), grad (before the exchange) and write (each action of a checkpoint on the disk).

LOCKSTEP_FAULT_LOG names a file that gets a line when one happens; what is listed there does not happen again, so that a
restarted run gets past it. Without LOCKSTEP_TESTING=1 the variables are refused, so that they cannot hurt a real run.
Nothing is called at any of these points unless a fault is asked for.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.runtime.spans import NAMES, Spans

SPANS = NAMES[1:]
POINTS = ("start", *SPANS, *(f"{name}_end" for name in SPANS), "loss", "grad", "write")
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "segv": signal.SIGSEGV}
SIGNALS |= {"term": signal.SIGTERM, "usr2": signal.SIGUSR2, "int": signal.SIGINT}
POISONS = {"nan": float("nan"), "inf": float("inf"), "nan+": float("nan")}
"""What a number is replaced with; with a plus sign, at every passage from then on."""
ERRORS = {"error": errno.ENOSPC, "eio": errno.EIO, "erofs": errno.EROFS}
ACTIONS = (*SIGNALS, *ERRORS, "exit", "raise", "sleep", "flip", "mark", *POISONS)
"""`error` is a full disk's; `mark` does nothing but leave its line in the log."""
_LONG = 24 * 3600.0  # s


class FaultInjected(RuntimeError):  # noqa: N818
    """What the action `raise` raises."""


@dataclass(frozen=True)
class Fault:
    name: str
    rank: int
    step: int
    action: str
    passage: int = 1

    @property
    def lasts(self) -> bool:
        """Whether it happens at every passage."""
        return self.action.endswith("+")

    def __str__(self) -> str:
        passage = f":{self.passage}" if self.passage > 1 else ""
        return f"{self.name}:{self.rank}:{self.step}:{self.action}{passage}"


@dataclass
class Faults:
    """The faults of one rank that have not happened yet.

    position: how many steps are complete; weights: the online network's, [P], if known.
    """

    waiting: list[Fault]
    log: Path | None = None
    position: Callable[[], int] = field(default=lambda: 0)
    weights: Tensor | None = None
    _noted: set[Fault] = field(default_factory=set)
    _passed: Counter[Fault] = field(default_factory=Counter)  # how often, after its step

    @classmethod
    def read(cls, rank: int) -> Faults:
        """Return the faults that the variables ask for. Raises ValueError, in one line, for what is not a fault."""
        text, log = os.environ.get("LOCKSTEP_FAULT", ""), os.environ.get("LOCKSTEP_FAULT_LOG")
        if text and os.environ.get("LOCKSTEP_TESTING") != "1":
            raise ValueError(f"LOCKSTEP_FAULT {text}: faults are for tests; unset it, or set LOCKSTEP_TESTING=1")
        path = Path(log) if log else None
        happened = set()
        if path is not None and path.exists():
            happened = {json.loads(line)["fault"] for line in path.read_text().splitlines()}
        asked = [_parse(part) for part in text.split(",") if part]
        return cls([f for f in asked if f.rank == rank and (str(f) not in happened or f.lasts)], path)

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def passes(self, name: str) -> None:
        """Trigger the fault that is due at this point."""
        if (fault := self._due(name)) is not None:
            self._happen(fault)

    def poison(self, name: str, values: Tensor) -> Tensor:
        """Return `values`, poisoned if that is due at this point."""
        if (fault := self._due(name)) is None:
            return values
        if fault.action not in POISONS:
            self._happen(fault)
            return values
        spoiled = values.clone()
        spoiled.view(-1)[:1] += POISONS[fault.action]
        return spoiled

    def _due(self, name: str) -> Fault | None:
        for fault in self.waiting:
            if fault.name == name and self.position() >= fault.step:
                self._passed[fault] += 1
                if self._passed[fault] < fault.passage:
                    continue
                self._note(fault)
                if not fault.lasts:
                    self.waiting.remove(fault)
                return fault
        return None

    def _note(self, fault: Fault) -> None:
        if self.log is not None and fault not in self._noted:
            self._noted.add(fault)
            with self.log.open("a") as file:
                line = {"fault": str(fault), "at": self.position(), "time": time.time(), "pid": os.getpid()}
                file.write(json.dumps(line) + "\n")

    def _happen(self, fault: Fault) -> None:
        if fault.action in SIGNALS:
            os.kill(os.getpid(), SIGNALS[fault.action])
        elif fault.action == "exit":
            os._exit(7)
        elif fault.action == "sleep":
            time.sleep(_LONG)
        elif fault.action == "raise":
            raise FaultInjected(f"requested by LOCKSTEP_FAULT={fault}")
        elif fault.action in ERRORS:
            raise OSError(ERRORS[fault.action], f"requested by LOCKSTEP_FAULT={fault}")
        elif fault.action == "flip" and self.weights is not None:
            flip_bit(self.weights, fault.step)


class PointedSpans(Spans):
    """Spans whose boundaries are fault points."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    def __enter__(self) -> None:
        super().__enter__()
        self._faults.passes(self._open[-1])

    def __exit__(self, *exception: object) -> None:
        name = self._open[-1]
        super().__exit__(*exception)
        if exception[0] is None:
            self._faults.passes(f"{name}_end")


def arm(faults: Faults, learner: Any, sync: Any, position: Callable[[], int]) -> None:
    """Install the loss and gradient points in a learner and a strategy."""
    faults.position, faults.weights = position, sync.flat.data.data
    loss, step = learner.loss, sync.step

    def spoiled_loss(*arguments: Any) -> Any:
        out = loss(*arguments)
        return out._replace(loss=faults.poison("loss", out.loss))

    def spoiled_step(max_norm: float) -> Tensor:
        sync.flat.grad.copy_(faults.poison("grad", sync.flat.grad))
        norm: Tensor = step(max_norm)
        return norm

    learner.loss, sync.step = spoiled_loss, spoiled_step


def flip_bit(weights: Tensor, number: int) -> tuple[int, int]:
    """Flip one bit of one of the float32 `weights`, both chosen by `number`; return which weight, and which bit."""
    place, bit = number * 7919 % weights.numel(), number % 32
    bits = weights.view(torch.int32)
    mask = -(2**31) if bit == 31 else 1 << bit
    bits[place] ^= mask
    return place, bit


def _parse(text: str) -> Fault:
    parts = text.split(":")
    if len(parts) not in (4, 5) or not all(part.isdigit() for part in (*parts[1:3], *parts[4:])):
        raise ValueError(f"LOCKSTEP_FAULT {text}: not name:rank:step:action[:passage]; write e.g. env:1:150:kill")
    name, action = parts[0], parts[3]
    if name not in POINTS:
        raise ValueError(f"LOCKSTEP_FAULT {text}: no point {name}; use one of {', '.join(POINTS)}")
    if action not in ACTIONS or (action in POISONS and name not in ("loss", "grad")):
        raise ValueError(f"LOCKSTEP_FAULT {text}: no {action} at {name}; use one of {', '.join(ACTIONS)}")
    return Fault(name, int(parts[1]), int(parts[2]), action, *map(int, parts[4:]))
