"""What happened to a run, in one paragraph: who ended first and why, what the others did, how to resume."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.doctor.boxes import Box, Evidence
from trainer.doctor.cause import Cause, first_cause
from trainer.runtime.blackbox import EVERY, FOLDER
from trainer.runtime.machine import human

_SCARCE = 0.05  # share of the memory; less free than that counts as none
_FRAME = re.compile(r'File "([^"]+)", line (\d+),? in (\S+)')
_PHASES = {
    "start": "building the run",
    "other": "the time between the parts of a step",
    "act": "choosing actions",
    "env": "stepping its environments",
    "learn": "learning",
    "sync": "an exchange with the other ranks",
    "replay": "storing transitions",
    "poll": "asking whether to stop",
    "eval": "evaluating",
    "save": "saving a checkpoint",
}


@dataclass(frozen=True)
class Stored:
    """What a run can resume from; step None: nothing."""

    step: int | None = None
    env_steps: int = 0
    trouble: str = ""  # about checkpoints that are not good


@dataclass(frozen=True)
class Verdict:
    """state: finished | stopped | running | died | unknown; go_on: the command to resume, if there is one."""

    state: str
    text: str
    go_on: str = ""


def verdict(evidence: Evidence, stored: Stored) -> Verdict:
    """Say what happened."""
    go_on = f"lockstep train --resume {evidence.run}"
    state = str(evidence.status.get("state", ""))
    began = min((float(box.start.get("at", 0.0)) for box in evidence.boxes), default=0.0)
    over = state in ("finished", "stopped") and began <= evidence.status_at  # nothing has started since
    running = [box for box in evidence.boxes if box.alive]
    if over and not running:
        return _over(evidence, state, stored, go_on)
    if running and len(running) == len(evidence.boxes):
        return Verdict("running", _running(evidence, stored))
    cause = first_cause(evidence.boxes)
    if cause is None:
        return _without_boxes(evidence, state, stored, go_on)
    lines = [_opening(evidence, cause), _first(evidence, cause), _memory(evidence, cause), _others(evidence, cause)]
    lines += [_pace(cause.box), _advice(cause), _kept(evidence, stored)]
    if running:
        there = _ranks([box.rank for box in running])
        lines.append(f"Still running: {there}, until the launcher ends them.")
    text = " ".join(line for line in lines if line)
    return Verdict("died", text, go_on if stored.step is not None and not running else "")


def _over(evidence: Evidence, state: str, stored: Stored, go_on: str) -> Verdict:
    steps = f"at {int(evidence.status.get('env_steps', 0)):,} env steps"
    text = f"Run {evidence.run.name} finished {steps}: nothing went wrong at its end."
    if state == "stopped":
        by = evidence.status.get("signal")
        text = f"Run {evidence.run.name} was asked to stop by {by}, saved {steps}, and exited cleanly."
        text += f" {_kept(evidence, stored)}"
    if evidence.boxes and (cause := first_cause(evidence.boxes)) is not None:
        kept = f"life {evidence.life}"
        text += f" The boxes of {kept} are still there: {_first(evidence, cause)}"
    return Verdict(state, text, go_on if state == "stopped" else "")


def _without_boxes(evidence: Evidence, state: str, stored: Stored, go_on: str) -> Verdict:
    name, told = evidence.run.name, str(evidence.status.get("cause") or evidence.cause)
    go_on = go_on if stored.step is not None else ""
    if state == "failed" or told:
        text = f"Run {name} failed, and left no black boxes to examine: {told or 'the cause is unknown'}."
    elif state:
        text = f"Run {name} reports that it is {state}, but left no black boxes to confirm it."
    else:
        text = f"Run {name} never started: it has a config and nothing else."
    return Verdict("died" if state == "failed" else "unknown", f"{text} {_kept(evidence, stored)}".strip(), go_on)


def _running(evidence: Evidence, stored: Stored) -> str:
    slowest = max(evidence.boxes, key=lambda box: float(box.last.get("still", 0.0)))
    heard = max(time.time() - box.at for box in evidence.boxes)
    text = f"{_opening(evidence, None)} All of its ranks were heard from within the last {max(heard, 1.0):.0f} s."
    if (still := float(slowest.last.get("still", 0.0))) > 5 * EVERY:
        text += f" Rank {slowest.rank} has been in {_doing(slowest)} for {still:.0f} s."
    return " ".join(part for part in (text, _pace(slowest), _kept(evidence, stored)) if part)


def _opening(evidence: Evidence, cause: Cause | None) -> str:
    ranks = int(evidence.boxes[0].start.get("ranks", len(evidence.boxes)))
    step = cause.box.step if cause else max((box.step or 0 for box in evidence.boxes), default=0)
    total, done = int(evidence.status.get("total_env_steps", 0)), _env_steps(evidence, step)
    of = f" ({done:,} of {total:,} env steps)" if total and done else ""
    env = evidence.config.get("env", {}).get("id", "")
    what = f" ({evidence.config.get('preset')} on {env}, {ranks} rank(s))" if evidence.config else f" ({ranks} rank(s))"
    life = f" in life {evidence.life}" if evidence.life > 1 else ""
    if cause is None:
        return f"Run {evidence.run.name}{what} is running{life}: step {step or 0:,}{of}."
    where = f"at step {step:,}{of}" if step else "before completing its first step"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(cause.teller.at))
    return f"Run {evidence.run.name}{what} died{life} {where}, on {when}."


def _first(evidence: Evidence, cause: Cause) -> str:
    """Say who ended first, and why."""
    box, rank = cause.box, f"rank {cause.rank}"
    host = box.start.get("host")
    if len({other.start.get("host") for other in evidence.boxes}) > 1:
        rank += f" (on {host})"
    place = f"in {_doing(box)}"
    if box.stale and cause.kind in ("signal", "vanished", "asked"):
        place = f"last seen {place} less than {EVERY:.0f} s before"
    words = cause.words.rstrip(".")
    said: dict[str, Callable[[], str]] = {
        "signal": lambda: f"{rank} died first, {place}, of a fatal signal: {words}{_at(box.crash)}",
        "failed": lambda: f"{rank} failed first, {place}: {words}{_at(_frames(box))}",
        "agreed": lambda: f"all ranks found the same problem and stopped together: {words}",
        "hung": lambda: f"{rank} hung and was terminated: {words}",
        "orphaned": lambda: f"{rank} lost its launcher, which was killed or died: {words}",
        "interrupted": lambda: f"{rank} was interrupted a second time (Ctrl-C) {place}, and nothing was saved",
        "vanished": lambda: (
            f"{rank} vanished first, {place}, without a message: it was killed from outside (SIGKILL), "
            "perhaps because memory ran out, or exited on its own"
        ),
        "together": lambda: (
            "all ranks vanished at once, without a message: the machine went down, or the scheduler or "
            "someone killed the whole run (SIGKILL)"
        ),
        "asked": lambda: f"{rank} was asked to stop ({words}), and was killed before it had saved, {place}",
        "peer": lambda: f"{rank} lost a rank that left no box here, {place}: {words}",
    }
    told = said.get(cause.kind, lambda: f"{rank} ended, {place}: {words}")()
    return f"{told[0].upper()}{told[1:]}."


def _others(evidence: Evidence, cause: Cause) -> str:
    """Say what the other ranks were doing when it happened."""
    if cause.kind in ("agreed", "together"):
        return ""
    groups: dict[str, list[Box]] = {}
    for box in evidence.boxes:
        if box.rank != cause.rank:
            groups.setdefault(_doing(box), []).append(box)
    told = []
    for doing, boxes in groups.items():
        verb, step = "was" if len(boxes) == 1 else "were", max((box.step or 0) for box in boxes)
        waited = max(float((box.last.get("exchange") or {}).get("for", 0.0)) for box in boxes)
        words = f"{_ranks([box.rank for box in boxes])} {verb} in {doing}{f', after step {step:,}' if step else ''}"
        told.append(f"{words}, for {waited:.1f} s" if waited >= EVERY else words)
    return f"Meanwhile {'; '.join(told)}." if told else ""


def _memory(evidence: Evidence, cause: Cause) -> str:
    """Describe the memory, where it may have been the cause."""
    if cause.kind not in ("vanished", "together"):
        return ""
    last = cause.box.last
    before, after = cause.box.start.get("oom_kills"), [box.last.get("oom_kills") for box in evidence.boxes]
    known = [count for count in after if count is not None]
    if not last.get("memory"):
        return ""
    free, total, limited = last["memory"]
    where = "its control group allows" if limited else "the machine has"
    held = f"It held {human(float(last.get('resident', 0)))}, and {human(float(free))} of the {human(float(total))}"
    text = f"{held} that {where} were free."
    if before is not None and known and (kills := max(known) - before) > 0:
        return f"{text} Meanwhile the kernel killed {kills} process(es) here because memory ran out: likely this one."
    return f"{text} That is almost nothing: it probably ran out of memory." if free < _SCARCE * total else text


def _advice(cause: Cause) -> str:
    spans = cause.box.phase.split("/")
    if cause.kind == "signal" and "env" in spans:
        return "With --env.backend async an environment that crashes is restarted, and the rank survives."
    if cause.kind == "asked":
        return "Let the warning come earlier, or make steps and saves shorter."
    if cause.kind == "hung":
        return "The stack of each of its threads shows where it was stuck."
    return ""


def _kept(evidence: Evidence, stored: Stored) -> str:
    trouble = f"; {stored.trouble}" if stored.trouble else ""
    if stored.step is None:
        return f"There is no checkpoint to resume from{trouble}."
    return f"The newest good checkpoint is from step {stored.step:,} ({stored.env_steps:,} env steps){trouble}."


def _pace(box: Box) -> str:
    """Say where the time of the last steps went."""
    rows = box.last.get("steps") or []
    if not rows:
        return ""
    total = sum(row["all"] for row in rows)
    spent: dict[str, int] = {}
    for row in rows:
        for name, count in row.items():
            if name not in ("step", "all"):
                spent[name] = spent.get(name, 0) + count
    parts = sorted(spent.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{name} {100 * count / max(total, 1):.0f} %" for name, count in parts)
    whose = f"The last {len(rows)} steps of rank {box.rank} took"
    return f"{whose} {total / len(rows) / 1000:.1f} ms each ({shares})."


def _doing(box: Box) -> str:
    """Return what a rank was doing, from its open spans and the exchange in progress."""
    inner = box.phase.split("/")[-1]
    exchange = None if box.seen else box.last.get("exchange")
    doing = _PHASES.get(inner, inner)
    if exchange:
        size = f" of {human(float(exchange['bytes']))}" if exchange["bytes"] else ""
        article = "an" if exchange["kind"][0] in "aeiou" else "a"
        outer = [_PHASES.get(name, name) for name in box.phase.split("/") if name not in ("sync", "other")]
        return f"{article} {exchange['kind']}{size} with the other ranks{f' while {outer[-1]}' if outer else ''}"
    return doing


def _frames(box: Box) -> list[str]:
    """Return where an exception came from, innermost first."""
    found = _FRAME.findall(str(box.end.get("traceback", "")))
    return [f'File "{file}", line {line} in {name}' for file, line, name in reversed(found)]


def _at(frames: Sequence[str]) -> str:
    """Return the innermost place of a stack in words."""
    match = _FRAME.search(frames[0].replace(", in ", " in ")) if frames else None
    return f" ({Path(match[1]).name}, line {match[2]}, in {match[3].rstrip(',')})" if match else ""


def _ranks(numbers: Sequence[int]) -> str:
    """Return ranks by number, consecutive ones as a range: `ranks 0, 2-5`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    names = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
    return f"{'rank' if len(numbers) == 1 else 'ranks'} {names}"


def _env_steps(evidence: Evidence, step: int | None) -> int:
    return (step or 0) * next((int(box.start["envs"]) for box in evidence.boxes if "envs" in box.start), 0)


def where(evidence: Evidence) -> str:
    """Name the folder of the boxes."""
    return str(evidence.run / FOLDER / f"life-{evidence.life:04d}") if evidence.boxes else ""
