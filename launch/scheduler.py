"""Talk to SLURM through sbatch, scontrol and squeue; accounting (sacct) may be switched off and is not used."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from launch.job import Job
from launch.options import suggest


def check_cluster(job: Job) -> None:
    """Raise ValueError for what this cluster does not have."""
    for tool in ("sbatch", "scontrol", "squeue"):
        if shutil.which(tool) is None:
            raise ValueError(f"{tool} is not on PATH: run this on a login node of the cluster, or use `launch local`")
    if job.partition:
        names = re.findall(r"^PartitionName=(\S+)", ask("scontrol", "show", "partition", "-o"), re.MULTILINE)
        if names and not set(job.partition.split(",")) <= set(names):
            raise ValueError(f"--partition {job.partition}: no such partition; {suggest(job.partition, names)}")


def submit(text: str, path: Path) -> str:
    """Write the batch script and hand it to sbatch; return the job id."""
    path.write_text(text)
    said = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    if said.returncode:
        raise ValueError(f"sbatch refused {path}: {' '.join(said.stderr.split())}")
    return said.stdout.strip().partition(";")[0]


def queued() -> dict[str, tuple[str, str]]:
    """Return what squeue knows: job -> (state, nodes or the reason for waiting); empty without SLURM."""
    lines = [line.split("|") for line in ask("squeue", "-h", "-r", "-o", "%i|%T|%N|%r").splitlines()]
    return {job: (state.lower(), nodes or reason) for job, state, nodes, reason in lines}


def ask(*command: str) -> str:
    """Return what a SLURM command prints; empty if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
