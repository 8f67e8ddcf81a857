"""`lockstep launch slurm`: a batch script that survives pre-emption, rendered and submitted. Standard library only."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from launch.options import Parser, count, split, suggest

TEMPLATE = Path(__file__).with_name("batch.sh")
SITE = ("cluster.env", "slurm/cluster.env")
"""Where site settings are looked for, unless --site names a file."""
_SITE_FIELDS = ("partition", "account", "qos", "constraint", "container", "runs")


@dataclass(frozen=True)
class Job:
    """What SLURM is asked for; text fields that are empty are left to the cluster's defaults."""

    nodes: int = 1
    gpus_per_node: int = 0
    ranks_per_node: int = 1
    cpus_per_rank: int = 4
    time: str = "8:00:00"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    memory: str = ""
    container: str = ""
    signal: str = "USR2"
    warn: int = 120  # seconds before the time limit
    max_requeues: int = 50
    max_restarts: int = 3
    python: str = "python"
    site: str = ""

    def render(self, name: str, what: str, log: str, *, after: str = "", array: str = "") -> str:
        """Return the batch script. what: shell lines that set `run` and `arguments`; after: lines for its end."""
        asked = {
            "job-name": name,
            "array": array,
            "nodes": str(self.nodes),
            "ntasks-per-node": "1",
            "cpus-per-task": str(self.cpus_per_rank * self.ranks_per_node),
            "gpus-per-node": str(self.gpus_per_node or ""),
            "mem": self.memory,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "signal": f"B:{self.signal}@{self.warn}",
            "output": log,
        }
        header = [f"#SBATCH --{option}={value}" for option, value in asked.items() if value]
        header += ["#SBATCH --requeue", "#SBATCH --open-mode=append"]
        srun = [f"--container-image={self.container}", '--container-mounts="$PWD:$PWD"'] if self.container else []
        values = {
            "SBATCH": "\n".join(header),
            "WHAT": what,
            "PYTHON": shlex.quote(self.python),
            "RANKS_PER_NODE": str(self.ranks_per_node),
            "MAX_RESTARTS": str(self.max_restarts),
            "MAX_REQUEUES": str(self.max_requeues),
            "SITE": shlex.quote(self.site) if self.site else "",
            "SRUN": " ".join(srun),
            "SIGNAL": self.signal,
            "AFTER": after,
        }
        text = re.sub(r"@([A-Z_]+)@", lambda mark: values[mark[1]], TEMPLATE.read_text())
        return text.replace("\n\ncase $found", "\ncase $found")


def command(argv: Sequence[str]) -> int:
    """Run `lockstep launch slurm`: print the batch script, or submit it. Raises ValueError for bad input."""
    asks = parser("lockstep launch slurm", "%(prog)s [--nodes N] [...] -- PRESET [--section.field VALUE ...]")
    asks.add_argument("--name", default="", help="run folder below --runs; default: preset and seed")
    own, arguments = split(asks, argv, "launch slurm")
    job = job_of(own)
    run = Path(own.runs) / (own.name or default_name(arguments))
    check(job, run, arguments)
    text = job.render(f"lockstep-{run.name}", single(run, arguments), f"{run}/slurm.log")
    if own.dry_run:
        print(text, end="")
        return 0
    check_cluster(job)
    run.mkdir(parents=True, exist_ok=True)
    print(f"job {submit(text, run / 'job.sbatch')}; log: {run}/slurm.log; state: lockstep launch status {run}")
    return 0


def single(run: Path, arguments: Sequence[str]) -> str:
    """Return the shell lines of a job that is one run."""
    return f"run={shlex.quote(str(run))}\narguments=(train {shlex.join(arguments)})"


def default_name(arguments: Sequence[str]) -> str:
    """Return what a run is called that has no name: its preset, and its seed where one is stated."""
    seed = dict(pairwise(arguments)).get("--seed")
    return Path(arguments[0]).stem + (f"-s{seed}" if seed else "")


