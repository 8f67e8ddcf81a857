"""`lockstep launch sweep`: one run per point of a grid, as a SLURM job array or a few at a time on this machine.

The points are in a plain text file, one line per task: the name of its run folder, then its arguments. Submitting the
same sweep again runs what is not finished. Standard library only.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launch import local, slurm
from launch.checks import check, check_runs
from launch.job import Job
from launch.options import count, split
from launch.scheduler import check_cluster, submit
from launch.status import read, table

TASKS = "tasks.txt"


def command(argv: Sequence[str]) -> int:
    """Run `lockstep launch sweep`. Raises ValueError for bad input."""
    asks = slurm.parser("lockstep launch sweep", "%(prog)s --grid seed=0..9 env.id=A,B [...] -- PRESET [...]")
    asks.add_argument("--grid", nargs="+", default=[], help="field=a,b,c or field=0..9 (both ends included)")
    asks.add_argument("--name", default="", help="folder of the sweep below --runs; default: preset and fields")
    asks.add_argument("--at-once", default="0", help="maximum number of tasks at a time; default: as many as fit")
    asks.add_argument("--local", default="0", metavar="J", help="no SLURM: J runs at a time on this machine")
    own, arguments = split(asks, argv, "launch sweep")
    job = slurm.job_of(own)
    points = expand(own.grid)
    name = own.name or "-".join([slurm.default_name(arguments), *(item.partition("=")[0] for item in own.grid)])
    folder = Path(own.runs) / name
    check(job, folder, arguments)
    kinds = {point_name(point | {"seed": ""}): point for point in points}  # the seed does not decide what can run
    check_runs(job, [(folder / point_name(point), [*arguments, *flags(point)]) for point in kinds.values()])
    tasks = [f"{point_name(point)} {shlex.join(flags(point))}" for point in points]
    left = [i for i, task in enumerate(tasks, 1) if read(folder / task.split()[0]).state != "finished"]
    at_once, jobs = count("--at-once", own.at_once, 0), count("--local", own.local, 0)
    if not left:
        print(f"all {len(tasks)} tasks are finished: lockstep launch status {folder}")
        return 0
    array = spans(left) + (f"%{at_once}" if at_once else "")
    text = job.train(
        f"lockstep-{name}", of_array(folder, arguments), f"{folder}/slurm-%a.log", after=summary(folder), array=array
    )
    if own.dry_run:
        print(*tasks, "", text, sep="\n", end="")
        return 0
    if not jobs:
        check_cluster(job)
    _write_tasks(folder, tasks)
    print(f"{len(left)} of {len(tasks)} tasks to run; {folder / TASKS}")
    if jobs:
        return _run_here(folder, [tasks[i - 1] for i in left], arguments, job, jobs)
    print(f"job array {submit(text, folder / 'job.sbatch')}; state: lockstep launch status {folder}")
    return 0


def expand(grid: Sequence[str]) -> list[dict[str, str]]:
    """Return every point of a grid: field=a,b,c lists values, field=0..9 counts from the first to the last."""
    fields: dict[str, list[str]] = {}
    for item in grid:
        field, is_set, values = item.partition("=")
        if not (field and is_set and values):
            raise ValueError(f"--grid {item}: not field=values; write e.g. seed=0..9 or optim.lr=1e-3,1e-4")
        if field.removeprefix("--") in fields:
            raise ValueError(f"--grid {item}: {field} is given twice; give all its values at once")
        span = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", values)
        counted = [] if span is None else range(int(span[1]), int(span[2]) + 1)
        listed = values.split(",") if span is None else [str(value) for value in counted]
        if not listed or "" in listed or len(set(listed)) < len(listed):
            raise ValueError(f"--grid {item}: an empty or duplicate value; write e.g. seed=0..9 or optim.lr=1e-3,1e-4")
        fields[field.removeprefix("--")] = listed
    if not fields:
        raise ValueError("launch sweep: no --grid; write e.g. --grid seed=0..9 env.id=CartPole-v1,Acrobot-v1")
    return [dict(zip(fields, point, strict=True)) for point in itertools.product(*fields.values())]


def spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers in the syntax of sbatch --array: 1-3,7."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ",".join(str(group[0]) + (f"-{group[-1]}" if len(group) > 1 else "") for group in groups)


def point_name(point: dict[str, str]) -> str:
    """Return the name of a point's run folder."""
    parts = [f"{field.rpartition('.')[2]}={value}" for field, value in point.items()]
    return re.sub(r"[^\w.=+-]", "-", "_".join(parts))


def flags(point: dict[str, str]) -> list[str]:
    return [word for field, value in point.items() for word in (f"--{field}", value)]


def of_array(folder: Path, arguments: Sequence[str]) -> str:
    """Return the shell lines that find the task of an array job."""
    tasks = shlex.quote(str(folder / TASKS))
    return (
        f'eval "task=($(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {tasks}))"   # its run folder, then its arguments\n'
        f"run={shlex.quote(str(folder))}/${{task[0]}}\n"
        f'arguments=({shlex.join(arguments)} "${{task[@]:1}}")'
    )


def summary(folder: Path) -> str:
    """Return the shell line with which every task updates the summary when it ends."""
    out = shlex.quote(str(folder / "summary.txt"))
    return f'"$python" -m launch status {shlex.quote(str(folder))} > {out}.$$ && mv {out}.$$ {out}'


def _write_tasks(folder: Path, tasks: Sequence[str]) -> None:
    """Write the task file, or check that it belongs to this sweep: array numbers are its line numbers."""
    path = folder / TASKS
    text = "".join(f"{task}\n" for task in tasks)
    if path.exists() and path.read_text() != text:
        raise ValueError(f"--name {folder.name}: {path} lists another sweep; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _run_here(folder: Path, tasks: Sequence[str], arguments: Sequence[str], job: Job, jobs: int) -> int:
    """Run tasks on this machine, `jobs` at a time; return 1 if any failed."""

    def run(task: str) -> None:
        name, *own = shlex.split(task)
        whole = [*arguments, *own, "--log.dir", str(folder), "--log.name", name, "--resume", "auto"]
        launching = local.render(whole, ranks=job.ranks_per_node, python=sys.executable, max_restarts=job.max_restarts)
        with (folder / f"{name}.log").open("a") as log:
            environment = launching.environment | dict(os.environ)
            subprocess.run(launching.command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, tasks))
    states = [read(folder / task.split()[0]) for task in tasks]
    (folder / "summary.txt").write_text(table(states) + "\n")
    print(table(states))
    return 0 if all(state.state == "finished" for state in states) else 1
