"""A job array whose tasks come and go, and the table that reports them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cluster import CPUS, NODES, Cluster, wait_for
from jobs import PATIENCE, launch
from launching import QUIET

pytestmark = pytest.mark.timeout(1000)
WALK = Path(__file__).parents[1] / "dist" / "tests_envs.py"
SHORT = (
    *("debug", "--total_env_steps", "1600", "--checkpoint.every", "800", "--log.every", "400"),
    *("--eval.episodes", "0", *QUIET),
)
TASKS = ("id=toy-Catch", "id=toy-Chain", "id=late-Walk-v0", "id=CartPole-v1")


def sweep(cluster: Cluster, runs: Path, modules: Path) -> str:
    """Submit the sweep, one node per task; return what the launcher says."""
    site = runs.with_suffix(".env")
    site.write_text(f'export PYTHONPATH="{modules}:${{PYTHONPATH:-}}"\n')
    grid = ("--grid", "env.id=toy/Catch,toy/Chain,late:Walk-v0,CartPole-v1", "--name", "sw", "--max-restarts", "0")
    two_a_node = ("--cpus-per-rank", str(CPUS // 2))
    return launch(cluster, "sweep", *two_a_node, *grid, "--site", str(site), "--runs", str(runs), "--", *SHORT)


def wait_for_array(cluster: Cluster, said: str) -> None:
    number = re.search(r"job array (\d+)", said)
    assert number, said
    wait_for(lambda: not cluster.ask("squeue", "-h", "-j", number[1], check=False).strip(), PATIENCE, cluster.tell)


@pytest.mark.slow
def test_a_task_fails_and_only_it_runs_again(cluster: Cluster, tmp_path: Path) -> None:
    """One environment is not there at first: it lives in a module that is written later."""
    runs, folder = tmp_path / "runs", tmp_path / "runs" / "sw"
    said = sweep(cluster, runs, tmp_path)
    assert said.startswith(f"4 of 4 tasks to run; {folder}/tasks.txt")
    wait_for_array(cluster, said)
    logs = [path.read_text() for path in folder.glob("slurm-*.log")]
    assert [sum(f"life 0, on {node}" in log for log in logs) for node in NODES] == [2, 2]
    *_, late, _, counts = table = (folder / "summary.txt").read_text().splitlines()
    assert [row.split()[0] for row in table[1:-1]] == list(TASKS)
    assert [row.split()[1] for row in table[1:-1]] == ["finished", "finished", "failed", "finished"]
    assert "late:Walk-v0 cannot be imported: No module named" in late, "it says why"
    assert counts == "4 runs: 1 failed, 3 finished"
    assert launch(cluster, "status", str(folder)) == "\n".join([*table, ""])

    before = {task: (folder / task / "results.json").stat().st_mtime_ns for task in TASKS if "late" not in task}
    (tmp_path / "late.py").write_text(WALK.read_text())
    said = sweep(cluster, runs, tmp_path)
    assert said.startswith("1 of 4 tasks to run; ")
    assert "#SBATCH --array=3\n" in (folder / "job.sbatch").read_text()
    wait_for_array(cluster, said)
    assert (folder / "summary.txt").read_text().splitlines()[-1] == "4 runs: 4 finished"
    assert before == {task: (folder / task / "results.json").stat().st_mtime_ns for task in before}
    assert sweep(cluster, runs, tmp_path).startswith("all 4 tasks are finished")
