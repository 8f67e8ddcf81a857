"""`lockstep launch status`: what runs where and how far it is, from run folders and squeue. Standard library only."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.options import Parser
from launch.scheduler import queued

HEADER = ("run", "state", "job", "where", "env steps", "done", "return", "evaluation", "ETA", "note")
_TAIL = 65_536  # bytes of metrics.jsonl that hold its last rows
_SILENT = 600.0  # s without a new row, after which a run without a SLURM job is called silent


@dataclass(frozen=True)
class RunState:
    """The current state of one run folder."""

    name: str
    state: str  # new | pending | running | silent | lost | stopped | failed | finished
    job: str = ""
    where: str = ""
    env_steps: int = 0
    total: int = 0
    ret: float | None = None  # mean return of the last episodes in training
    evaluation: float | None = None
    eta: float | None = None  # s
    note: str = ""


def command(argv: Sequence[str]) -> int:
    """Run `lockstep launch status [FOLDER ...]`. Raises ValueError for bad input."""
    parser = Parser(prog="lockstep launch status", allow_abbrev=False)
    parser.add_argument("folders", nargs="*", default=["runs"], help="run folders, or folders of them; default runs")
    own = parser.parse_args(argv)
    runs = []
    for folder in map(Path, own.folders):
        if not folder.is_dir():
            raise ValueError(f"launch status {folder}: no such folder; name a run folder, or a folder of run folders")
        runs += find(folder)
    jobs = queued()
    print(table([placed(read(run), jobs) for run in runs]))
    return 0


def find(folder: Path) -> list[Path]:
    """Return the run folders in `folder`: itself, those directly in it, and those that its task file lists."""
    if _is_run(folder):
        return [folder]
    tasks = folder / "tasks.txt"
    named = [folder / line.split()[0] for line in tasks.read_text().splitlines()] if tasks.is_file() else []
    found = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_run(path) and path not in named]
    return [*named, *found]


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "status.json", "job"))


def read(run: Path) -> RunState:
    """Return what a run folder says about itself; half-written files count as missing."""
    status, results = _json(run / "status.json"), _json(run / "results.json")
    rows = _last_rows(run / "metrics.jsonl")
    last: dict[str, Any] = {}
    for row in rows:
        last |= {name: value for name, value in row.items() if value is not None}
    env_steps = max(int(status.get("env_steps", 0)), int(last.get("global_step", 0)))
    total = int(status.get("total_env_steps", 0))
    sps = float(last.get("charts/SPS", 0.0))
    job, broken = _line(run / "job"), _line(run / "cause")
    state = "failed" if broken else str(status.get("state", "new"))
    if state == "running" and not job and time.time() - _changed(run / "metrics.jsonl") > _SILENT:
        state = "silent"
    evaluation = results.get("evaluation", {}).get("mean") if state == "finished" else None
    return RunState(
        name=run.name,
        state=state,
        job=job,
        env_steps=env_steps,
        total=total,
        ret=last.get("charts/episodic_return"),
        evaluation=evaluation,
        eta=(total - env_steps) / sps if state == "running" and sps > 0 else None,
        note=str(
            broken or status.get("cause") or ("saved at " + str(status["signal"]) if status.get("signal") else "")
        ),
    )


def placed(run: RunState, jobs: dict[str, tuple[str, str]]) -> RunState:
    """Return a run with the location of its job; one that claims to run but whose job is gone is lost."""
    if not run.job or run.state in ("finished", "failed"):
        return run
    if run.job not in jobs:
        return replace(run, state="lost", note="its job is gone: submit it again") if run.state == "running" else run
    state, where = jobs[run.job]
    return replace(run, state="running" if state == "running" else "pending", where=where)


def table(runs: Sequence[RunState]) -> str:
    """Return runs as aligned text, and a line that counts them."""
    rows = [HEADER, *(_cells(run) for run in runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counts = ", ".join(f"{number} {state}" for state, number in sorted(Counter(run.state for run in runs).items()))
    return "\n".join([*lines, f"{len(runs)} runs: {counts}" if runs else "no runs"])


def _cells(run: RunState) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    done = f"{100 * run.env_steps / run.total:.0f}%" if run.total else "-"
    minutes = None if run.eta is None else divmod(round(run.eta / 60), 60)
    eta = "-" if minutes is None else f"{minutes[0]}:{minutes[1]:02d}"
    note = run.note if len(run.note) <= 100 else run.note[:97] + "..."
    evaluation = number(run.evaluation)
    return (
        *(run.name, run.state, run.job or "-", run.where or "-", f"{run.env_steps:,}", done),
        *(number(run.ret), evaluation, eta, note),
    )


def _line(path: Path) -> str:
    """Return what the batch script left in a file; empty if there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
