"""Learning from others is faster than from scratch, and interrupted pretraining resumes where it stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import build, close, go, resumed
from teachers import fill, make_library

from trainer.__main__ import EXIT_BAD_INPUT, main
from trainer.build import inspect_env
from trainer.build.demos import write_demos
from trainer.build.teacher import check_teachers, load_teachers
from trainer.build.trained import find_checkpoint, load_net, read_run
from trainer.commands import train as train_command
from trainer.commands.common import write_json
from trainer.commands.demos import record_episodes
from trainer.envs import CATCH_OPTIMAL_RETURN, CHAIN_OPTIMAL_RETURN, ShardedEnvs, make_backend
from trainer.run import Run
from trainer.runtime.ranks import Ranks
from trainer.types import Choice, Rates, State, Timestep


@pytest.fixture(scope="module")
def library(alone: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_library(tmp_path_factory.mktemp("library"), alone, ["toy/Catch"])


def mean_return(arguments: tuple[str, ...], folder: Path, ranks: Ranks) -> float:
    run = go(build(arguments, folder, ranks))
    mean = run.evaluate().mean
    close(run)
    return mean


@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_student_is_faster_than_who_learns_from_scratch(
    seed: str, library: Path, alone: Ranks, tmp_path: Path
) -> None:
    """After 300 steps the student has its teacher's return; the other is far from it."""
    budget = ("debug", "--total_env_steps", "2400", "--seed", seed)
    student = fill((*budget, "--teacher.runs", "{run}"), library)
    assert mean_return(student, tmp_path / "student", alone) == CATCH_OPTIMAL_RETURN
    assert mean_return(budget, tmp_path / "scratch", alone) < 0.7


class Right:
    """The optimal policy of the Chain, as a person would show it."""

    def act(self, timestep: Timestep, rates: Rates) -> Choice:
        return Choice(torch.ones(len(timestep.reward), dtype=torch.int64))

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


def test_two_episodes_show_what_exploration_does_not_find(alone: Ranks, tmp_path: Path) -> None:
    """A chain of 20 states: 19 times to the right, which random actions do once in 2^19 attempts."""
    kwargs = {"length": 20}
    envs = ShardedEnvs({0: make_backend("toy", "toy/Chain", 1, [1], kwargs=kwargs)}, torch.device("cpu"), {0: 0})
    write_demos(tmp_path / "demos", record_episodes(envs, Right(), [2], 0.0, 1000), {"num_actions": "2"})
    chain = ("debug", "--env.id", "toy/Chain", "--env.kwargs", '{"length": 20}', "--total_env_steps", "1600")
    shown = (*chain, "--demos.path", str(tmp_path / "demos"), "--demos.pretrain", "200")
    assert mean_return(shown, tmp_path / "shown", alone) == CHAIN_OPTIMAL_RETURN
    longer = (*chain, "--total_env_steps", "4000")
    assert mean_return(longer, tmp_path / "alone", alone) < 0.1


@pytest.mark.parametrize(
    "student",
    [
        "--net.head c51 --net.v_min -2 --net.v_max 2 --replay.kind prioritized",
        "--net.head qr --net.quantiles 8 --net.dueling True",
        "--net.head iqn --loss.munchausen True --loss.fractions 8 --loss.target_fractions 8",
        "--net.noisy True",
        "--net.ensemble 3 --loss.bootstrap_mask 0.5",
        "--replay.kind rollout --replay.rollout 16",
    ],
)
def test_every_kind_of_student_learns_from_both(student: str, library: Path, alone: Ranks, tmp_path: Path) -> None:
    """The teacher acts alone here, so that the returns are its own as well."""
    taught = "--teacher.runs {run} --teacher.act 1" + (
        "" if "rollout" in student else " --demos.path {demos} --demos.pretrain 3"
    )
    arguments = f"debug --total_env_steps 1000 --eval.episodes 0 --log.every 1000 {taught} {student}"
    close(go(build(fill(arguments.split(), library), tmp_path, alone)))
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["losses/distillation"] > 0
    assert row["charts/episodic_return"] == CATCH_OPTIMAL_RETURN
    assert ("losses/margin" in row) == ("rollout" not in student)
    assert row.get("losses/margin", 1) > 0


def test_each_task_has_its_own_teacher(library: Path, alone: Ranks, tmp_path: Path) -> None:
    """Catch shows 50 numbers and takes 3 actions, the Chain 8 and 2: padded, and its action 2 is its action 0."""
    chain = go(
        build(("debug", "--env.id", "toy/Chain", "--shards", "1"), tmp_path / "chain", alone), 1
    )  # knows nothing
    write_json(tmp_path / "chain" / "config.json", chain.config.to_dict())
    runs = [library / "toy-Catch", tmp_path / "chain"]
    arguments = ("debug", "--env.tasks", "toy/Catch", "toy/Chain", "--shards", "2", "--runtime.dtype", "float64")
    run = build((*arguments, "--teacher.runs", *map(str, runs), "--teacher.temperature", "1"), tmp_path, alone)
    spec = inspect_env(run.config)
    check_teachers(run.config, spec)
    teacher = load_teachers(run.config, spec, alone)
    assert teacher is not None
    obs, task = torch.rand(6, 50), torch.tensor([0, 1, 1, 0, 0, 1])
    policy = teacher(obs, task)
    nets = [load_net(read_run(r), own, find_checkpoint(r, None), alone.device).double()
            for r, own in zip(runs, spec.tasks, strict=True)]  # fmt: skip
    expected = torch.where(
        task[:, None] == 0, nets[0](obs).q.softmax(1), nets[1](obs[:, :8]).q[:, [0, 1, 0]].softmax(1)
    )
    torch.testing.assert_close(policy, expected, rtol=1e-12, atol=1e-12)
    assert not policy.requires_grad
    go(run, 80)
    assert run.learner.updates > 0
    close(run, chain)


