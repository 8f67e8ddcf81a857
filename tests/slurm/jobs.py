"""Runs as SLURM jobs, submitted by the launcher itself, and what they leave."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from cluster import Cluster, wait_for
from launching import QUIET, checkpoints, metrics
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
SMALL = ("--cpus-per-rank", "1", "--max-restarts", "1")
PATIENCE = 240.0  # s for what takes a few seconds on an idle machine
STEPS = 4_000  # env steps of a run that is interrupted; 8 of them are one step of all environments
ARGUMENTS = (
    *("debug", "--shards", "2", "--total_env_steps", str(STEPS), "--checkpoint.every", "1000", "--log.every", "400"),
    *("--runtime.poll_every", "400", "--eval.episodes", "8", *QUIET),
)


@dataclass
class Job:
    """A job that was submitted, and its run folder."""

    cluster: Cluster
    number: str
    run: Path
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def lives(self) -> int:
        return len(re.findall(r"^batch: job .* life \d+", self.said, re.MULTILINE))

    def show(self, field: str) -> str:
        found = re.search(rf"\b{field}=(\S+)", self.cluster.ask("scontrol", "show", "job", "-o", self.number))
        assert found
        return found[1]

    def env_steps(self) -> int:
        """How far the run is, by its last row."""
        path = self.run / "metrics.jsonl"
        rows = path.read_text().splitlines() if path.exists() else []
        return max((int(json.loads(row)["global_step"]) for row in rows if row.endswith("}")), default=0)

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        wait_for(condition, seconds, self.tell)

    def reach(self, env_steps: int) -> None:
        """Wait until the run has got this far, and check that it still runs."""
        self.wait_for(lambda: self.env_steps() >= env_steps, PATIENCE)
        assert self.show("JobState") == "RUNNING", self.tell()

    def wait(self, state: str = "COMPLETED", seconds: float = PATIENCE) -> None:
        """Wait for the end of the job."""
        self.wait_for(lambda: self.show("JobState") in ENDED, seconds)
        assert self.show("JobState") == state, self.tell()

    def ranks(self) -> dict[int, int]:
        """rank -> process, of the ranks that run now."""
        mine = self.cluster.processes(SLURM_JOB_ID=self.number)
        # workers of its environments have a rank's environment variables, and started later
        return {int(mine[pid]["RANK"]): pid for pid in sorted(mine, reverse=True) if "RANK" in mine[pid]}

    def tell(self) -> str:
        shown = self.cluster.ask("scontrol", "show", "job", self.number, check=False)
        return f"{shown}\n--- {self.log}\n{self.said[-6000:]}\n{self.cluster.tell()}"


def launch(cluster: Cluster, *arguments: str, expect: int = 0, pace: float = 0.0, cwd: Path = ROOT) -> str:
    """Run `lockstep launch` on the cluster's login node, which is this machine; return what it prints."""
    environ = cluster.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if pace:
        environ |= {"LOCKSTEP_TEST_PACE": str(pace), "PYTHONPATH": f"{Path(__file__).parent / 'paced'}:{ROOT}"}
    command = [sys.executable, "-m", "launch", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def submit(
    cluster: Cluster, run: Path, *options: str, arguments: tuple[str, ...] = ARGUMENTS, pace: float = 0.0
) -> Job:
    """Submit a run on two nodes, unless the options say otherwise. pace: s added to every step."""
    where = ("--runs", str(run.parent), "--name", run.name)
    said = launch(cluster, "slurm", "--nodes", "2", *SMALL, *where, *options, "--", *arguments, pace=pace)
    found = re.match(r"job (\d+); log: (\S+); ", said)
    assert found, said
    return Job(cluster, found[1], run, Path(found[2]))


def assert_same(run: Path, other: Path) -> None:
    """Two runs are one: every row of metrics once and the same, every tensor of the last checkpoint bit for bit."""
    rows = metrics(run)
    steps = [row["global_step"] for row in rows if "charts/epsilon" in row]
    assert len(set(steps)) == len(steps)
    assert rows == metrics(other)
    last, expected = checkpoints(run)[-1], checkpoints(other)[-1]
    assert last.name == expected.name
    files = sorted(path.name for path in expected.glob("*.safetensors"))
    assert files == sorted(path.name for path in last.glob("*.safetensors"))
    for name in files:
        ours, theirs = load_file(last / name), load_file(expected / name)
        assert list(ours) == list(theirs)
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def results(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "env_steps_per_second")}
