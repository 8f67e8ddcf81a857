"""Prioritized sampling over the ring: who is alive, how often it is drawn, and which priority goes where."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import pytest
import torch
from replay_twin import FRAME, FakeEnvs, NaiveReplay, Player
from torch import Tensor

from trainer.replay import Frames, PrioritizedSampler, ReplayMemory, Ring
from trainer.replay.prioritized import EPS
from trainer.types import Choice, Timestep, UpdateOut

CPU = torch.device("cpu")
ALPHA = 0.6


def make(
    lanes: int = 4,
    rows: int = 24,
    *,
    horizon: int = 1,
    stack: int = 1,
    seeds: Mapping[int, int] | None = None,
    of: int = 2,
    batch: int = 8,
    updates: int = 1,
    alpha: float = ALPHA,
) -> ReplayMemory:
    """A prioritized memory; seeds maps shard numbers to seeds, of: shards of the whole run."""
    frames = Frames((stack, *FRAME) if stack > 1 else FRAME, stack, "repeat")
    ring = Ring(rows, lanes, frames.frame_shape, torch.float32, horizon=horizon, stack=stack, device=CPU)
    streams = {shard: torch.Generator().manual_seed(seed) for shard, seed in (seeds or {0: 1, 1: 2}).items()}
    return ReplayMemory(
        ring,
        frames,
        PrioritizedSampler(ring, streams, shards=of, alpha=alpha),
        updates=lambda step: updates,
        batch_size=batch,
        gamma=0.75,
        clip_reward=False,
        dtype=torch.float64,
        device=CPU,
    )


def sampler_of(memory: ReplayMemory) -> PrioritizedSampler:
    assert isinstance(memory.sampler, PrioritizedSampler)
    return memory.sampler


def told(error: Tensor) -> UpdateOut:
    return UpdateOut(priority=error, highest=error.max())


def priorities(memory: ReplayMemory) -> Tensor:
    """p of every row, by flat ring index, [T * N]."""
    tree, per = sampler_of(memory).tree, memory.sampler.lanes_per_shard
    rows = memory.ring.rows
    shards = [leaves[: rows * per].view(rows, per) for leaves in tree.leaves]
    assert all(bool((leaves[rows * per :] == 0).all()) for leaves in tree.leaves)
    return torch.cat(shards, 1).flatten()


def alive_rows(naive: NaiveReplay) -> list[int]:
    """Flat ring indices of all that may be drawn."""
    n = naive.lanes
    return sorted(naive.kept[lane][k].row % naive.rows * n + lane for lane in range(n) for k in naive.alive(lane))


def random_errors(memory: ReplayMemory, seed: int = 0) -> Tensor:
    """Give every living transition its own TD error; return its p by flat ring index."""
    index = priorities(memory).nonzero().squeeze(1)
    error = torch.rand(len(index), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4 * 5
    memory.reprioritize(index, told(error))
    expected = torch.zeros(memory.ring.blank, dtype=torch.float64)
    expected[index] = (error + EPS) ** ALPHA
    torch.testing.assert_close(priorities(memory), expected, rtol=1e-14, atol=0)
    return expected


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
@pytest.mark.parametrize(("horizon", "stack", "ends"), [(1, 1, 0.12), (3, 1, 0.4), (5, 2, 0.12), (4, 4, 0.02)])
def test_whoever_is_alive_has_a_priority_and_nobody_else(mode: str, horizon: int, stack: int, ends: float) -> None:
    """Across the wrap, with random episodes, cuts, and priorities that come back."""
    memory = make(rows=horizon + stack + 14, horizon=horizon, stack=stack)
    naive = NaiveReplay(4, horizon, 0.75, memory.ring.rows, stack)
    player = Player(FakeEnvs(4, mode, stack, "repeat", seed=horizon, ends=ends))
    rng = torch.Generator().manual_seed(3)
    for step in range(120):
        before = priorities(memory)
        player.play(1, memory, naive)
        if step % 37 == 36:
            player.restart(memory, naive)
        now, alive = priorities(memory), alive_rows(naive)
        assert now.nonzero().squeeze(1).tolist() == alive
        fresh = (float(sampler_of(memory).highest) + EPS) ** ALPHA
        assert set(now[(before == 0) & (now > 0)].tolist()) <= {fresh}, "new ones enter at the highest so far"
        if len(alive) < 12:
            continue
        index = memory.sampler.index(memory.sampler.draw(1, 64))[0]
        assert set(index.tolist()) <= set(alive)
        memory.reprioritize(index[:8], told(torch.rand(8, generator=rng) * step / 20))
    assert all(cursor > 3 * memory.ring.rows for cursor in naive.cursor)
    assert float(sampler_of(memory).highest) > 2


def test_sampling_follows_the_priorities_equally_over_shards() -> None:
    memory = make(4, 40, horizon=3, batch=200)
    Player(FakeEnvs(4, "next_step", 1, "repeat", 7, ends=0.3)).play(75, memory)
    p = random_errors(memory)
    drawn = memory.sampler.index(memory.sampler.draw(400, 200))
    assert drawn.shape == (400, 200)
    lane = drawn % 4
    assert bool((lane[:, :100] < 2).all() and (lane[:, 100:] >= 2).all()), "100 of each shard, in the shards' order"
    counts = torch.bincount(drawn.flatten(), minlength=len(p)).double()
    for part in (slice(0, 2), slice(2, 4)):
        mine, share = counts.view(-1, 4)[:, part].flatten(), p.view(-1, 4)[:, part].flatten()
        expected = 40_000 * share / share.sum()
        often = expected > 5
        chi = float(((mine - expected) ** 2 / expected)[often].sum())
        assert chi < int(often.sum()) + 4 * math.sqrt(2 * int(often.sum())), "stratified: rather less than chi-square"
        assert float(mine[~often].sum()) < expected[~often].sum() + 4 * expected[~often].sum().sqrt() + 1
        uniform = 40_000 / int((share > 0).sum())
        flat = float(((mine - uniform) ** 2 / uniform)[share > 0].sum())
        assert flat > 100 * len(share), "priorities matter"


def test_draws_are_stratified() -> None:
    """One draw from each of equal parts of the sum: how often one is drawn differs from its share by less than two."""
    memory = make(4, 40, batch=128)
    Player(FakeEnvs(4, "same_step", 1, "repeat", 8)).play(60, memory)
    p = random_errors(memory)
    for drawn in memory.sampler.index(memory.sampler.draw(5, 128)):
        counts = torch.bincount(drawn, minlength=len(p)).double().view(-1, 2, 2)
        share = p.view(-1, 2, 2)
        expected = 64 * share / share.sum((0, 2), keepdim=True)
        assert float((counts - expected).abs().max()) < 2


@pytest.mark.parametrize("of", [2, 6])
def test_probabilities_are_what_they_say(of: int) -> None:
    memory = make(of=of, horizon=2)
    Player(FakeEnvs(4, "same_step", 1, "repeat", 1)).play(50, memory)
    p = random_errors(memory).view(-1, 4)
    (batch,) = memory.batches(1)
    assert batch.probability is not None
    sums = p.view(-1, 2, 2).sum((0, 2))  # of each shard
    lane = batch.index % 4
    expected = p[batch.index // 4, lane] / sums[lane // 2] / of
    torch.testing.assert_close(batch.probability, expected, rtol=1e-14, atol=0)
    whole = memory.fetch((p.flatten() > 0).nonzero().squeeze(1)).probability
    assert whole is not None
    assert whole.sum().item() == pytest.approx(2 / of), "the shards that are here are 2 of them"


def test_alpha_0_is_uniform_and_alpha_1_proportional() -> None:
    shares = []
    for alpha in (0.0, 1.0):
        memory = make(2, 30, seeds={0: 1}, of=1, alpha=alpha)
        Player(FakeEnvs(2, "same_step", 1, "repeat", 1)).play(40, memory)
        index = priorities(memory).nonzero().squeeze(1)
        memory.reprioritize(index, told(torch.arange(len(index)).double()))
        found = memory.fetch(index).probability
        assert found is not None
        shares.append(found)
    n = len(shares[0])
    assert shares[0].tolist() == pytest.approx([1 / n] * n, rel=1e-12)
    total = n * (n - 1) / 2
    assert shares[1].tolist() == pytest.approx([i / total for i in range(n)], rel=1e-4, abs=1e-7)


def test_priorities_go_back_in_the_order_of_the_batch() -> None:
    memory = make(batch=16)
    Player(FakeEnvs(4, "same_step", 1, "repeat", 2)).play(40, memory)
    (batch,) = memory.batches(1)
    error = torch.arange(1.0, 17.0)
    memory.reprioritize(batch.index, told(error))
    now = priorities(memory)
    for i in batch.index.unique().tolist():
        largest = error[batch.index == i].max().item()  # where it occurs twice
        assert now[i].item() == pytest.approx((largest + EPS) ** ALPHA)
    untouched = torch.ones_like(now, dtype=torch.bool)
    untouched[batch.index] = False
    assert set(now[untouched].tolist()) <= {0.0, (1 + EPS) ** ALPHA}


def test_an_update_counts_for_the_next_batch_of_the_same_step() -> None:
    memory = make(2, 30, seeds={0: 1}, of=1, batch=32, updates=2)
    Player(FakeEnvs(2, "same_step", 1, "repeat", 2)).play(20, memory)
    batches = memory.batches(1)
    first = next(batches)
    error = torch.zeros(32)
    error[0] = 1e9
    memory.reprioritize(first.index, told(error))
    share = (next(batches).index == first.index[0]).float().mean()
    assert share > 0.9


def test_stale_indices_stay_dead() -> None:
    memory = make(4, 16, horizon=3)
    player = Player(FakeEnvs(4, "same_step", 1, "repeat", 3))
    player.play(30, memory)
    (batch,) = memory.batches(1)
    player.play(9, memory)
    before = priorities(memory)
    assert bool((before[batch.index] == 0).any()), "some died meanwhile"
    memory.reprioritize(batch.index, told(torch.full((8,), 50.0)))
    now = priorities(memory)
    assert torch.equal(now == 0, before == 0)
    everything = torch.arange(memory.ring.blank)
    memory.reprioritize(everything, told(torch.ones(len(everything))))
    assert torch.equal(priorities(memory) == 0, before == 0), "nor do rows that hold nothing or wait for their window"


def test_the_highest_is_that_of_all_ranks_and_never_falls() -> None:
    memory = make()
    player = Player(FakeEnvs(4, "same_step", 1, "repeat", 3, ends=0))
    player.play(10, memory)
    index = memory.sampler.index(memory.sampler.draw(1, 8))[0]
    memory.reprioritize(index, UpdateOut(priority=torch.full((8,), 0.1), highest=torch.tensor(7.0)))
    memory.reprioritize(index, UpdateOut(priority=torch.full((8,), 0.2), highest=torch.tensor(3.0)))
    before = priorities(memory)
    player.play(1, memory)
    now = priorities(memory)
    assert now[(before == 0) & (now > 0)].tolist() == [(7 + EPS) ** ALPHA] * 4


@pytest.mark.parametrize("order", [(50.0, 3.0), (3.0, 50.0)])
def test_the_highest_of_replicas_that_differed_is_that_of_all(order: tuple[float, float]) -> None:
    memory = make()
    state = memory.state_dict()
    for part, highest in zip(state.values(), order, strict=True):
        part["sampler"]["highest"] = torch.tensor(highest, dtype=torch.float64)
    memory.load_state_dict(state)
    assert float(sampler_of(memory).highest) == 50


@pytest.mark.parametrize("steps", [0, 9, 75])
def test_state_is_bitwise_and_moves_between_ranks(steps: int) -> None:
    """Two shards saved by one rank continue the same on one, on two, and back on one."""
    seeds = {0: 5, 1: 6}
    one = make(horizon=3, seeds=seeds)
    player = Player(FakeEnvs(4, "same_step", 1, "repeat", 3))
    player.play(steps, one)
    if steps:
        random_errors(one)
    state = copy.deepcopy(one.state_dict())
    two = [make(2, horizon=3, seeds={shard: 99}, batch=4) for shard in seeds]
    for memory in two:
        memory.load_state_dict(state)
    back = make(horizon=3, seeds={0: 98, 1: 97})
    back.load_state_dict({key: value for memory in two for key, value in copy.deepcopy(memory.state_dict()).items()})
    for step in range(40):
        before, choice, after = player.timestep, Choice(torch.arange(4)), player.envs.step()
        for memory in (one, back):
            memory.add(before, choice, after)
        for memory, lanes in zip(two, (slice(0, 2), slice(2, 4)), strict=True):
            parts = (Timestep(*(t[lanes] for t in timestep)) for timestep in (before, after))
            memory.add(next(parts), Choice(choice.action[lanes]), next(parts))
        player.timestep = after
        if steps + step < 8:
            continue
        (joined,), (again,), *halves = (list(m.batches(1)) for m in (one, back, *two))
        for name in ("obs", "action", "ret", "discount", "next_obs", "probability"):
            assert torch.equal(getattr(joined, name), getattr(again, name)), name
            assert torch.equal(getattr(joined, name), torch.cat([getattr(h[0], name) for h in halves])), name
        error = (joined.ret.abs() + step / 10).float()
        for memory, part in ((one, slice(0, 8)), (back, slice(0, 8)), (two[0], slice(0, 4)), (two[1], slice(4, 8))):
            mine = halves[two.index(memory)][0].index if memory in two else joined.index
            memory.reprioritize(mine, UpdateOut(priority=error[part], highest=error.max()))
    for shard, memory in zip("01", two, strict=True):
        for other in (one, back):
            assert torch.equal(memory.state_dict()[shard]["sampler"]["highest"], sampler_of(other).highest)
            assert torch.equal(
                memory.state_dict()[shard]["sampler"]["priority"], other.state_dict()[shard]["sampler"]["priority"]
            )