# --- bad input ------------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], Any]
FOREIGN: dict[str, tuple[Change, str]] = {
    "recurrent": (lambda c: c["net"].update(lstm=8), "its network is recurrent"),
    "several tasks": (lambda c: c["env"].update(tasks=["toy/Catch", "toy/Chain"]), "it was trained on several tasks"),
    "no checkpoint": (lambda c: None, "it holds no checkpoint yet; train until it has saved one"),
    "other observations": (
        lambda c: c["env"].update(kwargs='{"image": true}'),
        "trained on toy/Catch (uint8 observations (1, 12, 7) and 3 actions), but toy/Catch has float32 observations"
        " (50,) and 3 actions; name runs of toy/Catch",
    ),
    "an unknown env": (lambda c: c["env"].update(id="toy/Cach"), "did you mean toy/Catch"),
}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run `lockstep train debug ...` and return its one line; fails if it gets to a process group."""

    def refusal(*arguments: str) -> str:
        monkeypatch.setattr(train_command, "process_group", lambda *_: pytest.fail("the input was accepted"))
        assert main(["train", "debug", "--log.dir", str(tmp_path / "runs"), *arguments]) == EXIT_BAD_INPUT
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert not (tmp_path / "runs").exists()
        return err

    return refusal


@pytest.mark.parametrize("case", FOREIGN)
def test_a_teacher_that_does_not_fit(case: str, library: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    change, words = FOREIGN[case]
    config = json.loads((library / "toy-Catch" / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = refused("--teacher.runs", str(tmp_path))
    assert words in said
    assert said.startswith(f"lockstep: --teacher.runs {tmp_path}: ") or case == "an unknown env"


def test_others_of_another_environment(library: Path, refused: Callable[..., str]) -> None:
    run, demos = fill(("{run}", "{demos}"), library)
    said = refused("--env.id", "toy/Chain", "--teacher.runs", run)
    assert "trained on toy/Catch (float32 observations (50,) and 3 actions), but toy/Chain has float32" in said
    said = refused("--env.id", "toy/Chain", "--demos.path", demos)
    assert f"--demos.path {demos}: its observations are float32 (50,), those of toy/Chain float32 (8,)" in said
    assert "--teacher.runs nowhere: no config.json found there" in refused("--teacher.runs", "nowhere")
    assert "--demos.path nowhere: no such file" in refused("--demos.path", "nowhere")


# --- pretraining ------------------------------------------------------------------------------------------------------

PRETRAIN = ("debug", "--shards", "2", "--eval.episodes", "0", "--demos.path", "{demos}", "--demos.pretrain", "60")


def pupil(library: Path, folder: Path, ranks: Ranks, *more: str) -> Run:
    return build(fill((*PRETRAIN, "--runtime.poll_every", "200", *more), library), folder, ranks)


def test_pretraining_comes_once_and_is_counted(library: Path, alone: Ranks, tmp_path: Path) -> None:
    run = pupil(library, tmp_path, alone)
    fresh = [value.clone() for value in run.weights["net"].state_dict().values()]
    assert run.pretrain() is False
    assert (run.step, run.learner.updates) == (0, 60)
    assert not any(map(torch.equal, fresh, run.weights["net"].state_dict().values()))
    target, net = (run.weights[name].state_dict() for name in ("target_net", "net"))
    assert not any(map(torch.equal, fresh, target.values())), "targets are refreshed, every 400 / 8 updates"
    assert not all(map(torch.equal, net.values(), target.values()))
    assert run.pretrain() is False
    assert run.learner.updates == 60
    go(run, 70)
    assert run.learner.updates == 60 + sum(run.layout.updates(step) for step in range(1, 71))
    again = resumed(pupil(library, tmp_path, alone), tmp_path)
    updates = again.learner.updates
    assert again.pretrain() is False
    assert again.learner.updates == updates
    close(run, again)


def test_pretraining_that_is_stopped_goes_on_where_it_stood(library: Path, alone: Ranks, tmp_path: Path) -> None:
    whole = go(pupil(library, tmp_path / "whole", alone), 80)
    first = pupil(library, tmp_path / "parts", alone)
    signal_after(first, 30)
    go(first, 80)
    assert first.stopped_by is not None
    assert (first.step, first.learner.updates) == (0, 50)  # a poll comes every 200 / 8 updates
    second = go(resumed(pupil(library, tmp_path / "parts", alone), tmp_path / "parts"), 80)
    assert second.learner.updates == whole.learner.updates
    for name in ("net", "target_net"):
        expected, found = (run.weights[name].state_dict() for run in (whole, second))
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    close(whole, first, second)


class Flag:
    """A stop request as a signal would make it."""

    signal: str | None = None


def signal_after(run: Run, updates: int) -> None:
    """Request a stop during pretraining."""
    lesson, flag = run.lesson, Flag()
    run.stop = flag
    assert lesson is not None

    def counted():  # type: ignore[no-untyped-def]
        if run.learner.updates >= updates:
            flag.signal = signal.Signals.SIGTERM.name
        return lesson()

    run.lesson = counted
