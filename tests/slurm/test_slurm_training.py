"""Undisturbed runs on two nodes: they equal runs on one machine, alone or side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import NODES, Cluster
from jobs import ARGUMENTS, assert_same, launch, results, submit
from launching import QUIET, run

pytestmark = pytest.mark.timeout(1500)
KNOWN = 1.0  # mean return of `debug`: it catches every ball


@pytest.mark.slow
@pytest.mark.parametrize("ranks_per_node", [1, 2])
def test_two_nodes_are_one_machine(ranks_per_node: int, cluster: Cluster, tmp_path: Path) -> None:
    debug = ("debug", *QUIET, "--sync.shared_memory", "False")  # the sum of four numbers depends on the order
    here = ["train", *debug, "--log.dir", str(tmp_path), "--log.name", "here"]
    run(here, tmp_path, ranks=2 * ranks_per_node, launcher="torchrun", deadline=600)
    job = submit(cluster, tmp_path / "there", "--ranks-per-node", str(ranks_per_node), arguments=debug)
    job.wait(seconds=600)
    assert_same(job.run, tmp_path / "here")
    assert results(job.run) == results(tmp_path / "here")
    found = results(job.run)["evaluation"]
    assert isinstance(found, dict)
    assert found["mean"] == KNOWN
    assert f"batch: {2 * ranks_per_node} rank(s): " in job.said
    assert job.lives == 1


@pytest.mark.slow
def test_two_jobs_at_once_do_not_meet(cluster: Cluster, whole: Path, tmp_path: Path) -> None:
    jobs = [submit(cluster, tmp_path / name, pace=0.01) for name in ("a", "b")]
    for job in jobs:
        job.reach(400)
    assert [job.show("JobState") for job in jobs] == ["RUNNING"] * 2
    assert [job.show("NumNodes") for job in jobs] == ["2"] * 2
    told = launch(cluster, "status", str(tmp_path))
    assert [line.split()[:3] for line in told.splitlines()[1:3]] == [[j.run.name, "running", j.number] for j in jobs]
    assert all(node.rpartition(".")[2] in told for node in NODES)
    for job in jobs:
        job.wait()
        assert_same(job.run, whole)


def test_what_the_cluster_does_not_have_is_told_before_a_job_is_there(cluster: Cluster, tmp_path: Path) -> None:
    where = ("--runs", str(tmp_path), "--name", "run")
    before = cluster.ask("squeue", "-h", "-t", "all", "-o", "%i")
    said = launch(cluster, "slurm", "--partition", "mian", *where, "--", *ARGUMENTS, expect=2)
    assert said == "lockstep: --partition mian: no such partition; did you mean main?\n"
    said = launch(cluster, "slurm", "--nodes", "3", *where, "--", *ARGUMENTS, expect=2)
    assert said.startswith("lockstep: --shards 2: cannot be divided among 3 node(s) x 1 rank(s)")
    assert not (tmp_path / "run").exists()
    said = launch(cluster, "slurm", "--nodes", "4", *where, "--", "debug", expect=2)
    assert said.startswith("lockstep: sbatch refused ")
    assert said.count("\n") == 1
    assert cluster.ask("squeue", "-h", "-t", "all", "-o", "%i") == before
