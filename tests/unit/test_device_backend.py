"""Games written in PyTorch as a run's environments: a graph per step, no host reads, a stream per shard, resumed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from host_reads import NoHostReads
from running import build, close, go, resumed
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from trainer.build.inductor import compile_step
from trainer.envs import ShardedEnvs, make_backend, sharded
from trainer.envs.device import IDS
from trainer.envs.device.games import CONTROL
from trainer.runtime.ranks import Ranks
from trainer.types import Timestep

CPU = torch.device("cpu")


def example(env_id: str, n: int = 3) -> tuple[Any, list[Tensor]]:
    """Return the step of an environment and arguments for it."""
    backend: Any = make_backend("torch", env_id, n, [0] * n)
    backend.reset()
    return backend.step, list(backend.example())


def onward(function: Any, given: list[Tensor], steps: int) -> list[list[Tensor]]:
    """Return what successive steps give for actions and draws that are always the same."""
    g, out = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        said = list(function(*given))
        out.append([tensor.clone() for tensor in said])
        action = torch.randint(len(given[1]), given[0].shape, generator=g)
        given = [action, given[1], torch.rand(given[2].shape, generator=g), *said[5:]]
    return out


ONE_VERSION = [env_id for env_id in IDS if not env_id.endswith("-v1") or env_id == "Acrobot-v1"]


@pytest.mark.parametrize("env_id", ONE_VERSION)
def test_a_step_is_one_graph_and_reads_nothing(env_id: str) -> None:
    step, given = example(env_id)
    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)
    with NoHostReads():
        eager = onward(step, given, 3)
    for ours, graphs in zip(eager, onward(graph, given, 3), strict=True):
        for a, b in zip(ours, graphs, strict=True):
            assert torch.equal(a, b)
    for a, b in zip(eager[0][5:], given[3:], strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), "a graph is made for such tensors"


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("env_id", ONE_VERSION)
def test_compiled_it_says_the_same(env_id: str) -> None:
    step, given = example(env_id, n=16)
    compiled = compile_step(step, given)
    exact = env_id not in CONTROL
    for ours, theirs in zip(onward(step, given, 150), onward(compiled, given, 150), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0 if exact else 1e-6)


def shard(number: int, env_id: str = "MinAtar/Seaquest-v1", n: int = 4) -> Any:
    return make_backend("torch", env_id, n, [100 * number + i for i in range(n)], kwargs={"max_episode_steps": 40})


def test_shards_do_not_depend_on_their_neighbours() -> None:
    """Two shards on one rank are the same two on two ranks; and episodes are counted whenever they are asked for."""
    ranks = [ShardedEnvs({s: shard(s) for s in own}, CPU, {s: 4 * s for s in own}) for own in ((0, 1), (0,), (1,))]
    together, *apart = ranks
    for envs in ranks:
        envs.reset()
    g, played = torch.Generator().manual_seed(0), []
    for t in range(130):
        action = torch.randint(6, (4,), generator=g).repeat(2)
        for envs, part in zip(ranks, (action, *action.split(4)), strict=True):
            envs.send(part)
        whole, *said = [envs.recv() for envs in ranks]
        for name, x, *parts in zip(Timestep._fields, whole, *said, strict=True):
            assert torch.equal(x, torch.cat(parts)), name
        if t % 50 == 0:
            played += together.episodes()
    assert not torch.equal(*whole.obs.split(4)), "each has a stream of its own"
    played += together.episodes()
    parts = [episode for envs in apart for episode in envs.episodes()]
    assert sorted(played) == sorted(parts)
    assert {episode.length for episode in played} >= {40}
    assert {episode.env for episode in played} == set(range(8))


def test_episodes_are_counted_though_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "UNCOUNTED", 7)
    envs = ShardedEnvs({0: shard(0, "CartPole-v1")}, CPU, {0: 0})
    expected, ret, length = [], torch.zeros(4), torch.zeros(4)
    envs.reset()
    for t in range(100):
        envs.send(torch.full((4,), t % 2))
        timestep = envs.recv()
        ret, length = ret + timestep.reward, length + 1
        ended = timestep.terminated | timestep.truncated
        expected += [(i, ret[i].item(), int(length[i])) for i in range(4) if ended[i]]
        ret, length = ret * ~ended, length * ~ended
        assert len(envs._statistics[0]._uncounted) < 7
    assert [tuple(episode) for episode in envs.episodes()] == expected
    assert expected


def test_it_needs_no_minatar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minatar", None)
    assert make_backend("torch", "MinAtar/Breakout-v1", 1, [0]).num_actions == 3
    assert make_backend("torch", "MinAtar/Breakout-v1", 1, [0], full_action_space=True).num_actions == 6


RUN = ("debug", "--env.backend", "torch", "--env.num_envs", "8", "--shards", "2", "--eval.num_envs", "2")


@pytest.mark.parametrize("env_id", ["MinAtar/Breakout-v1", "CartPole-v1"])
def test_a_run_goes_on_bit_for_bit(env_id: str, alone: Ranks, tmp_path: Path) -> None:
    arguments = (*RUN, "--env.id", env_id, "--eval.episodes", "2")
    whole = go(build(arguments, tmp_path / "whole", alone), 120)
    first = go(build(arguments, tmp_path / "half", alone), 90)
    close(first)
    second = go(resumed(build(arguments, tmp_path / "half", alone), tmp_path / "half"), 30)
    assert whole.learner.updates == second.learner.updates > 0
    for name, value in whole.weights["net"].state_dict().items():
        assert torch.equal(value, second.weights["net"].state_dict()[name]), name
    for x, y in zip(whole.timestep, second.timestep, strict=True):
        assert torch.equal(x, y)
    assert len(whole.evaluator()) == 2
    close(whole, second)


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_a_compiled_run_says_what_an_eager_one_does(alone: Ranks, tmp_path: Path) -> None:
    """Boards, whose numbers are integers; two shards share one graph."""
    arguments = (*RUN, "--env.id", "MinAtar/Asterix-v1", "--replay.learning_starts", "9000", "--env.num_envs", "8")
    plain = go(build(arguments, tmp_path / "plain", alone), 100)
    graph = go(build((*arguments, "--runtime.compile", "True"), tmp_path / "graph", alone), 100)
    backends: Any = graph.envs._backends  # type: ignore[attr-defined]
    assert backends[0].step is backends[1].step
    for x, y in zip(plain.timestep, graph.timestep, strict=True):
        assert torch.equal(x, y)
    close(plain, graph)
