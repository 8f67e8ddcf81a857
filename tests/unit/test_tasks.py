"""Several tasks in one run: unified spaces, tasks placed by shard, a network given its task, numbers per task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.build import build_envs, build_net, build_replay, inspect_env
from trainer.build.evaluation import play_episodes
from trainer.build.policy import build_policy
from trainer.cli import parse_train
from trainer.config import Config
from trainer.envs import EnvSpec, Padded, env_spec, join_specs, make_backend
from trainer.envs.padded import pad
from trainer.evaluate import by_task, quotas
from trainer.layout import Layout
from trainer.nets import ActionOutputs, CategoricalHead, TaskHead, ValueHead
from trainer.presets import PRESETS
from trainer.presets.minatar import minatar_dqn
from trainer.schedules import ladder
from trainer.types import Choice, Episode, Given, Rates

CPU = torch.device("cpu")
TOYS = ("toy/Catch", "toy/Chain")
F32, U8 = torch.float32, torch.uint8


def config(*arguments: str, tasks: tuple[str, ...] = TOYS, shards: int = 4) -> Config:
    return parse_train(["debug", "--env.tasks", *tasks, "--shards", str(shards), *arguments]).config


def spec(shape: tuple[int, ...], actions: int = 3, *, dtype: torch.dtype = F32, stack: int = 1) -> EnvSpec:
    return EnvSpec("toy", shape, dtype, actions, stack, "repeat", True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 5))
def test_zeros_stand_behind_the_observation(shape: list[int], rows: int, more: int) -> None:
    obs = torch.rand(rows, *shape) + 1
    wanted = (shape[0] + more, *shape[1:])
    padded = pad(obs, wanted)
    assert padded.shape == (rows, *wanted)
    assert torch.equal(padded[:, : shape[0]], obs)
    assert (padded[:, shape[0] :] == 0).all()


@pytest.mark.parametrize(
    ("shapes", "joined"),
    [
        (((50,), (8,)), (50,)),
        (((4, 10, 10), (6, 10, 10), (5, 10, 10)), (6, 10, 10)),
        (((3, 7), (3, 7)), (3, 7)),
    ],
)
def test_spaces_become_one(shapes: tuple[tuple[int, ...], ...], joined: tuple[int, ...]) -> None:
    parts = {str(i): spec(shape, i + 2) for i, shape in enumerate(shapes)}
    made = join_specs(parts)
    assert (made.obs_shape, made.num_actions, made.tasks) == (joined, len(shapes) + 1, tuple(parts.values()))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (spec((4, 10, 10)), ["(50,)", "(4, 10, 10)"]),
        (spec((50,), dtype=U8), ["float32", "uint8"]),
        (spec((2, 25)), ["(50,)", "(2, 25)"]),
    ],
)
def test_spaces_that_cannot_become_one_are_named(other: EnvSpec, named: list[str]) -> None:
    with pytest.raises(ValueError, match="one network cannot take both") as error:
        join_specs({"left": spec((50,)), "right": other})
    assert all(word in str(error.value) for word in ["left", "right", "--env.tasks", *named])


def test_stacks_of_frames_pass_unchanged_or_are_refused() -> None:
    stacked = spec((4, 84, 84), dtype=U8, stack=4)
    assert join_specs({"a": stacked, "b": stacked}).stack == 4
    for other in (replace(stacked, stack=1), replace(stacked, stack_pad="zero"), spec((4, 80, 84), dtype=U8, stack=4)):
        with pytest.raises(ValueError, match="one network cannot take both"):
            join_specs({"a": stacked, "b": other})


def test_all_save_their_state_or_none_does() -> None:
    joined = join_specs({"a": spec((5,)), "b": replace(spec((5,)), saves_state=False)})
    assert not joined.saves_state
    assert not Padded(make_backend("toy", "toy/Catch", 1, [0]), joined).saves_state


def test_actions_beyond_the_own_are_repetitions() -> None:
    """Chain has two actions of three: the third is its first, to the left, in every step of an episode."""
    joined = join_specs({task: env_spec("auto", task) for task in TOYS})
    assert joined.num_actions == 3
    said: list[list[torch.Tensor]] = []
    for third in (2, 0):
        env = Padded(make_backend("toy", "toy/Chain", 2, [0, 1]), joined)
        env.reset()
        steps = []
        for action in (1, 1, third, 1, third, 1):
            env.send(torch.tensor([action, 1]))
            steps += [field.clone() for field in env.recv()]
        said.append(steps)
    assert all(torch.equal(a, b) for a, b in zip(*said, strict=True))
    obs = said[0][0]
    assert obs.shape == (2, 50)
    assert (obs[:, 8:] == 0).all()


def test_final_obs_stays_the_same_tensor_where_nothing_was_reset() -> None:
    env = Padded(make_backend("toy", "toy/Chain", 2, [0, 1]), join_specs({t: env_spec("auto", t) for t in TOYS}))
    timestep = env.reset()
    assert timestep.final_obs is timestep.obs
    for _ in range(7):
        env.send(torch.tensor([1, 0]))
        timestep = env.recv()
    assert timestep.terminated.tolist() == [True, False]
    assert timestep.obs[0].argmax() == 0
    assert timestep.final_obs[0].argmax() == 7


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_shard_s_plays_task_s_modulo_their_number_on_any_number_of_ranks(ranks: int) -> None:
    made = config(shards=4)
    looked = inspect_env(made)
    obs, tasks = [], []
    for rank in range(ranks):
        layout = Layout(made, 4, ranks, rank)
        envs = build_envs(made, layout, looked, CPU)
        obs.append(envs.reset().obs)
        tasks += layout.tasks(layout.envs_per_shard) or []
        envs.close()
    assert tasks == [0, 0, 1, 1, 0, 0, 1, 1]
    is_chain = torch.cat(obs).sum(1) == 1  # one place; Catch shows a ball and a paddle
    assert is_chain.tolist() == [bool(task) for task in tasks]


def test_batches_draw_equally_from_every_task_and_say_which() -> None:
    made = config("--replay.batch_size", "32", shards=4)
    looked, layout = inspect_env(made), Layout(made, 4, 1, 0)
    envs = build_envs(made, layout, looked, CPU)
    net = build_net(made, looked, CPU)
    replay = build_replay(made, layout, looked, net, CPU, F32)
    policy, _ = build_policy(made, layout, looked, net, CPU)
    now = envs.reset()
    taken: set[int] = set()
    for step in range(1, 120):
        choice = policy.act(now, Rates(epsilon=1.0))
        taken |= set(choice.action[2:4].tolist())
        for batch in replay.batches(step):
            assert batch.task.bincount().tolist() == [16, 16]
            told = batch.obs.sum(1) == 1
            assert torch.equal(told.long(), batch.task)
        envs.send(choice.action)
        after = envs.recv()
        replay.add(now, choice, after)
        now = after
    assert taken == {0, 1}, "exploration takes the task's own actions"


def test_every_task_has_a_whole_epsilon_ladder() -> None:
    made = config("--policy.exploration", "ladder", shards=4)
    found = [e for rank in range(2) for e in Layout(made, 4, 2, rank).ladder() or []]
    whole = [ladder(i, 4, 0.4, 7.0) for i in range(4)]
    assert found == [*whole[:2], *whole[:2], *whole[2:], *whole[2:]]


def head_of_tasks(features: int = 6) -> TaskHead:
    torch.manual_seed(0)
    head = TaskHead([2, 4], features, ValueHead(ActionOutputs(features, 4, 1)))
    return head


def test_the_features_of_each_task_are_scaled_and_shifted() -> None:
    head, x, tasks = head_of_tasks(), torch.rand(5, 6), [0, 1, 1, 0, 1]
    with torch.no_grad():
        head.shift.normal_()
    twin = []
    for row, task in zip(x, tasks, strict=True):
        told = row * (1 + head.scale[task]) + head.shift[task]
        q = head.head(told[None], Given()).q[0]
        twin.append(q if task == 1 else q[[0, 1, 0, 1]])
    torch.testing.assert_close(head(x, Given(task=torch.tensor(tasks))).q, torch.stack(twin))
    assert (head.scale[0] != head.scale[1]).all(), "tasks differ from the beginning"


def test_actions_that_a_task_lacks_are_said_to_be_those_that_they_are() -> None:
    head = TaskHead([2, 3], 6, CategoricalHead(ActionOutputs(6, 3, 5), -1.0, 1.0))
    out = head(torch.rand(2, 6), Given(task=torch.tensor([0, 1])))
    assert out.logits is not None
    assert torch.equal(out.logits[0, 2], out.logits[0, 0])
    assert not torch.equal(out.logits[1, 2], out.logits[1, 0])
    assert out.q[0, 2] == out.q[0, 0]


def test_only_one_task_is_meant_where_none_is_given() -> None:
    head, x = head_of_tasks(), torch.rand(3, 6)
    with torch.no_grad():
        head.shift[1] = 1.0
    with pytest.raises(AssertionError, match="needs the task"):
        head(x, Given())
    head.only = 1
    assert torch.equal(head(x, Given()).q, head(x, Given(task=torch.ones(3, dtype=torch.int64))).q)


def test_gradients_of_a_task_reach_its_own_row_alone() -> None:
    head = head_of_tasks()
    head(torch.rand(3, 6), Given(task=torch.tensor([1, 1, 1]))).q.sum().backward()
    assert head.scale.grad is not None
    assert (head.scale.grad[0] == 0).all()
    assert (head.scale.grad[1] != 0).any()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_tasks_share_the_episodes_of_an_evaluation(episodes: int, tasks: int, times: int, per_shard: int) -> None:
    quota = quotas(episodes, tasks * times * per_shard, per_shard)
    assert sum(quota.values()) == episodes
    each = [sum(n for env, n in quota.items() if env // per_shard % tasks == task) for task in range(tasks)]
    assert max(each) - min(each) <= 1
    assert max(quota.values()) - min(quota.values()) <= 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_episodes_are_shared_out_by_task(ranks: int) -> None:
    made = config("--eval.episodes", "7", "--eval.num_envs", "4", shards=2)
    looked = inspect_env(made)
    net = build_net(made, looked, CPU)
    played: list[Episode] = []
    for rank in range(ranks):
        played += play_episodes(made, Layout(made, 2, ranks, rank), looked, net, CPU)
    parts = by_task(played, made.env.tasks, 2)
    assert {task: len(part) for task, part in parts.items()} == {"toy/Catch": 4, "toy/Chain": 3}
    assert {episode.length for episode in parts["toy/Catch"]} == {9}
    assert by_task(played, (), 2) == {}


def test_kwargs_are_by_task(tmp_path: Path) -> None:
    made = config("--env.kwargs", json.dumps({"toy/Chain": {"max_episode_steps": 3}}), shards=2)
    looked, layout = inspect_env(made), Layout(made, 2, 1, 0)
    envs = build_envs(made, layout, looked, CPU)
    envs.reset()
    for _ in range(3):
        envs.send(torch.zeros(8, dtype=torch.int64))
        timestep = envs.recv()
    assert timestep.truncated.tolist() == [False] * 4 + [True] * 4
    envs.close()


def test_minatar_tasks_are_padded_in_channels() -> None:
    pytest.importorskip("minatar")
    made = PRESETS["minatar-multitask"]()
    looked = inspect_env(made)
    assert looked.obs_shape == (10, 10, 10)
    assert [one.obs_shape[0] for one in looked.tasks] == [4, 4, 7, 10, 6]
    layout = Layout(made, 5, 5, 2)
    envs = build_envs(made, layout, looked, CPU, per_shard=2)
    obs = envs.reset().obs
    assert obs.shape == (2, 10, 10, 10)
    assert obs.dtype is torch.bool
    assert obs[:, :7].any()
    assert not obs[:, 7:].any()
    envs.close()


def test_the_preset_gives_each_game_what_it_has_alone() -> None:
    five, one = PRESETS["minatar-multitask"](), minatar_dqn()
    assert len(five.env.tasks) == five.shards == 5
    assert five.replay.batch_size / five.replay.update_every == one.replay.batch_size / one.replay.update_every
    same = ("net", "loss", "optim", "runtime", "sync")
    assert all(getattr(five, name) == getattr(one, name) for name in same)
    assert five.env.num_envs == 5 * one.env.num_envs
    assert five.total_env_steps == 5 * one.total_env_steps


def test_a_changed_list_of_tasks_is_refused_on_resume(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(shards=2).to_dict()))
    assert parse_train(["--resume", str(tmp_path)]).config.env.tasks == TOYS
    with pytest.raises(ValueError, match=r"--env\.tasks"):
        parse_train(["--resume", str(tmp_path), "--env.tasks", "toy/Chain", "toy/Catch"])


def test_metrics_of_tasks_sum_up_to_the_whole() -> None:
    tasks = ("a", "b", "c")
    played = [Episode(env, float(env), 2 * env) for env in [0, 1, 2, 3, 5, 7, 11, 11]]
    parts = by_task(played, tasks, 2)
    assert sum(len(part) for part in parts.values()) == len(played)
    whole = sum(len(part) * np.mean([e.ret for e in part]) for part in parts.values() if part) / len(played)
    assert whole == pytest.approx(np.mean([e.ret for e in played]))
    assert [e.env for e in parts["b"]] == [2, 3]


def test_rollouts_tell_the_task_to_the_network_and_in_batches() -> None:
    made = config("--replay.kind", "rollout", "--replay.rollout", "4", "--replay.batch_size", "8", shards=2)
    looked, layout = inspect_env(made), Layout(made, 2, 1, 0)
    net = build_net(made, looked, CPU)
    replay: Any = build_replay(made, layout, looked, net, CPU, F32)
    asked: list[torch.Tensor] = []
    values = replay.values

    def spy(obs: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
        assert torch.equal((obs.sum(1) == 1).long(), task)
        asked.append(task)
        result: torch.Tensor = values(obs, task)
        return result

    replay.values = spy
    envs = build_envs(made, layout, looked, CPU)
    now = envs.reset()
    seen = 0
    for step in range(1, 10):
        for batch in replay.batches(step):
            assert torch.equal((batch.obs.sum(1) == 1).long(), batch.task)
            assert batch.task.bincount().tolist() == [4, 4]
            seen += 1
        action = torch.zeros(8, dtype=torch.int64)
        envs.send(action)
        after = envs.recv()
        replay.add(now, Choice(action), after)
        now = after
    assert seen == 2 * 8
    assert asked
    envs.close()
