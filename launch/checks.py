"""Refuse what cannot work, in one line, before anything is submitted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from launch.job import Job, seconds

EXIT_BAD_INPUT = 2
_AT_ONCE = 8


def check(job: Job, run: Path, arguments: Sequence[str]) -> None:
    """Raise ValueError for what cannot work on any cluster."""
    limit = seconds(job.time)
    if limit <= job.warn:
        raise ValueError(
            f"--time {job.time}: not longer than the warning of {job.warn} s; ask for more, or --warn less"
        )
    check_ranks(job)
    told = dict(pairwise(arguments))
    stated, stages = told.get("--shards", ""), told.get("--sync.stages", "1")
    if stages == "1" and stated.isdigit() and int(stated) % job.world_size:  # the trainer reports the rest
        problem = f"cannot be divided among {job.nodes} node(s) x {job.ranks_per_node} rank(s)"
        raise ValueError(f"--shards {stated}: {problem}; use a multiple of {job.world_size}")
    for name in ("--resume", "--log.dir", "--log.name", "--ranks"):
        if any(argument.partition("=")[0] == name for argument in arguments):
            raise ValueError(f"{name}: the batch script sets it; use --runs and --name before `--`")
    check_folder("--runs", run.parent)


def check_ranks(job: Job) -> None:
    if job.gpus_per_node and job.ranks_per_node > job.gpus_per_node:
        problem = f"more ranks than the {job.gpus_per_node} GPU(s) of a node"
        raise ValueError(f"--ranks-per-node {job.ranks_per_node}: {problem}; NCCL needs one GPU per rank")


def check_folder(flag: str, folder: Path) -> None:
    """Raise ValueError if `folder` is not writable, or does not exist and cannot be created."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not _writable(there):
        raise ValueError(f"{flag} {folder}: cannot write to {there}; choose a folder that all nodes see")


def check_runs(job: Job, runs: Iterable[tuple[Path, Sequence[str]]]) -> None:
    """Raise ValueError for the first run, a folder and its arguments, that the trainer refuses on the job's ranks.

    A login node may lack what the trainer needs; then the batch script runs the same check on its first node.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for told in pool.map(lambda run: _refusal_of(job, *run), runs):
            if told:
                raise ValueError(told)


def refusal(python: str, arguments: Sequence[str], ranks: int) -> str:
    """Return the trainer's objection to a run on `ranks` ranks; empty if it accepts it or cannot be asked here."""
    asks = [python, "-m", "trainer", "check", *arguments, "--ranks", str(ranks)]
    try:
        said = subprocess.run(asks, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stderr.strip().removeprefix("lockstep: ") if said.returncode == EXIT_BAD_INPUT else ""


def _refusal_of(job: Job, run: Path, arguments: Sequence[str]) -> str:
    where = ["--log.dir", str(run.parent), "--log.name", run.name, "--resume", "auto"]
    return refusal(job.python, [*arguments, *where], job.world_size)


def _writable(folder: Path) -> bool:
    probe = folder / ".lockstep-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
