"""Runs as a user starts them, under a launcher that restarts them, and what they leave behind."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from launching import QUIET, Program, started

from benchmarks.chaos.row import ENVS, WHOLE
from trainer import checkpoint

TIMEOUT = 8.0
"""--runtime.timeout of these runs [s]."""
SMALL = (
    *("debug", "--shards", "4", "--env.num_envs", str(ENVS), *WHOLE.flags),
    *("--eval.episodes", "16", "--runtime.timeout", str(TIMEOUT), *QUIET),
)
RESTARTS = 3
DEADLINE = 180.0  # s


@contextmanager
def supervised(
    folder: Path,
    ranks: int,
    *more: str,
    env: Mapping[str, str] | None = None,
    name: str = "run",
    restarts: int = RESTARTS,
    deadline: float = DEADLINE,
) -> Iterator[Program]:
    """Start `lockstep launch local --max-restarts`, in `folder`; nothing of it is alive after the block."""
    arguments = [*SMALL, *more, "--log.dir", str(folder), "--log.name", name, "--resume", "auto"]
    with started(arguments, folder, ranks=ranks, launcher=f"local {restarts}", env=env, deadline=deadline) as program:
        yield program


def faulty(folder: Path, *faults: str) -> dict[str, str]:
    """Return the variables that inject `faults`, each of them once."""
    log = str(folder / "faults.jsonl")
    return {"LOCKSTEP_FAULT": ",".join(faults), "LOCKSTEP_TESTING": "1", "LOCKSTEP_FAULT_LOG": log}


def happened(folder: Path) -> list[dict[str, Any]]:
    """Return the faults that have happened, with their times."""
    log = folder / "faults.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


class Reference(NamedTuple):
    """An undisturbed run."""

    seconds: float
    state: dict[str, Any]


@cache
def undisturbed(ranks: int, *more: str) -> Reference:
    """Return how long an undisturbed run takes, and its final state."""
    with tempfile.TemporaryDirectory() as folder, supervised(Path(folder), ranks, *more) as program:
        program.expect(0)
        return Reference(program.took, final_state(Path(folder) / "run"))


def final_state(run_dir: Path) -> dict[str, Any]:
    """Return every leaf of the newest checkpoint by its path, except the position in the log file."""
    found = checkpoint.latest(run_dir / "checkpoints", warn=print)
    assert found is not None, run_dir
    loaded = checkpoint.load(found, range(found.shards))
    leaves: dict[str, Any] = {}
    _collect({"replicated": loaded.replicated, **{str(k): v for k, v in loaded.shards.items()}}, "", leaves)
    return leaves


def _collect(value: Any, path: str, leaves: dict[str, Any]) -> None:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if pairs is None:
        leaves[path] = value
        return
    for key, part in pairs:
        if key != "logger":
            _collect(part, f"{path}/{key}", leaves)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states are equal bit for bit."""

    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)

    return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())


def close(one: dict[str, Any], other: dict[str, Any], atol: float) -> bool:
    """Whether two states are equal but for the rounding of floating-point tensors."""
    return one.keys() == other.keys() and all(
        torch.allclose(value, other[name], rtol=0, atol=atol)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else same({"": value}, {"": other[name]})
        for name, value in one.items()
    )


def finite(state: dict[str, Any]) -> bool:
    """Whether no number of a state is NaN or infinite."""
    return all(
        bool(v.isfinite().all()) for v in state.values() if isinstance(v, torch.Tensor) and v.is_floating_point()
    )


def begun(run_dir: Path) -> float:
    """Return when the run last began or resumed, by the wall clock; 0 if never."""
    path = run_dir / "status.json"
    try:
        return path.stat().st_mtime if json.loads(path.read_text())["state"] == "running" else 0.0
    except (OSError, ValueError, KeyError):
        return 0.0


def status(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "status.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"state": "none"}
    return found


def wait_until(program: Program, condition: Any, seconds: float) -> float:
    """Wait for a condition, until the program ends or the time is over; return how long that took [s]."""
    began = time.monotonic()
    while not condition() and program.popen.poll() is None and time.monotonic() - began < seconds:
        time.sleep(0.02)
    return time.monotonic() - began


def ranks_up(program: Program, ranks: int) -> bool:
    """Whether every rank's process exists."""
    return {environ.get("RANK") for environ in program.processes().values()} >= {str(rank) for rank in range(ranks)}


def resumes(program: Program) -> list[int]:
    """Return the env steps at which lives of this program resumed."""
    lines = (line for line in program.lines if "resumed at " in line)
    return [int(line.partition("resumed at ")[2].split()[0].replace(",", "")) for line in lines]


def steps_of(folders: Sequence[Path]) -> list[int]:
    return [int(folder.name.removeprefix("step-")) for folder in folders]


def files_left(temporary: Path) -> list[str]:
    """Return what a run left in its temporary folder, except torchrun's own logs, which it leaves after a signal."""
    return [path.name for path in temporary.rglob("*") if path.is_file() and "torchelastic" not in str(path)]


def cost_beside(folder: Path, runs: dict[str, Sequence[str]], env: Mapping[str, str] | None = None) -> float:
    """Do two runs of one rank at the same time; return what the second costs against the first [% of its speed].

    env: the second one's. Other load on the machine hits both; each has its own core, if there are two, which it shares
    with the processes it starts.
    """
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                supervised(folder, 1, *more, name=name, restarts=0, deadline=600, env=env if name != first else None)
            )
            for first in [next(iter(runs))]
            for name, more in runs.items()
        ]
        for program, core in zip(programs, sorted(os.sched_getaffinity(0)), strict=False):
            os.sched_setaffinity(program.popen.pid, {core})  # what it starts from here on inherits it
        for program in programs:
            program.expect(0)
    one, other = (json.loads((folder / name / "results.json").read_text())["env_steps_per_second"] for name in runs)
    return float(100 * (1 - other / one))
