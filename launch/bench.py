"""`lockstep launch bench`: the scaling benchmark on 1, 2, 4, ... nodes, as one SLURM job. Standard library only."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from launch.checks import check_folder, check_ranks
from launch.job import seconds
from launch.options import split
from launch.scheduler import check_cluster, submit
from launch.slurm import job_of, parser

STRATEGIES = ("--strategies", "ddp")


def command(argv: Sequence[str]) -> int:
    """Run `lockstep launch bench`: print the batch script, or submit it. Raises ValueError for bad input."""
    asks = parser("lockstep launch bench", "%(prog)s [--nodes N] [...] [-- arguments of benchmarks.scaling]")
    asks.add_argument("--name", default="scaling", help="folder of the results below --runs; default scaling")
    asks.set_defaults(time="1:00:00", max_restarts="0")
    own, arguments = split(asks, argv, "launch bench", needs=False)
    job = job_of(own)
    seconds(job.time)
    check_ranks(job)
    out = Path(own.runs) / own.name
    check_folder("--runs", out.parent)
    what = f"out={shlex.quote(str(out))}\narguments=({shlex.join(arguments or STRATEGIES)})"
    text = job.bench(f"lockstep-{out.name}", what, f"{out}/slurm-%j.log")
    if own.dry_run:
        print(text, end="")
        return 0
    check_cluster(job)
    out.mkdir(parents=True, exist_ok=True)
    number = submit(text, out / "job.sbatch")
    print(f"job {number}; log: {out}/slurm-{number}.log; results: {out}")
    return 0