def parser(prog: str, usage: str) -> Parser:
    """Return a parser of what SLURM is asked for."""
    made = Parser(prog=prog, usage=usage, allow_abbrev=False)
    default = Job()
    add = made.add_argument
    add("--nodes", default="1", help="nodes; default 1")
    add("--gpus-per-node", default="0", help="GPUs, and by default ranks, on each node; 0: CPUs with gloo")
    add("--ranks-per-node", default=None, help="default: one per GPU, one without GPUs")
    add("--cpus-per-rank", default=str(default.cpus_per_rank), help="environments step there; default 4")
    add("--time", default=default.time, help="limit of one life of the job; it requeues itself; default 8:00:00")
    for name in ("partition", "account", "qos", "constraint"):
        add(f"--{name}", default=None, help="as for sbatch; default: from the site file, else the cluster's own")
    add("--memory", default="", help="memory of a node, as for sbatch --mem")
    add("--container", default=None, help="image for srun --container-image (pyxis); others: `wrap` in the site file")
    add("--signal", default=default.signal, help="the warning before the time limit; default USR2 (NCCL may take USR1)")
    add("--warn", default=str(default.warn), help="seconds between that warning and the limit; default 120")
    add("--max-requeues", default=str(default.max_requeues), help="default 50")
    add("--max-restarts", default=str(default.max_restarts), help="of failed ranks within a life; default 3")
    add("--python", default=sys.executable, help="interpreter on the nodes")
    add("--site", default=None, help=f"file of site settings; default: {' or '.join(SITE)}, if there")
    add("--runs", default=None, help="folder of the run folders, on a file system that all nodes see; default runs")
    add("--dry-run", action="store_true", help="print the batch script only")
    return made


def job_of(own: argparse.Namespace) -> Job:
    """Return the job that the options and the site file state; fills own.runs."""
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
    """Return the LOCKSTEP_ settings of a site file, by lower-case name; its other lines are for the nodes alone."""
    found = {}
    for line in path.read_text().splitlines():
        words = shlex.split(line, comments=True)
        for word in words[1:] if words[:1] == ["export"] else words[:1]:
            name, is_set, value = word.partition("=")
            if is_set and name.startswith("LOCKSTEP_"):
                found[name.removeprefix("LOCKSTEP_").lower()] = os.path.expandvars(value)
    return found


def check(job: Job, run: Path, arguments: Sequence[str]) -> None:
    """Raise ValueError for what cannot work on any cluster."""
    limit = seconds(job.time)
    if limit <= job.warn:
        raise ValueError(
            f"--time {job.time}: not longer than the warning of {job.warn} s; ask for more, or --warn less"
        )
    if job.gpus_per_node and job.ranks_per_node > job.gpus_per_node:
        problem = f"more ranks than the {job.gpus_per_node} GPU(s) of a node"
        raise ValueError(f"--ranks-per-node {job.ranks_per_node}: {problem}; NCCL needs one GPU a rank")
    stated = dict(pairwise(arguments)).get("--shards", "")
    world = job.nodes * job.ranks_per_node
    if stated.isdigit() and int(stated) % world:
        problem = f"cannot be shared by {job.nodes} node(s) x {job.ranks_per_node} rank(s)"
        raise ValueError(f"--shards {stated}: {problem}; use a multiple of {world}")
    for name in ("--resume", "--log.dir", "--log.name", "--ranks"):
        if any(argument.partition("=")[0] == name for argument in arguments):
            raise ValueError(f"{name}: the batch script sets it; use --runs and --name in front of `--`")
    parent = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    if not parent.is_dir() or not _writable(parent):
        raise ValueError(f"--runs {run.parent}: cannot write to {parent}; choose a folder that all nodes see")


def check_cluster(job: Job) -> None:
    """Raise ValueError for what this cluster does not have."""
    for tool in ("sbatch", "scontrol", "squeue"):
        if shutil.which(tool) is None:
            raise ValueError(f"{tool} is not on PATH: run this on a login node of the cluster, or use `launch local`")
    if job.partition:
        known = ask("scontrol", "show", "partition", "-o")
        names = re.findall(r"^PartitionName=(\S+)", known, re.MULTILINE)
        if names and job.partition not in names:
            raise ValueError(f"--partition {job.partition}: no such partition; {suggest(job.partition, names)}")


def seconds(limit: str) -> int:
    """Return a SLURM time limit in seconds: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s."""
    form = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if form is None:
        raise ValueError(f"--time {limit}: not a time; write e.g. 8:00:00 or 2-00:00:00")
    days, *rest = form.groups()
    a, b, c = (int(part) if part else 0 for part in rest)
    if days is not None:
        return ((int(days) * 24 + a) * 60 + b) * 60 + c
    if rest[2] is not None:
        return (a * 60 + b) * 60 + c
    return a * 60 + b  # minutes, or minutes:seconds


def submit(text: str, path: Path) -> str:
    """Write the batch script and hand it to sbatch; return the job id."""
    path.write_text(text)
    said = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    if said.returncode:
        raise ValueError(f"sbatch refused {path}: {' '.join(said.stderr.split())}")
    return said.stdout.strip().partition(";")[0]


def ask(*command: str) -> str:
    """Return what a SLURM command prints; empty where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _writable(folder: Path) -> bool:
    probe = folder / ".lockstep-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
