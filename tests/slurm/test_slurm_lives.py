"""Runs that outlive their jobs: whatever ends a life, the result is that of an undisturbed run."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from cluster import NODES, Cluster
from jobs import PATIENCE, STEPS, Job, assert_same, launch, submit

pytestmark = pytest.mark.timeout(1000)
SLOW = pytest.mark.slow  # beyond what continuous integration has time for; `make test-slurm` runs them
PACE = 0.03  # s per step, so that a run takes 15 s
CHECKPOINT = 1_000  # env steps between two


def resumed_at(job: Job) -> list[int]:
    """The env steps at which lives after the first one began."""
    return [int(at.replace(",", "")) for at in re.findall(r"resumed at ([\d,]+) env steps", job.said)]


def saved_at(job: Job) -> list[int]:
    """The env steps at which the ranks saved because they were asked to stop."""
    return [int(at.replace(",", "")) for at in re.findall(r"saved at ([\d,]+) env steps", job.said)]


def assert_saved_and_requeued(job: Job, whole: Path) -> None:
    """The job was warned once, saved where it stood, came back and finished."""
    job.wait()
    assert job.lives == 2, job.tell()
    assert resumed_at(job) == saved_at(job)
    assert_same(job.run, whole)


@SLOW
def test_a_time_limit_that_needs_three_allocations(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    """SLURM looks every 30 s and may warn 30 s early: here between 10 s and 40 s after the start.

    10 s later at most the ranks agree, and 110 s of work do not fit into two lives of 50 s.
    """
    job = submit(cluster, tmp_path / "run", "--time", "2", "--warn", "80", pace=110 / (STEPS / 8))
    job.wait(seconds=900)
    assert job.lives >= 3
    assert len(saved_at(job)) == job.lives - 1
    assert "batch: USR2 at" in job.said
    assert resumed_at(job) == saved_at(job) == sorted(set(saved_at(job)))
    assert_same(job.run, whole)


@pytest.mark.parametrize("warned", [True, pytest.param(False, marks=SLOW)], ids=["by its signal", "by SIGTERM"])
def test_preempted(warned: bool, cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    """A job of a higher partition takes a node; clusters first send the job's own signal, or SIGTERM."""
    with cluster.sends_job_signal(warned):
        job = submit(cluster, tmp_path / "run", "--partition", "low", pace=PACE)
        job.reach(400)
        cluster.ask("sbatch", "-p", "high", "-N1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
        assert_saved_and_requeued(job, whole)
    assert ("batch: USR2 at" in job.said) == warned


@SLOW
@pytest.mark.parametrize("how", ["--batch --signal=USR2", "--signal=USR2", "--signal=TERM"])
def test_signalled(how: str, cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    """To the batch shell, or to the ranks and their torchrun."""
    job = submit(cluster, tmp_path / "run", pace=PACE)
    job.reach(400)
    cluster.ask("scancel", *how.split(), job.number)
    assert_saved_and_requeued(job, whole)


@SLOW
def test_requeued_by_the_administrator(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    """SLURM kills the ranks at once; they save what they can within KillWait."""
    job = submit(cluster, tmp_path / "run", pace=PACE)
    job.reach(CHECKPOINT + 200)
    cluster.ask("scontrol", "requeue", job.number)
    job.wait()
    assert job.lives == 2
    assert resumed_at(job)[0] >= CHECKPOINT
    assert_same(job.run, whole)


@pytest.mark.parametrize(
    "node", [pytest.param(node, marks=SLOW) for node in NODES[:2]], ids=["the first node", "the second node"]
)
def test_a_node_dies(node: str, cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path / "run", pace=PACE)
    job.reach(CHECKPOINT + 200)
    cluster.kill_node(node)
    job.wait_for(lambda: job.show("JobState") != "RUNNING", PATIENCE)
    cluster.reboot(node)
    job.wait()
    assert job.lives == 2
    assert [at % CHECKPOINT for at in resumed_at(job)] == [0]
    assert_same(job.run, whole)


@pytest.mark.parametrize("rank", [pytest.param(rank, marks=SLOW) for rank in (0, 1)])
def test_a_rank_dies(rank: int, cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    """torchrun restarts all ranks, from the last checkpoint, within the same life of the job."""
    job = submit(cluster, tmp_path / "run", pace=PACE)
    job.reach(CHECKPOINT + 200)
    os.kill(job.ranks()[rank], signal.SIGKILL)
    job.wait()
    assert job.lives == 1
    assert [at % CHECKPOINT for at in resumed_at(job)] == [0]
    assert_same(job.run, whole)


@SLOW
def test_a_rank_that_dies_too_often_ends_the_job_with_the_cause(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path / "run", "--max-restarts", "0", pace=PACE)
    job.reach(400)
    os.kill(job.ranks()[1], signal.SIGKILL)
    job.wait("FAILED", 60)
    assert job.lives == 1
    told = launch(cluster, "status", str(job.run)).splitlines()[1]
    assert "failed" in told
    assert "SIGKILL" in told


@SLOW
def test_a_cancelled_job_saves_and_stays_away(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path / "run", pace=PACE)
    job.reach(400)
    cluster.ask("scancel", job.number)
    job.wait("CANCELLED")
    assert job.lives == 1
    assert "stopped" in launch(cluster, "status", str(job.run)).splitlines()[1]


@SLOW
def test_requeues_are_bounded(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path / "run", "--max-requeues", "0", pace=PACE)
    job.reach(400)
    cluster.ask("scancel", "--batch", "--signal=USR2", job.number)
    job.wait("FAILED")
    assert "batch: saved, but requeued 0 times already: submit it again" in job.said


def test_what_is_broken_is_told_once_and_not_requeued(cluster: Cluster, tmp_path: Path) -> None:
    """By the batch script, as the launcher, given another interpreter, could not ask the trainer."""
    job = submit(cluster, tmp_path / "run", "--nodes", "1", "--python", "nowhere/python")
    job.wait("FAILED")
    assert job.lives == 1
    assert "nowhere/python" in launch(cluster, "status", str(job.run)).splitlines()[1]
