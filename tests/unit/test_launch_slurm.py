"""What `launch slurm`, `sweep` and `status` write and refuse; the cluster itself is not needed here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from launch import slurm, sweep
from launch.__main__ import main
from launch.bench import STRATEGIES
from launch.job import Job, doublings, seconds
from launch.slurm import read_site
from launch.status import RunState, placed, read, table
from launch.sweep import expand, point_name, spans

ROOT = Path(__file__).parents[2]


def dry(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([arguments[0], "--python", "python", "--dry-run", *arguments[1:]]) == 0
    return capsys.readouterr().out


def test_the_files_in_slurm_are_renderings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "SITE", ())
    assert dry(capsys, "slurm", "--", "cartpole") == (ROOT / "slurm" / "train.sbatch").read_text()
    said = dry(capsys, "sweep", "--grid", "seed=0..9", "--", "cartpole")
    assert said.partition("\n\n")[2] == (ROOT / "slurm" / "sweep.sbatch").read_text()
    assert dry(capsys, "bench", "--nodes", "4") == (ROOT / "slurm" / "bench.sbatch").read_text()


@pytest.mark.parametrize("name", ["train.sbatch", "sweep.sbatch", "bench.sbatch"])
def test_the_scripts_are_bash(name: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "slurm" / name)], check=True, timeout=20)


def test_options_reach_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    said = dry(
        capsys,
        *("slurm", "--nodes", "4", "--gpus-per-node", "8", "--partition", "gpu", "--container", "image.sqsh"),
        *("--signal", "SIGUSR1", "--warn", "300", "--name", "a b", "--", "atari", "--scale.world", "weak"),
    )
    for line in (
        "#SBATCH --nodes=4",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=32",
        "#SBATCH --partition=gpu",
        "#SBATCH --signal=B:USR1@300",
        "ranks_per_node=8",
        "run='runs/a b'",
        "arguments=(atari --scale.world weak)",
        "log='runs/a b/slurm.log'",
        '#SBATCH --output="runs/a b/slurm.log"',
        "trap 'warn USR1' USR1",
    ):
        assert line in said.splitlines()
    assert "--container-image=image.sqsh" in said


REFUSED = {
    "slurm --time 2 -- debug": "--time 2: not longer than the warning of 120 s",
    "slurm --time soon -- debug": "--time soon: not a time",
    "slurm --nodes 3 -- debug --shards 4": "--shards 4: cannot be divided among 3 node(s) x 1 rank(s); use a",
    "slurm --nodes 3 -- debug": "--env.num_envs 8: does not divide over 3 shards; use a multiple, e.g. 9",
    "slurm --nodes 4 --ranks-per-node 2 -- debug --replay.batch_size 60": "--replay.batch_size 60: does not divide",
    "slurm --nodes 2 -- debug --optim.lr -1": "--optim.lr -1.0: out of range",
    "slurm -- debugg": "preset debugg: unknown; did you mean debug?",
    "sweep --grid seed=0..9 replay.batch_size=64,63 --nodes 2 -- debug": "--replay.batch_size 63: does not divide",
    "sweep --grid shards=1,2,4 --nodes 2 -- debug": "--shards 1: cannot be divided among 2 ranks",
    "bench --gpus-per-node 2 --ranks-per-node 4": "--ranks-per-node 4: more ranks than the 2 GPU(s)",
    "bench --time soon": "--time soon: not a time",
    "bench --runs /proc/runs": "--runs /proc/runs: cannot write to /proc",
    "slurm --nodes 0 -- debug": "--nodes 0: not a number of at least 1",
    "slurm --gpus-per-node 2 --ranks-per-node 4 -- debug": "--ranks-per-node 4: more ranks than the 2 GPU(s)",
    "slurm --site nowhere.env -- debug": "--site nowhere.env: no such file",
    "slurm --runs /proc/runs -- debug": "--runs /proc/runs: cannot write to /proc",
    "slurm -- debug --resume x": "--resume: the batch script sets it",
    "slurm --partitoin x -- debug": "launch slurm --partitoin: no such option; did you mean --partition?",
    "slurm": "launch slurm: nothing to run",
    "sweep -- debug": "launch sweep: no --grid",
    "sweep --grid seed -- debug": "--grid seed: not field=values",
    "sweep --grid seed=1,1 -- debug": "--grid seed=1,1: an empty or duplicate value",
    "sweep --grid seed=1 seed=2 -- debug": "--grid seed=2: seed is given twice",
    "status nowhere": "launch status nowhere: no such folder",
    "slrum": "launch slrum: unknown; did you mean slurm?",
}


@pytest.mark.parametrize("command", REFUSED)
def test_mistakes_are_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"lockstep: {REFUSED[command]}")


def test_without_slurm_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", "--runs", str(tmp_path / "runs"), "--", "debug"]) == 2
    assert "sbatch is not on PATH" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_this_cluster_lacks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for tool, answer in {
        "sbatch": "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1",
        "scontrol": "echo PartitionName=cpu AllowGroups=ALL; echo PartitionName=gpu AllowGroups=ALL",
        "squeue": "",
    }.items():
        (tmp_path / tool).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    where = ("--runs", str(tmp_path / "runs"), "--name", "x")
    assert main(["slurm", "--partition", "gpux", *where, "--", "debug"]) == 2
    assert capsys.readouterr().err == "lockstep: --partition gpux: no such partition; did you mean gpu?\n"
    assert not (tmp_path / "runs").exists()
    assert main(["slurm", "--partition", "cpu,gpu", *where, "--", "debug"]) == 2
    said = f"sbatch refused {tmp_path}/runs/x/job.sbatch: sbatch: error: Batch job submission failed: Invalid account\n"
    assert capsys.readouterr().err == f"lockstep: {said}"


def test_a_run_that_is_there_keeps_its_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A resubmitted run continues: its own config says into how many shards it was divided."""
    where = ("--runs", str(tmp_path), "--name", "run")
    (tmp_path / "run").mkdir()
    from trainer.presets import PRESETS

    (tmp_path / "run" / "config.json").write_text(json.dumps(PRESETS["debug"]().to_dict() | {"shards": 4}))
    assert main(["slurm", "--dry-run", "--nodes", "4", *where, "--", "debug"]) == 0
    capsys.readouterr()
    assert main(["slurm", "--dry-run", "--nodes", "8", *where, "--", "debug"]) == 2
    assert capsys.readouterr().err.startswith("lockstep: --shards 4: cannot be divided among 8 ranks")


