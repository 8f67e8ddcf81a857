"""`lockstep launch slurm`: a batch script that survives pre-emption, rendered and submitted. Standard library only."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from launch.checks import check, check_runs
from launch.job import Job
from launch.options import Parser, count, split
from launch.scheduler import check_cluster, submit

SITE = ("cluster.env", "slurm/cluster.env")
"""Where site settings are looked for, unless --site names a file."""
_SITE_FIELDS = ("partition", "account", "qos", "constraint", "container", "runs")


def command(argv: Sequence[str]) -> int:
    """Run `lockstep launch slurm`: print the batch script, or submit it. Raises ValueError for bad input."""
    asks = parser("lockstep launch slurm", "%(prog)s [--nodes N] [...] -- PRESET [--section.field VALUE ...]")
    asks.add_argument("--name", default="", help="run folder below --runs; default: preset and seed")
    own, arguments = split(asks, argv, "launch slurm")
    job = job_of(own)
    run = Path(own.runs) / (own.name or default_name(arguments))
    check(job, run, arguments)
    check_runs(job, [(run, arguments)])
    text = job.train(f"lockstep-{run.name}", single(run, arguments), f"{run}/slurm.log")
    if own.dry_run:
        print(text, end="")
        return 0
    check_cluster(job)
    run.mkdir(parents=True, exist_ok=True)
    print(f"job {submit(text, run / 'job.sbatch')}; log: {run}/slurm.log; state: lockstep launch status {run}")
    return 0


def single(run: Path, arguments: Sequence[str]) -> str:
    """Return the shell lines of a job that is one run."""
    return f"run={shlex.quote(str(run))}\narguments=({shlex.join(arguments)})"


def default_name(arguments: Sequence[str]) -> str:
    """Return the default name of a run: its preset, and its seed if one is stated."""
    seed = dict(pairwise(arguments)).get("--seed")
    return Path(arguments[0]).stem + (f"-s{seed}" if seed else "")


def parser(prog: str, usage: str) -> Parser:
    """Return a parser for what is requested from SLURM."""
    made = Parser(prog=prog, usage=usage, allow_abbrev=False)
    default = Job()
    add = made.add_argument
    add("--nodes", default="1", help="nodes; default 1")
    add("--gpus-per-node", default="0", help="GPUs, and by default ranks, on each node; 0: CPUs with gloo")
    add("--ranks-per-node", default=None, help="default: one per GPU, one without GPUs")
    add("--cpus-per-rank", default=str(default.cpus_per_rank), help="environments step there; default 4")
    add("--time", default=default.time, help="limit of one life of the job; it requeues itself; default %(default)s")
    for name in ("partition", "account", "qos", "constraint"):
        add(f"--{name}", default=None, help="as for sbatch; default: from the site file, else the cluster's own")
    add("--memory", default="", help="memory per node, as for sbatch --mem")
    add("--container", default=None, help="image for srun --container-image (pyxis); others: `wrap` in the site file")
    add("--signal", default=default.signal, help="the warning before the time limit; default USR2 (NCCL may take USR1)")
    add("--warn", default=str(default.warn), help="seconds between that warning and the limit; default 120")
    add("--max-requeues", default=str(default.max_requeues), help="default 50")
    add("--max-restarts", default=str(default.max_restarts), help="restarts within a life; default %(default)s")
    add("--python", default=sys.executable, help="interpreter on the nodes")
    add("--site", default=None, help=f"file of site settings; default: {' or '.join(SITE)}, if present")
    add("--runs", default=None, help="folder of the run folders, on a file system that all nodes see; default runs")
    add("--dry-run", action="store_true", help="print the batch script only")
    return made


def job_of(own: argparse.Namespace) -> Job:
    """Return the job described by the options and the site file; fills own.runs."""
    site = own.site or next((path for path in SITE if Path(path).is_file()), "")
    if site and not Path(site).is_file():
        raise ValueError(f"--site {site}: no such file; copy slurm/cluster.env.example")
    stated = read_site(Path(site)) if site else {}
    text = {name: getattr(own, name) or stated.get(name, "") for name in _SITE_FIELDS}
    own.runs = text.pop("runs") or "runs"
    gpus = count("--gpus-per-node", own.gpus_per_node, 0)
    return Job(
        nodes=count("--nodes", own.nodes, 1),
        gpus_per_node=gpus,
        ranks_per_node=count("--ranks-per-node", own.ranks_per_node or str(max(1, gpus)), 1),
        cpus_per_rank=count("--cpus-per-rank", own.cpus_per_rank, 1),
        time=own.time,
        memory=own.memory,
        signal=own.signal.removeprefix("SIG"),
        warn=count("--warn", own.warn, 1),
        max_requeues=count("--max-requeues", own.max_requeues, 0),
        max_restarts=count("--max-restarts", own.max_restarts, 0),
        python=own.python,
        site=str(Path(site).absolute()) if site else "",
        **text,
    )


def read_site(path: Path) -> dict[str, str]:
    """Return the LOCKSTEP_ settings of a site file, by lower-case name; its other lines are for the nodes only."""
    found = {}
    for line in path.read_text().splitlines():
        words = shlex.split(line, comments=True)
        for word in words[1:] if words[:1] == ["export"] else words[:1]:
            name, is_set, value = word.partition("=")
            if is_set and name.startswith("LOCKSTEP_"):
                found[name.removeprefix("LOCKSTEP_").lower()] = os.path.expandvars(value)
    return found
