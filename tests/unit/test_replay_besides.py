"""What batches carry besides a transition: the next action, the heads that learn from it, its task."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch
from replay_twin import FRAME, FakeEnvs, NaiveReplay, Player
from torch import Tensor

from trainer.build import build_replay, check_memory
from trainer.config import Config, EnvConfig, LossConfig, NetConfig, ReplayConfig
from trainer.envs import EnvSpec
from trainer.layout import Layout
from trainer.replay import Frames, HeadMask, PrioritizedSampler, ReplayMemory, Ring, SumTree, UniformSampler
from trainer.runtime.launched import Launch

CPU = torch.device("cpu")


def make(lanes: int, rows: int, n: int, *, next_action: bool, task: Tensor | None = None) -> ReplayMemory:
    ring = Ring(rows, lanes, FRAME, torch.float32, horizon=n + next_action, stack=1, device=CPU)
    return ReplayMemory(
        ring,
        Frames(FRAME, 1, "repeat"),
        UniformSampler(ring, {0: torch.Generator().manual_seed(0)}),
        updates=lambda step: 1,
        batch_size=6,
        gamma=0.75,
        clip_reward=False,
        dtype=torch.float64,
        device=CPU,
        next_action=next_action,
        task=task,
    )


# --- SARSA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize("n", [1, 3])
def test_next_action_is_what_was_done_behind_the_window(mode: str, n: int) -> None:
    memory = make(3, n + 19, n, next_action=True)
    waits, folds = (NaiveReplay(3, horizon, 0.75, memory.ring.rows, 1) for horizon in (n + 1, n))
    player, seen = Player(FakeEnvs(3, mode, 1, "repeat", seed=n)), [0, 0]
    for step in range(110):
        player.play(1, memory, waits, folds)
        if step % 40 == 39:
            player.restart(memory, waits, folds)
        pairs = [(lane, k) for lane in range(3) for k in waits.alive(lane)]
        if not pairs:
            continue
        lanes, numbers = torch.tensor(pairs).T
        batch = memory.fetch(memory.ring.locate(numbers, lanes))
        assert batch.next_action is not None
        expected = [folds.fold(lane, k) for lane, k in pairs]
        assert batch.ret.tolist() == [e[0] for e in expected if e]
        assert batch.discount.tolist() == [e[1] for e in expected if e]
        for (lane, k), action, discount in zip(pairs, batch.next_action.tolist(), batch.discount.tolist(), strict=True):
            if discount == 0:
                continue  # nothing is worth anything there
            kept = folds.kept[lane]
            last = next((i for i in range(k, k + n) if kept[i].stop), k + n - 1)
            cut = kept[last].done
            assert action == (-1 if cut else kept[last + 1].action)
            seen[cut] += 1
    assert min(seen) > 100, "both cases"


def test_without_sarsa_nothing_waits_longer() -> None:
    plain, sarsa = make(1, 20, 1, next_action=False), make(1, 20, 1, next_action=True)
    Player(FakeEnvs(1, "same_step", 1, "repeat", 0, ends=0)).play(5, plain, sarsa)
    assert [int(m.ring.mature) for m in (plain, sarsa)] == [5, 4]
    assert plain.fetch(torch.tensor([0])).next_action is None


# --- which heads learn ------------------------------------------------------------------------------------------------


def murmur(key: int) -> int:
    """The finaliser of MurmurHash3 on Python's integers."""
    key &= 2**32 - 1
    key = ((key ^ (key >> 16)) * 0x85EBCA6B) % 2**32
    key = ((key ^ (key >> 13)) * 0xC2B2AE35) % 2**32
    return key ^ (key >> 16)