def test_a_login_node_without_the_trainer_leaves_the_question_to_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "--dry-run", "--python", "/nowhere/python", "--nodes", "3", "--", "debug"]) == 0
    assert '-m trainer check "${arguments[@]}" --ranks "$ranks"' in capsys.readouterr().out


def test_the_benchmark_doubles_its_nodes() -> None:
    assert [doublings(most) for most in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_the_benchmark_takes_what_its_job_says() -> None:
    scaling = pytest.importorskip("benchmarks.scaling")
    asked = scaling.parser().parse_args(["--ranks", "2", "--out", "runs/scaling", *STRATEGIES])
    assert (asked.ranks, asked.out, asked.strategies) == ([2], Path("runs/scaling"), ["ddp"])


def test_a_container_surrounds_everything() -> None:
    text = Job(container="a b.sqsh").train("x", "", "x.log")
    assert "srun_options=(--container-image='a b.sqsh' --container-mounts=\"$PWD:$PWD\")" in text.splitlines()


def test_time_limits() -> None:
    texts = {"90": 5_400, "2:30": 150, "8:00:00": 28_800, "1-12": 129_600, "1-0:30": 88_200, "1-00:00:05": 86_405}
    assert {text: seconds(text) for text in texts} == texts


def test_site_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada")
    found = read_site(ROOT / "slurm" / "cluster.env.example")
    assert found["partition"] == "gpu"
    assert found["runs"] == "/scratch/ada/runs"
    assert found["account"] == ""


def test_grid() -> None:
    points = expand(["seed=0..1", "env.id=A,B"])
    assert points == [{"seed": s, "env.id": e} for s in ("0", "1") for e in ("A", "B")]
    assert [point_name(point) for point in points][:2] == ["seed=0_id=A", "seed=0_id=B"]
    assert spans([1, 2, 3, 5, 7, 8]) == "1-3,5,7-8"


def finish(run: Path, state: str, **more: object) -> None:
    run.mkdir(parents=True)
    status = {"state": state, "env_steps": 50, "total_env_steps": 100, **more}
    (run / "status.json").write_text(json.dumps(status))


def test_a_sweep_leaves_finished_tasks_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path / "sw" / "seed=1", "finished")
    said = dry(capsys, "sweep", "--runs", str(tmp_path), "--name", "sw", "--grid", "seed=0..3", "--", "debug")
    assert "#SBATCH --array=1,3-4" in said.splitlines()
    assert sweep.TASKS in said


def test_status_reads_what_runs_leave(tmp_path: Path) -> None:
    finish(tmp_path / "good", "finished")
    (tmp_path / "good" / "results.json").write_text('{"evaluation": {"mean": 7.5}}')
    finish(tmp_path / "bad", "failed", cause="ValueError: no")
    finish(tmp_path / "gone", "running")
    (tmp_path / "gone" / "job").write_text("12_3\n")
    (tmp_path / "gone" / "metrics.jsonl").write_text(
        '{"global_step": 60, "charts/SPS": 2.0, "charts/episodic_return": 1.5}\n{"global_st'
    )
    good, bad, gone = (read(tmp_path / name) for name in ("good", "bad", "gone"))
    assert (good.state, good.evaluation) == ("finished", 7.5)
    assert (bad.state, bad.note) == ("failed", "ValueError: no")
    assert (gone.env_steps, gone.ret, gone.eta) == (60, 1.5, 20.0)
    assert placed(gone, {}).state == "lost"
    assert placed(gone, {"12_3": ("pending", "Priority")}).state == "pending"
    assert placed(gone, {"12_3": ("running", "node1")}).where == "node1"
    assert table([good, bad]).splitlines()[-1] == "2 runs: 1 failed, 1 finished"
    assert table([RunState("x", "new")]).splitlines()[1].split()[:2] == ["x", "new"]
