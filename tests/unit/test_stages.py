"""Where a network is cut, who owns what of a run whose replicas are spread over ranks, and what is refused."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from trainer.build import build_net, check_environment
from trainer.commands.plan import ask
from trainer.config import Config, ConfigError, EnvConfig, NetConfig, ReplayConfig, SyncConfig
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.nets import QNetwork, layers
from trainer.nets.stages import cut
from trainer.validate import validate

CPU = torch.device("cpu")


def largest(sizes: list[int], shares: list[range]) -> int:
    return max(sum(sizes[i] for i in share) for share in shares)


def test_shares_are_neighbours_and_the_largest_is_least() -> None:
    rng = random.Random(0)
    for _ in range(60):
        sizes = [rng.randint(1, 30) for _ in range(rng.randint(1, 8))]
        stages = rng.randint(1, len(sizes))
        shares = cut(sizes, stages)
        assert [i for share in shares for i in share] == list(range(len(sizes)))
        assert len(shares) == stages
        assert all(shares)
        others = itertools.combinations(range(1, len(sizes)), stages - 1)
        every = [list(itertools.starmap(range, itertools.pairwise((0, *ends, len(sizes))))) for ends in others]
        assert largest(sizes, shares) == min(largest(sizes, other) for other in every)


def test_a_hundred_layers_are_shared_out_soon() -> None:
    assert largest([1] * 100, cut([1] * 100, 8)) == 13


@pytest.mark.parametrize(("torso", "hidden", "count"), [("mlp", (9, 5), 3), ("nature", (16,), 5), ("impala", (8,), 11)])
def test_layers_are_the_network(torso: str, hidden: tuple[int, ...], count: int) -> None:
    shape = (6,) if torso == "mlp" else (3, 44, 44)
    config = Config(net=NetConfig(torso=torso, hidden=hidden, dueling=True, norm="layer"))  # type: ignore[arg-type]
    net = build_net(config, EnvSpec("toy", shape, torch.float32, 3, 1, "repeat", True), CPU)
    assert isinstance(net, QNetwork)
    groups = layers(net)
    assert len(groups) == count
    assert groups[-1] == [net.head]
    in_order = [parameter for group in groups for module in group for parameter in module.parameters()]
    assert [id(p) for p in in_order] == [id(p) for p in net.parameters()]
    obs = torch.randn(4, *shape)
    x = obs
    for module in (module for group in groups[:-1] for module in group):
        x = module(x)
    assert torch.equal(x, net.torso(obs))


def test_ranks_of_a_replica_own_the_same() -> None:
    config = Config(env=EnvConfig(num_envs=8), replay=ReplayConfig(batch_size=32))
    layouts = [Layout(config, 4, 4, rank, stages=2) for rank in range(4)]
    assert [list(layout.owned) for layout in layouts] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [layout.reports for layout in layouts] == [True, False, True, False]
    assert {(layout.replicas, layout.batch_per_rank, layout.envs_per_rank) for layout in layouts} == {(2, 16, 4)}


def test_refused() -> None:
    def refusal(config: Config, ranks: int) -> str:
        with pytest.raises(ConfigError) as told:
            validate(config, ranks)
        return str(told.value)

    odd = refusal(Config(sync=SyncConfig(stages=2)), 3)
    assert odd.startswith("--sync.stages 2: 3 rank(s) cannot be divided into replicas of 2; start a multiple of 2")
    assert refusal(Config(sync=SyncConfig(stages=0)), 1).startswith("--sync.stages 0: out of range")
    few = Config(net=NetConfig(hidden=(9, 5)), sync=SyncConfig(stages=4))
    with pytest.raises(
        ConfigError, match=r"--sync.stages 4: the network has 3 layer\(s\), the head counted as one; use 3"
    ):
        check_environment(few, EnvSpec("toy", (6,), torch.float32, 3, 1, "repeat", True))
    with pytest.raises(ConfigError, match=r"--sync.stages 2: the cluster model only supports one rank per replica"):
        ask(["debug", "--sync.stages", "2"])