def test_head_mask_equals_its_definition() -> None:
    assert murmur(1) == 0x514E28B7
    seed, p = 2**32 - 5, 0.3
    mask = HeadMask(seed, 3, p, first_lane=6, lanes=2, device=CPU)
    index = torch.arange(40)
    expected = [
        [murmur(murmur(murmur(head + murmur(seed)) + 6 + i % 2) + i // 2) < p * 2**32 for head in range(3)]
        for i in range(40)
    ]
    assert mask(index).tolist() == expected


def test_head_mask_does_not_depend_on_the_number_of_ranks() -> None:
    whole = HeadMask(7, 5, 0.5, first_lane=0, lanes=6, device=CPU)(torch.arange(6 * 50)).view(50, 6, 5)
    for rank in range(3):
        part = HeadMask(7, 5, 0.5, first_lane=2 * rank, lanes=2, device=CPU)(torch.arange(2 * 50)).view(50, 2, 5)
        assert torch.equal(part, whole[:, 2 * rank : 2 * rank + 2])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_head_mask_is_on_with_its_probability_and_looks_independent(p: float) -> None:
    rows, lanes, heads = 500, 8, 10
    one, other = (
        HeadMask(seed, heads, p, first_lane=0, lanes=lanes, device=CPU)(torch.arange(rows * lanes))
        .view(rows, lanes, heads)
        .double()
        for seed in (1, 2)
    )
    pairs = {
        "seeds": (one, other),
        "rows": (one[1:], one[:-1]),
        "lanes": (one[:, 1:], one[:, :-1]),
        "heads": (one[..., 1:], one[..., :-1]),
    }
    for name, (a, b) in pairs.items():
        spread = p * (1 - p)
        assert abs(float(a.mean()) - p) < 4 * sqrt(spread / a.numel()), name
        assert abs(float(((a - p) * (b - p)).mean())) < 4 * spread / sqrt(a.numel()), name
    assert float((one.mean((0, 1)) - p).abs().max()) < 5 * sqrt(p * (1 - p) / (rows * lanes)), "every head"


# --- tasks, and what build makes of a config -------------------------------------------------------------------------


def test_task_is_that_of_the_lane() -> None:
    memory = make(4, 20, 1, next_action=False, task=torch.tensor([1, 1, 0, 0]))
    Player(FakeEnvs(4, "same_step", 1, "repeat", 0)).play(10, memory)
    (batch,) = memory.batches(1)
    assert batch.task is not None
    assert batch.task.tolist() == [(1, 1, 0, 0)[i % 4] for i in batch.index.tolist()]


SPEC = EnvSpec("sync", FRAME, torch.float32, 5, 1, "repeat", False)
CONFIG = Config(
    env=EnvConfig(num_envs=8),
    replay=ReplayConfig(capacity=800, batch_size=8, n_step=2, learning_starts=100, alpha=0.7),
)


def built(config: Config, layout: Layout) -> ReplayMemory:
    memory = build_replay(config, layout, SPEC, torch.nn.Identity(), CPU, torch.float32)
    assert isinstance(memory, ReplayMemory)
    return memory


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
def test_build(kind: str) -> None:
    config = replace(
        CONFIG,
        replay=replace(CONFIG.replay, kind=kind),  # type: ignore[arg-type]
        net=NetConfig(ensemble=4),
        loss=LossConfig(bootstrap_mask=0.5),
    )
    memory = built(config, Layout(config, 4, 2, 1))
    Player(FakeEnvs(4, "same_step", 1, "repeat", 0)).play(30, memory)
    batch = memory.fetch(memory.sampler.index(memory.sampler.draw(1, 4))[0])
    assert batch.next_action is None
    assert torch.equal(
        batch.mask,
        HeadMask(config.seed, 4, 0.5, first_lane=4, lanes=4, device=CPU)(batch.index),  # type: ignore[arg-type]
    )
    if kind == "uniform":
        assert batch.probability is None
        return
    sampler = memory.sampler
    assert isinstance(sampler, PrioritizedSampler)
    assert (sampler.alpha, sampler.shards, list(sampler.generators)) == (0.7, 4, [2, 3])
    assert batch.probability is not None


def test_build_leaves_away_what_nobody_asked_for() -> None:
    memory = built(CONFIG, Layout(CONFIG, 1, 1, 0))
    Player(FakeEnvs(8, "same_step", 1, "repeat", 0)).play(30, memory)
    (batch,) = [memory.fetch(memory.sampler.index(memory.sampler.draw(1, 8))[0])]
    assert (batch.probability, batch.next_action, batch.mask, batch.task, batch.expert) == (None,) * 5
    assert memory.ring.horizon == 2


def test_build_lets_sarsa_wait_for_the_next_action() -> None:
    config = replace(CONFIG, loss=LossConfig(target="sarsa"))
    memory = built(config, Layout(config, 1, 1, 0))
    Player(FakeEnvs(8, "same_step", 1, "repeat", 0)).play(30, memory)
    assert memory.ring.horizon == 3
    assert memory.fetch(memory.sampler.index(memory.sampler.draw(1, 8))[0]).next_action is not None


def test_the_tree_is_counted() -> None:
    config = replace(CONFIG, replay=replace(CONFIG.replay, kind="prioritized", capacity=10**6))
    layout = Layout(config, 2, 1, 0)
    texts = [
        check_memory(c, layout, SPEC, CPU, Launch(0, 0, 1, 1, False))
        for c in (replace(config, replay=replace(config.replay, kind="uniform")), config)
    ]
    rows = layout.rows_per_lane(1)
    row = Ring.row_bytes(FRAME, torch.float32)
    for text, size in zip(texts, (rows * 8 * row, rows * 8 * row + 2 * SumTree.shard_bytes(rows * 4)), strict=True):
        assert f"{size / 1e6:.0f}" in text or f"{size / 2**20:.0f}" in text, text
    assert texts[0] != texts[1]
